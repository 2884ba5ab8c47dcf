// quantize_rows: row-wise absmax codes in 8 bits, bit for bit as bitsandbytes makes them
//
// math       absmax[o] = max |h(W[o, i])|, codes[o, i] = round(h(W[o, i]) * (1 / absmax[o] * 127)), ties to even; h rounds to f16
// shapes     W [rows, cols] f32, bf16 or f16 -> codes [rows, cols] i8, absmax [rows] f32
// launch     a block a row, 256 threads, no dynamic shared memory; any number of columns
// cost       4 FLOP and 3 to 5 bytes a value (a row is read twice, the second time from a cache)
// reference  reference::quantize_rows
// source     Dettmers et al. 2022, arXiv:2208.07339
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

// As f16 holds it: bitsandbytes casts a weight before it quantises, so this is part of the definition.
__device__ __forceinline__ float as_f16(float value) { return __half2float(__float2half_rn(value)); }
__device__ __forceinline__ float as_f16(bf16 value) { return as_f16(widen(value)); }
__device__ __forceinline__ float as_f16(__half value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ void quantize_row(const T* weights, int8_t* codes, float* absmax, int cols) {
    __shared__ float scratch[WARP];
    weights += static_cast<int64_t>(blockIdx.x) * cols;
    codes += static_cast<int64_t>(blockIdx.x) * cols;
    float largest = 0.0f;
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        const float magnitude = fabsf(as_f16(weights[col]));
        // A maximum passes over NaN: it counts as infinite, so that such a row shows.
        largest = fmaxf(largest, magnitude <= 65504.0f ? magnitude : INFINITY);
    }
    largest = block_max(largest, scratch);
    if (threadIdx.x == 0) {
        absmax[blockIdx.x] = largest;
    }
    // Rounded twice, as PyTorch does it. A row of zeros has no scale.
    const float factor = largest == 0.0f ? 0.0f : __fmul_rn(1.0f / largest, 127.0f);
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        codes[col] = static_cast<int8_t>(__float2int_rn(__fmul_rn(as_f16(weights[col]), factor)));
    }
}

} // namespace

KERNEL(256) void quantize_rows_f32(const float* weights, int8_t* codes, float* absmax, int cols) {
    quantize_row(weights, codes, absmax, cols);
}

KERNEL(256) void quantize_rows_bf16(const bf16* weights, int8_t* codes, float* absmax, int cols) {
    quantize_row(weights, codes, absmax, cols);
}

KERNEL(256) void quantize_rows_f16(const __half* weights, int8_t* codes, float* absmax, int cols) {
    quantize_row(weights, codes, absmax, cols);
}
