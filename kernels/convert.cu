// convert: between f32 and bf16, and sums of matrices and rows
//
// math       convert_narrow: y = x factor scales[col], rounded to nearest even;  convert_widen: y = x;  add_f32: y += x;  add_bias: y += bias[col]
// shapes     x, y [rows, cols] f32 or bf16, each with a stride; scales [cols] f32, or its address is 0 for ones; bias [cols] f32
// launch     elementwise.cuh: 512 packs of `width` values a block, 256 threads; `width` is 1, or 4, for add_bias_bf16 8
// cost       conversions 6 bytes a value; add_f32 12; add_bias 4 in bf16, 8 in f32
// reference  the test, by half's conversions; reference::add_bias
#include "elementwise.cuh"

namespace {

// Of a row that every row of a matrix meets: it stays in a cache.
template <int WIDTH> struct Floats {
    float values[WIDTH];

    __device__ __forceinline__ explicit Floats(const float* from) {
        constexpr int COUNT = WIDTH < 4 ? WIDTH : 4;
        UNROLL for (int first = 0; first < WIDTH; first += COUNT) {
            const Pack<float, COUNT> pack = load_pack<COUNT>(from + first);
            UNROLL for (int at = 0; at < COUNT; at++) {
                values[first + at] = pack.values[at];
            }
        }
    }
};

template <int WIDTH>
__device__ __forceinline__ void narrow_all(const float* x, int x_stride, bf16* y, int y_stride, const float* scales, float factor,
                                           int rows, int cols) {
    const auto load = [=](int64_t row, int col) { return load_pack<WIDTH>(x + row * x_stride + col); };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, Pack<float, WIDTH> pack) {
        if (scales != nullptr) {
            const Floats<WIDTH> of_columns(scales + col);
            UNROLL for (int at = 0; at < WIDTH; at++) {
                pack.values[at] *= of_columns.values[at];
            }
        }
        Pack<bf16, WIDTH> rounded;
        UNROLL for (int at = 0; at < WIDTH; at++) {
            rounded.values[at] = narrow<bf16>(pack.values[at] * factor);
        }
        store_pack(y + row * y_stride + col, rounded);
    });
}

template <int WIDTH>
__device__ __forceinline__ void widen_all(const bf16* x, int x_stride, float* y, int y_stride, int rows, int cols) {
    const auto load = [=](int64_t row, int col) { return load_pack<WIDTH>(x + row * x_stride + col); };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, const Pack<bf16, WIDTH>& pack) {
        Pack<float, WIDTH> wide;
        UNROLL for (int at = 0; at < WIDTH; at++) {
            wide.values[at] = widen(pack.values[at]);
        }
        store_pack(y + row * y_stride + col, wide);
    });
}

template <int WIDTH>
__device__ __forceinline__ void add(const float* x, int x_stride, float* y, int y_stride, int rows, int cols) {
    struct Terms {
        Pack<float, WIDTH> x, y;
    };
    const auto load = [=](int64_t row, int col) {
        const float* before = y;
        return Terms{load_pack<WIDTH>(x + row * x_stride + col), load_pack<WIDTH>(before + row * y_stride + col)};
    };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, Terms terms) {
        UNROLL for (int at = 0; at < WIDTH; at++) {
            terms.y.values[at] += terms.x.values[at];
        }
        store_pack(y + row * y_stride + col, terms.y);
    });
}

template <int WIDTH, typename T>
__device__ __forceinline__ void add_bias(T* y, int y_stride, const float* bias, int rows, int cols) {
    const auto load = [=](int64_t row, int col) {
        const T* before = y;
        return load_pack<WIDTH>(before + row * y_stride + col);
    };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, Pack<T, WIDTH> pack) {
        const Floats<WIDTH> of_columns(bias + col);
        UNROLL for (int at = 0; at < WIDTH; at++) {
            pack.values[at] = narrow<T>(widen(pack.values[at]) + of_columns.values[at]);
        }
        store_pack(y + row * y_stride + col, pack);
    });
}

} // namespace

KERNEL(256) void convert_narrow(const float* x, int x_stride, bf16* y, int y_stride, const float* scales, float factor, int rows,
                                int cols, int width) {
    if (width == 4) {
        narrow_all<4>(x, x_stride, y, y_stride, scales, factor, rows, cols);
    } else {
        narrow_all<1>(x, x_stride, y, y_stride, scales, factor, rows, cols);
    }
}

KERNEL(256) void convert_widen(const bf16* x, int x_stride, float* y, int y_stride, int rows, int cols, int width) {
    if (width == 4) {
        widen_all<4>(x, x_stride, y, y_stride, rows, cols);
    } else {
        widen_all<1>(x, x_stride, y, y_stride, rows, cols);
    }
}

KERNEL(256) void add_f32(const float* x, int x_stride, float* y, int y_stride, int rows, int cols, int width) {
    if (width == 4) {
        add<4>(x, x_stride, y, y_stride, rows, cols);
    } else {
        add<1>(x, x_stride, y, y_stride, rows, cols);
    }
}

KERNEL(256) void add_bias_bf16(bf16* y, int y_stride, const float* bias, int rows, int cols, int width) {
    if (width == 8) {
        add_bias<8>(y, y_stride, bias, rows, cols);
    } else {
        add_bias<1>(y, y_stride, bias, rows, cols);
    }
}

KERNEL(256) void add_bias_f32(float* y, int y_stride, const float* bias, int rows, int cols, int width) {
    if (width == 4) {
        add_bias<4>(y, y_stride, bias, rows, cols);
    } else {
        add_bias<1>(y, y_stride, bias, rows, cols);
    }
}
