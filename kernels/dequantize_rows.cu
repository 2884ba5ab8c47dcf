// dequantize_rows: 8-bit codes as bf16, for a product of many rows by a library
//
// math       W[o, i] = bf16(codes[o, i] * row_scale[o])
// shapes     codes [rows, cols] i8, row_scale [rows] f32 -> W [rows, cols] bf16 with `stride` from row to row; what is between rows stays
// launch     dequantize_rows: cols % 8 == 0 and stride % 8 == 0, 256 threads, a block for 8,192 values, grid (rows * cols / 8,192) rounded up;
//            dequantize_rows_unaligned: a block a row, 256 threads, any number of columns
// cost       3 bytes a value, and 3 instructions: as fast as memory
// reference  reference::quantize_rows, whose codes times scales it gives
// source     Dettmers et al. 2022, arXiv:2208.07339
#include "int8.cuh"

namespace {

constexpr int THREADS = 256;
// A thread's loads that are on their way at once.
constexpr int LOADS = 4;
// 8 codes are a load of 8 bytes and a store of 16. With 16 codes a thread would store twice, and a warp's stores would each fill
// only every second half of a sector.
constexpr int PACK = 8;

} // namespace

KERNEL(256) void dequantize_rows(const int8_t* codes, const float* row_scale, bf16* to, int packs, int packs_in_row, int stride) {
    const unsigned first = blockIdx.x * THREADS * LOADS + threadIdx.x;
    const unsigned end = packs;
    Pack<uint32_t, 2> words[LOADS];
    float scales[LOADS];
    UNROLL for (int load = 0; load < LOADS; load++) {
        const unsigned pack = first + load * THREADS;
        if (pack < end) {
            words[load] = load_pack<2>(reinterpret_cast<const uint32_t*>(codes) + 2 * static_cast<int64_t>(pack));
            scales[load] = row_scale[pack / packs_in_row];
        }
    }
    UNROLL for (int load = 0; load < LOADS; load++) {
        const unsigned pack = first + load * THREADS;
        if (pack < end) {
            Pack<bf16, PACK> values;
            UNROLL for (int at = 0; at < PACK; at++) {
                values.values[at] = narrow<bf16>(code_at(words[load].values[at / 4], at % 4) * scales[load]);
            }
            const unsigned row = pack / packs_in_row, col = PACK * (pack % packs_in_row);
            store_pack(to + static_cast<int64_t>(row) * stride + col, values);
        }
    }
}

KERNEL(256) void dequantize_rows_unaligned(const int8_t* codes, const float* row_scale, bf16* to, int cols, int stride) {
    codes += static_cast<int64_t>(blockIdx.x) * cols;
    to += static_cast<int64_t>(blockIdx.x) * stride;
    const float scale = row_scale[blockIdx.x];
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        to[col] = narrow<bf16>(static_cast<float>(codes[col]) * scale);
    }
}
