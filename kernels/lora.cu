// lora: the low-rank factor beside the full one, so that [x | down] [W | scaling B]^T is one product
//
// math       y[row][..rank] = scaling values[row], rounded to nearest even;  y[row][rank..cols] = 0
// shapes     values [rows, rank] f32 (B [out, rank], or down [tokens, rank]) -> y [rows, cols] bf16, cols >= rank, both with a stride: columns
//            of a wider matrix, whose products ask for a multiple of some width
// launch     elementwise.cuh: 512 packs of `width` (4 or 1) values a block, 256 threads
// cost       4 bytes a value read, 2 a value or zero written: small beside the product that it serves
// reference  the test, by half's conversion
// source     Hu et al. 2021, arXiv:2106.09685, eq. 3
#include "elementwise.cuh"

namespace {

template <int WIDTH>
__device__ __forceinline__ void columns(const float* values, int values_stride, bf16* y, int y_stride, int rank, float scaling, int rows,
                                        int cols) {
    // A pack lies on one side of `rank`, which is a multiple of WIDTH.
    const auto load = [=](int64_t row, int col) {
        return col < rank ? load_pack<WIDTH>(values + row * values_stride + col) : Pack<float, WIDTH>{};
    };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, const Pack<float, WIDTH>& pack) {
        Pack<bf16, WIDTH> rounded;
        UNROLL for (int at = 0; at < WIDTH; at++) {
            // Zero whatever the scaling is.
            rounded.values[at] = narrow<bf16>(col < rank ? scaling * pack.values[at] : 0.0f);
        }
        store_pack(y + row * y_stride + col, rounded);
    });
}

} // namespace

KERNEL(256) void lora_columns(const float* values, int values_stride, bf16* y, int y_stride, int rank, float scaling, int rows,
                              int cols, int width) {
    if (width == 4) {
        columns<4>(values, values_stride, y, y_stride, rank, scaling, rows, cols);
    } else {
        columns<1>(values, values_stride, y, y_stride, rank, scaling, rows, cols);
    }
}
