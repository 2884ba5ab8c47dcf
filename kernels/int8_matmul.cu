// int8_matmul: products of a few rows, as in generation, with 8-bit codes: as fast as the codes are read
//
// math       y[t, o] = row_scale[o] * sum_i x[t, i] * codes[o, i] (+ residual[t, o], last), summed in f32; codes are exact in bf16 and f32;
//            gated: of two matrices silu(gate) * up, both rounded to bf16 first, as swiglu does; three: of three matrices a y each
// shapes     x [rows, in] bf16 with `x_stride` from row to row, codes [out, in] i8, row_scale [out] f32, residual [rows, out] f32 or null
//            -> y [rows, out] bf16 or f32; rows <= 64, in % 16 == 0, x_stride % 8 == 0
// launch     up to 4 rows, int8_matmul_{1,2,4}, int8_matmul_gated_{1,2,4} and int8_matmul_three_{1,2,4}: a block of 128 threads for 4 outputs
//            (gated: of each matrix), grid (out / 4) rounded up (three: the sum of these), no dynamic shared memory;
//            5 to 64 rows, int8_matmul_{16,32,64}: 128 threads, grid (out / 128 rounded up, splits), 4 stages of 8 KiB and 128 bytes a row
//            (40, 48, 64 KiB), then int8_matmul_sum: a thread a value
// cost       2 * rows * out * in FLOP; out * in + 2 * rows * in + 4 * rows * out bytes (5 rows and more: 8 * splits * rows * out bytes
//            besides, which stay in the L2 cache); 2 instructions to convert a code, and one for each of up to 4 rows
// bits       a row's result does not depend on the other rows, nor on how many there are, among 1 to 4 and among 5 to 64: the order of
//            its sum is given by `in` and `out`. Between the two it differs in the last bits
// reference  reference::linear, reference::swiglu
// source     row-wise absmax: Dettmers et al. 2022, arXiv:2208.07339
#include "int8.cuh"

