// int8_gemm: products of many tokens with 8-bit codes on tensor cores, without a copy of the weight in 16 bits
//
// math       forward: y[t, o] = row_scale[o] * sum_i x[t, i] * codes[o, i];  backward: dx[t, i] = sum_o dy[t, o] * codes[o, i], where dy is the
//            gradient of y times row_scale[o]: whoever rounds it to bf16 folds the scale in, once and not for every tile that reads it.
//            `adds`: y +=, dx += instead. Codes are exact in bf16, sums are f32
// shapes     x [tokens, in] bf16 with `x_stride` from row to row, codes [out, in] i8, row_scale [out] f32 -> y [tokens, out] bf16 or f32;
//            dy [tokens, out] bf16 with `dy_stride` -> dx [tokens, in]; in % 16 == 0, strides % 8 == 0; tokens and out are any
// launch     grid (tokens / 128, features / 128) rounded up, features being out (backward: in); 256 threads, 72 KiB dynamic shared memory.
//            Blocks that run at the same time share features, so that codes are read once
// cost       2 * tokens * out * in FLOP; out * in + 2 * tokens * (in + out) bytes, and 2 instructions to convert a code for each 64 tokens
// reference  reference::linear, reference::linear_backward
// source     row-wise absmax: Dettmers et al. 2022, arXiv:2208.07339
#include "int8.cuh"

namespace {

constexpr int TOKENS = 128;
constexpr int STAGES = 3;
using Shape = tile::Shape<TOKENS, 2>;
static_assert(Shape::THREADS == 256 && STAGES * Shape::STAGE_BYTES == 72 * 1024, "as the wrapper launches it");

// Writes neighbours, or adds to them.
template <typename T, int COUNT> __device__ __forceinline__ void put(T* to, Pack<float, COUNT> values, int adds) {
    Pack<T, COUNT> result;
    if (adds) {
        result = load_pack<COUNT>(to);
    }
    UNROLL for (int at = 0; at < COUNT; at++) {
        result.values[at] = narrow<T>(adds ? widen(result.values[at]) + values.values[at] : values.values[at]);
    }
    store_pack(to, result);
}

template <typename T>
__device__ __forceinline__ void forward(const bf16* x, const int8_t* codes, const float* row_scale, T* y, int tokens, int out, int in,
                                        int x_stride, int adds) {
    DYNAMIC_SHARED(unsigned char, stages);
    const int first_token = blockIdx.x * TOKENS, first_feature = blockIdx.y * tile::FEATURES;
    const tile::Forward<Shape> operands = {x, codes, tokens, out, in, x_stride, first_token, first_feature};
    tile::Forward<Shape>::Sums sums = {};
    tile::multiply<Shape, STAGES>(sums, operands, stages, 0, (in + tile::INNER - 1) / tile::INNER);
    operands.each(sums, [&](int token, int feature, float sum) {
        if (token < tokens && feature < out) {
            put(y + static_cast<int64_t>(token) * out + feature, Pack<float, 1>{{sum * row_scale[feature]}}, adds);
        }
    });
}

template <typename T>
__device__ __forceinline__ void backward(const bf16* dy, const int8_t* codes, T* dx, int tokens, int out, int in, int dy_stride, int adds) {
    DYNAMIC_SHARED(unsigned char, stages);
    const int first_token = blockIdx.x * TOKENS, first_feature = blockIdx.y * tile::FEATURES;
    const tile::Backward<Shape> operands = {dy, codes, tokens, in, out, dy_stride, first_token, first_feature};
    tile::Backward<Shape>::Sums sums = {};
    tile::multiply<Shape, STAGES>(sums, operands, stages, 0, (out + tile::INNER - 1) / tile::INNER);
    operands.each(sums, [&](int token, int feature, Pack<float, 4> four) {
        // in % 16 == 0: all four are inside, or none.
        if (token < tokens && feature < in) {
            put(dx + static_cast<int64_t>(token) * in + feature, four, adds);
        }
    });
}

} // namespace

KERNEL(256) void int8_gemm_forward_bf16(const bf16* x, const int8_t* codes, const float* row_scale, bf16* y, int tokens, int out, int in, int x_stride) {
    forward(x, codes, row_scale, y, tokens, out, in, x_stride, 0);
}

KERNEL(256) void int8_gemm_forward_f32(const bf16* x, const int8_t* codes, const float* row_scale, float* y, int tokens, int out, int in, int x_stride,
                                       int adds) {
    forward(x, codes, row_scale, y, tokens, out, in, x_stride, adds);
}

KERNEL(256) void int8_gemm_backward_bf16(const bf16* dy, const int8_t* codes, bf16* dx, int tokens, int out, int in, int dy_stride) {
    backward(dy, codes, dx, tokens, out, in, dy_stride, 0);
}

KERNEL(256) void int8_gemm_backward_f32(const bf16* dy, const int8_t* codes, float* dx, int tokens, int out, int in, int dy_stride, int adds) {
    backward(dy, codes, dx, tokens, out, in, dy_stride, adds);
}
