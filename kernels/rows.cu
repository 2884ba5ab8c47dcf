// rows: rows of a matrix by their numbers
//
// math       gather: y[i] = x[ids[i]];  scatter: y[ids[i]] = x[i], where no number occurs twice
// shapes     gather_bf16: x [.., cols] bf16 -> y [rows, cols] f32 (an embedding); gather_f32, scatter_f32: both f32; ids [rows]
// launch     elementwise.cuh: 512 packs of `width` (4 or 1) values a block, 256 threads
// cost       6 bytes a value from bf16, 8 from f32
// reference  Tensor::gather_rows
#include "elementwise.cuh"

namespace {

template <int WIDTH, typename T>
__device__ __forceinline__ void gather(const T* x, int x_stride, float* y, int y_stride, const uint32_t* ids, int rows, int cols) {
    const auto load = [=](int64_t row, int col) { return load_pack<WIDTH>(x + static_cast<int64_t>(ids[row]) * x_stride + col); };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, const Pack<T, WIDTH>& pack) {
        Pack<float, WIDTH> wide;
        UNROLL for (int at = 0; at < WIDTH; at++) {
            wide.values[at] = widen(pack.values[at]);
        }
        store_pack(y + row * y_stride + col, wide);
    });
}

template <int WIDTH>
__device__ __forceinline__ void scatter(const float* x, int x_stride, float* y, int y_stride, const uint32_t* ids, int rows, int cols) {
    const auto load = [=](int64_t row, int col) { return load_pack<WIDTH>(x + row * x_stride + col); };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, const Pack<float, WIDTH>& pack) {
        store_pack(y + static_cast<int64_t>(ids[row]) * y_stride + col, pack);
    });
}

} // namespace

KERNEL(256) void gather_bf16(const bf16* x, int x_stride, float* y, int y_stride, const uint32_t* ids, int rows, int cols, int width) {
    if (width == 4) {
        gather<4>(x, x_stride, y, y_stride, ids, rows, cols);
    } else {
        gather<1>(x, x_stride, y, y_stride, ids, rows, cols);
    }
}

KERNEL(256) void gather_f32(const float* x, int x_stride, float* y, int y_stride, const uint32_t* ids, int rows, int cols, int width) {
    if (width == 4) {
        gather<4>(x, x_stride, y, y_stride, ids, rows, cols);
    } else {
        gather<1>(x, x_stride, y, y_stride, ids, rows, cols);
    }
}

KERNEL(256) void scatter_f32(const float* x, int x_stride, float* y, int y_stride, const uint32_t* ids, int rows, int cols, int width) {
    if (width == 4) {
        scatter<4>(x, x_stride, y, y_stride, ids, rows, cols);
    } else {
        scatter<1>(x, x_stride, y, y_stride, ids, rows, cols);
    }
}
