// rms_norm: y = x / rms(x) * weight, rms(x) = sqrt(mean(x^2) + eps); and its gradient
//
// math       r = 1 / rms(x): y = x r weight;  g = dy weight: dx += r (g - x r^2 mean(g x))
// shapes     x, dx [rows, cols] f32, weight [cols] f32, y [rows, cols] bf16 with `stride` from row to row, dy [rows, cols] f32 or bf16
// launch     a block a row, 256 threads, no dynamic shared memory; any number of columns
// cost       forward 4 FLOP and 6 bytes a value (x is read twice, the second time from a cache); backward 8 FLOP, 12 to 14 bytes
// reference  reference::rms_norm, reference::rms_norm_backward
// source     Zhang, Sennrich 2019, arXiv:1910.07467
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

// 1 / rms of a row, in every thread.
__device__ __forceinline__ float inverse_rms(const float* x, int cols, float eps, float* scratch) {
    float squares = 0.0f;
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        squares += x[col] * x[col];
    }
    return rsqrtf(block_sum(squares, scratch) / static_cast<float>(cols) + eps);
}

template <typename T>
__device__ __forceinline__ void backward_row(const T* dy, const float* x, const float* weight, float* dx, int cols, float eps) {
    __shared__ float scratch[WARP];
    const float inverse = inverse_rms(x, cols, eps, scratch);
    float products = 0.0f;
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        products += widen(dy[col]) * weight[col] * x[col];
    }
    const float mean = block_sum(products, scratch) / static_cast<float>(cols);
    const float share = inverse * inverse * mean;
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        dx[col] += inverse * (widen(dy[col]) * weight[col] - x[col] * share);
    }
}

} // namespace

KERNEL(256) void rms_norm_forward(const float* x, const float* weight, bf16* y, int cols, int stride, float eps) {
    __shared__ float scratch[WARP];
    x += static_cast<int64_t>(blockIdx.x) * cols;
    y += static_cast<int64_t>(blockIdx.x) * stride;
    const float inverse = inverse_rms(x, cols, eps, scratch);
    for (int col = threadIdx.x; col < cols; col += THREADS) {
        y[col] = narrow<bf16>(x[col] * inverse * weight[col]);
    }
}

KERNEL(256) void rms_norm_backward_bf16(const bf16* dy, const float* x, const float* weight, float* dx, int cols, float eps) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * cols;
    backward_row(dy + first, x + first, weight, dx + first, cols, eps);
}

KERNEL(256) void rms_norm_backward_f32(const float* dy, const float* x, const float* weight, float* dx, int cols, float eps) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * cols;
    backward_row(dy + first, x + first, weight, dx + first, cols, eps);
}
