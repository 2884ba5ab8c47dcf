// int8_matmul: products of a few rows, as in generation, with 8-bit codes: as fast as the codes are read
//
// math       y[t, o] = row_scale[o] * sum_i x[t, i] * codes[o, i] (+ residual[t, o], last), summed in f32; codes are exact in bf16 and f32
// shapes     x [rows, in] bf16 with `x_stride` from row to row, codes [out, in] i8, row_scale [out] f32, residual [rows, out] f32 or null
//            -> y [rows, out] bf16 or f32; rows <= 64, in % 16 == 0, x_stride % 8 == 0
// launch     up to 4 rows, int8_matmul_{1,2,4}: a block of 128 threads for 4 outputs, grid (out / 4) rounded up, no dynamic shared memory;
//            5 to 64 rows, int8_matmul_{16,32,64}: 128 threads, grid (out / 128 rounded up, splits), 4 stages of 8 KiB and 128 bytes a row
//            (40, 48, 64 KiB), then int8_matmul_sum: a thread a value
// cost       2 * rows * out * in FLOP; out * in + 2 * rows * in + 4 * rows * out bytes (5 rows and more: 8 * splits * rows * out bytes
//            besides, which stay in the L2 cache); 2 instructions to convert a code, and one for each of up to 4 rows
// bits       a row's result does not depend on the other rows, nor on how many there are, among 1 to 4 and among 5 to 64: the order of
//            its sum is given by `in` and `out`. Between the two it differs in the last bits
// reference  reference::linear
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

template <int ROWS, typename T>
__device__ __forceinline__ void few_rows(const bf16* x, const int8_t* codes, const float* row_scale, T* y, const float* residual, int rows,
                                         int out, int in, int x_stride) {
    __shared__ float shares[WARPS][OUTPUTS * ROWS];
    const int first = blockIdx.x * OUTPUTS;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float sums[OUTPUTS][ROWS] = {};
    for (int k = LOAD * threadIdx.x; k < in; k += LOAD * THREADS) {
        Pack<uint32_t, 4> words[OUTPUTS];
        UNROLL for (int o = 0; o < OUTPUTS; o++) {
            // Outputs and rows that there are not repeat the last: what comes of them is left out.
            words[o] = load_once(codes + static_cast<int64_t>(min(first + o, out - 1)) * in + k);
        }
        UNROLL for (int half = 0; half < 2; half++) {
            float values[ROWS][8];
            UNROLL for (int row = 0; row < ROWS; row++) {
                const auto pack = load_pack<8>(x + static_cast<int64_t>(min(row, rows - 1)) * x_stride + k + 8 * half);
                UNROLL for (int at = 0; at < 8; at++) {
                    values[row][at] = widen(pack.values[at]);
                }
            }
            UNROLL for (int o = 0; o < OUTPUTS; o++) {
                UNROLL for (int at = 0; at < 8; at++) {
                    const float code = code_at(words[o].values[2 * half + at / 4], at % 4);
                    UNROLL for (int row = 0; row < ROWS; row++) {
                        sums[o][row] = __fmaf_rn(code, values[row][at], sums[o][row]);
                    }
                }
            }
        }
    }
    UNROLL for (int o = 0; o < OUTPUTS; o++) {
        UNROLL for (int row = 0; row < ROWS; row++) {
            const float sum = warp_sum(sums[o][row]);
            if (lane == 0) {
                shares[warp][o * ROWS + row] = sum;
            }
        }
    }
    __syncthreads();
    const int row = threadIdx.x / OUTPUTS, o = threadIdx.x % OUTPUTS;
    if (row < rows && first + o < out) {
        float sum = 0.0f;
        UNROLL for (int from = 0; from < WARPS; from++) {
            sum += shares[from][o * ROWS + row];
        }
        put(y, static_cast<int64_t>(row) * out + first + o, __fmul_rn(sum, row_scale[first + o]), residual);
    }
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
    few_rows<1>(x, codes, row_scale, y, nullptr, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_2_bf16(const bf16* x, const int8_t* codes, const float* row_scale, bf16* y, int rows, int out, int in, int x_stride) {
    few_rows<2>(x, codes, row_scale, y, nullptr, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_4_bf16(const bf16* x, const int8_t* codes, const float* row_scale, bf16* y, int rows, int out, int in, int x_stride) {
    few_rows<4>(x, codes, row_scale, y, nullptr, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_1_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, const float* residual, int rows, int out, int in,
                                   int x_stride) {
    few_rows<1>(x, codes, row_scale, y, residual, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_2_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, const float* residual, int rows, int out, int in,
                                   int x_stride) {
    few_rows<2>(x, codes, row_scale, y, residual, rows, out, in, x_stride);
}

KERNEL(128) void int8_matmul_4_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, const float* residual, int rows, int out, int in,
                                   int x_stride) {
    few_rows<4>(x, codes, row_scale, y, residual, rows, out, in, x_stride);
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