namespace {

// Up to 4 rows: multiplications on the ordinary units, which keep up with memory up to there. (With 8 rows they would take 10
// instructions a code; an SM of an H100 has 9 in the time in which its share of the memory brings one.)
//
// All warps of a block have the same outputs and each a share of the inner axis, so that a matrix of 4,096 outputs is on its way
// at once, in 1,024 blocks. A value of x is used by one thread of a block: it comes through the cache and not through shared
// memory, and the first codes need not wait for a barrier.
constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;
constexpr int OUTPUTS = 4;
constexpr int LOAD = 16;

__device__ __forceinline__ void put(bf16* y, int64_t at, float value, const float*) { y[at] = narrow<bf16>(value); }
__device__ __forceinline__ void put(float* y, int64_t at, float value, const float* residual) {
    y[at] = residual ? value + residual[at] : value;
}

// The outputs from `first` on; `finish(row, output, sums)` has a sum for each matrix.
template <int MATRICES, int ROWS, typename Finish>
__device__ __forceinline__ void few_rows(const bf16* x, const int8_t* const (&codes)[MATRICES], int first, int rows, int out, int in,
                                         int x_stride, Finish finish) {
    constexpr int COLUMNS = MATRICES * OUTPUTS;
    __shared__ float shares[WARPS][COLUMNS * ROWS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float sums[COLUMNS][ROWS] = {};
    for (int k = LOAD * threadIdx.x; k < in; k += LOAD * THREADS) {
        Pack<uint32_t, 4> words[COLUMNS];
        UNROLL for (int column = 0; column < COLUMNS; column++) {
            // Outputs and rows that there are not repeat the last: what comes of them is left out.
            const int64_t o = min(first + column % OUTPUTS, out - 1);
            words[column] = load_once(codes[column / OUTPUTS] + o * in + k);
        }
        UNROLL for (int half = 0; half < 2; half++) {
            float values[ROWS][8];
            UNROLL for (int row = 0; row < ROWS; row++) {
                const auto pack = load_pack<8>(x + static_cast<int64_t>(min(row, rows - 1)) * x_stride + k + 8 * half);
                UNROLL for (int at = 0; at < 8; at++) {
                    values[row][at] = widen(pack.values[at]);
                }
            }
            UNROLL for (int column = 0; column < COLUMNS; column++) {
                UNROLL for (int at = 0; at < 8; at++) {
                    const float code = code_at(words[column].values[2 * half + at / 4], at % 4);
                    UNROLL for (int row = 0; row < ROWS; row++) {
                        sums[column][row] = __fmaf_rn(code, values[row][at], sums[column][row]);
                    }
                }
            }
        }
    }
    UNROLL for (int column = 0; column < COLUMNS; column++) {
        UNROLL for (int row = 0; row < ROWS; row++) {
            const float sum = warp_sum(sums[column][row]);
            if (lane == 0) {
                shares[warp][column * ROWS + row] = sum;
            }
        }
    }
    __syncthreads();
    const int row = threadIdx.x / OUTPUTS, o = threadIdx.x % OUTPUTS;
    if (row < rows && first + o < out) {
        float totals[MATRICES] = {};
        UNROLL for (int from = 0; from < WARPS; from++) {
            UNROLL for (int matrix = 0; matrix < MATRICES; matrix++) {
                totals[matrix] += shares[from][(matrix * OUTPUTS + o) * ROWS + row];
            }
        }
        finish(row, first + o, totals);
    }
}

template <int ROWS, typename T>
__device__ __forceinline__ void plain(const bf16* x, const int8_t* codes, const float* row_scale, T* y, const float* residual, int first,
                                      int rows, int out, int in, int x_stride) {
    const int8_t* const matrices[1] = {codes};
    few_rows<1, ROWS>(x, matrices, first, rows, out, in, x_stride, [=](int row, int o, const float (&sums)[1]) {
        put(y, static_cast<int64_t>(row) * out + o, __fmul_rn(sums[0], row_scale[o]), residual);
    });
}

template <int ROWS>
__device__ __forceinline__ void gated(const bf16* x, const int8_t* gate, const float* gate_scale, const int8_t* up, const float* up_scale,
                                      bf16* y, int rows, int out, int in, int x_stride) {
    const int8_t* const matrices[2] = {gate, up};
    few_rows<2, ROWS>(x, matrices, blockIdx.x * OUTPUTS, rows, out, in, x_stride, [=](int row, int o, const float (&sums)[2]) {
        const float value = widen(narrow<bf16>(__fmul_rn(sums[0], gate_scale[o])));
        const float factor = widen(narrow<bf16>(__fmul_rn(sums[1], up_scale[o])));
        y[static_cast<int64_t>(row) * out + o] = narrow<bf16>(value * sigmoid(value) * factor);
    });
}

struct Matrix {
    const int8_t* codes;
    const float* row_scale;
    float* y;
    int out;
};

template <int ROWS> __device__ __forceinline__ void three(const bf16* x, Matrix a, Matrix b, Matrix c, int rows, int in, int x_stride) {
    const int blocks_a = (a.out + OUTPUTS - 1) / OUTPUTS, blocks_b = (b.out + OUTPUTS - 1) / OUTPUTS;
    int block = blockIdx.x;
    Matrix of = a;
    if (block >= blocks_a + blocks_b) {
        block -= blocks_a + blocks_b;
        of = c;
    } else if (block >= blocks_a) {
        block -= blocks_a;
        of = b;
    }
    const float* none = nullptr;
    plain<ROWS>(x, of.codes, of.row_scale, of.y, none, block * OUTPUTS, rows, of.out, in, x_stride);
}

// 5 to 64 rows: tensor cores. The inner axis is split over blocks, and their sums are added in order by a second kernel.
constexpr int STAGES = 4;

template <int ROWS>
__device__ __forceinline__ void share(const bf16* x, const int8_t* codes, float* shares, int rows, int out, int in, int x_stride, int split_chunks) {
    using Shape = tile::Shape<ROWS, 1>;
    static_assert(Shape::THREADS == THREADS);
    DYNAMIC_SHARED(unsigned char, stages);
    const int chunks = (in + tile::INNER - 1) / tile::INNER;
    const int first = blockIdx.y * split_chunks;
    const tile::Forward<Shape> operands = {x, codes, rows, out, in, x_stride, 0, static_cast<int>(blockIdx.x) * tile::FEATURES};
    typename tile::Forward<Shape>::Sums sums = {};
    tile::multiply<Shape, STAGES>(sums, operands, stages, first, min(first + split_chunks, chunks));
    shares += static_cast<int64_t>(blockIdx.y) * rows * out;
    operands.each(sums, [&](int row, int o, float sum) {
        if (row < rows && o < out) {
            shares[static_cast<int64_t>(row) * out + o] = sum;
        }
    });
}

template <typename T>
__device__ __forceinline__ void sum_shares(const float* shares, const float* row_scale, T* y, const float* residual, int count, int out, int splits) {
    const int at = blockIdx.x * THREADS + threadIdx.x;
    if (at < count) {
        float sum = 0.0f;
        for (int split = 0; split < splits; split++) {
            sum += shares[static_cast<int64_t>(split) * count + at];
        }
        put(y, at, __fmul_rn(sum, row_scale[at % out]), residual);
    }
}

} // namespace

KERNEL(128) void int8_matmul_1_bf16(const bf16* x, const int8_t* codes, const float* row_scale, bf16* y, int rows, int out, int in, int x_stride) {
    plain<1>(x, codes, row_scale, y, nullptr, blockIdx.x * OUTPUTS, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_2_bf16(const bf16* x, const int8_t* codes, const float* row_scale, bf16* y, int rows, int out, int in, int x_stride) {
    plain<2>(x, codes, row_scale, y, nullptr, blockIdx.x * OUTPUTS, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_4_bf16(const bf16* x, const int8_t* codes, const float* row_scale, bf16* y, int rows, int out, int in, int x_stride) {
    plain<4>(x, codes, row_scale, y, nullptr, blockIdx.x * OUTPUTS, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_1_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, const float* residual, int rows, int out, int in,
                                   int x_stride) {
    plain<1>(x, codes, row_scale, y, residual, blockIdx.x * OUTPUTS, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_2_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, const float* residual, int rows, int out, int in,
                                   int x_stride) {
    plain<2>(x, codes, row_scale, y, residual, blockIdx.x * OUTPUTS, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_4_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, const float* residual, int rows, int out, int in,
                                   int x_stride) {
    plain<4>(x, codes, row_scale, y, residual, blockIdx.x * OUTPUTS, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_gated_1(const bf16* x, const int8_t* gate, const float* gate_scale, const int8_t* up, const float* up_scale, bf16* y,
                                     int rows, int out, int in, int x_stride) {
    gated<1>(x, gate, gate_scale, up, up_scale, y, rows, out, in, x_stride);
}

// Left to itself the compiler aims at more blocks for sm_80, and spills.
KERNEL(128, 4) void int8_matmul_gated_2(const bf16* x, const int8_t* gate, const float* gate_scale, const int8_t* up, const float* up_scale, bf16* y,
                                     int rows, int out, int in, int x_stride) {
    gated<2>(x, gate, gate_scale, up, up_scale, y, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_gated_4(const bf16* x, const int8_t* gate, const float* gate_scale, const int8_t* up, const float* up_scale, bf16* y,
                                     int rows, int out, int in, int x_stride) {
    gated<4>(x, gate, gate_scale, up, up_scale, y, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_three_1(const bf16* x, const int8_t* codes_a, const float* scale_a, float* y_a, int out_a, const int8_t* codes_b,
                                     const float* scale_b, float* y_b, int out_b, const int8_t* codes_c, const float* scale_c, float* y_c,
                                     int out_c, int rows, int in, int x_stride) {
    three<1>(x, {codes_a, scale_a, y_a, out_a}, {codes_b, scale_b, y_b, out_b}, {codes_c, scale_c, y_c, out_c}, rows, in, x_stride);
}

KERNEL(128) void int8_matmul_three_2(const bf16* x, const int8_t* codes_a, const float* scale_a, float* y_a, int out_a, const int8_t* codes_b,
                                     const float* scale_b, float* y_b, int out_b, const int8_t* codes_c, const float* scale_c, float* y_c,
                                     int out_c, int rows, int in, int x_stride) {
    three<2>(x, {codes_a, scale_a, y_a, out_a}, {codes_b, scale_b, y_b, out_b}, {codes_c, scale_c, y_c, out_c}, rows, in, x_stride);
}

KERNEL(128) void int8_matmul_three_4(const bf16* x, const int8_t* codes_a, const float* scale_a, float* y_a, int out_a, const int8_t* codes_b,
                                     const float* scale_b, float* y_b, int out_b, const int8_t* codes_c, const float* scale_c, float* y_c,
                                     int out_c, int rows, int in, int x_stride) {
    three<4>(x, {codes_a, scale_a, y_a, out_a}, {codes_b, scale_b, y_b, out_b}, {codes_c, scale_c, y_c, out_c}, rows, in, x_stride);
}

KERNEL(128) void int8_matmul_16(const bf16* x, const int8_t* codes, float* shares, int rows, int out, int in, int x_stride, int split_chunks) {
    share<16>(x, codes, shares, rows, out, in, x_stride, split_chunks);
}

KERNEL(128) void int8_matmul_32(const bf16* x, const int8_t* codes, float* shares, int rows, int out, int in, int x_stride, int split_chunks) {
    share<32>(x, codes, shares, rows, out, in, x_stride, split_chunks);
}

KERNEL(128) void int8_matmul_64(const bf16* x, const int8_t* codes, float* shares, int rows, int out, int in, int x_stride, int split_chunks) {
    share<64>(x, codes, shares, rows, out, in, x_stride, split_chunks);
}

KERNEL(128) void int8_matmul_sum_bf16(const float* shares, const float* row_scale, bf16* y, int count, int out, int splits) {
    sum_shares(shares, row_scale, y, nullptr, count, out, splits);
}

KERNEL(128) void int8_matmul_sum_f32(const float* shares, const float* row_scale, float* y, const float* residual, int count, int out, int splits) {
    sum_shares(shares, row_scale, y, residual, count, out, splits);
}
