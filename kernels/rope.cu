// rope: pairs of a head's features turned by an angle that grows with the position, in place or from f32 to bf16
//
// math       (x[i], x[i + half]) <- (x[i] c - x[i + half] s, x[i + half] c + x[i] s), c = cos[position][i], s = sign sin[position][i],
//            half = head_dim / 2; the sign -1 turns back, which is the gradient
// shapes     x, y [tokens, heads * 2 half] bf16 or f32 with strides from row to row, y = x in place; cos, sin [positions, half] f32, positions [tokens]
// launch     a thread takes `width` (16 bytes, or 1) pairs of HEADS heads of a token; 256 threads a block
// cost       4 bytes a value in bf16, 8 in f32, 6 from one to the other; the tables come from caches, once for HEADS heads
// reference  reference::rope
// source     Su et al. 2021, arXiv:2104.09864, in the half-split order of Hugging Face's Llama
#include "common.cuh"

namespace {

// Of one token, by one thread: what it reads of the tables serves all of them.
constexpr int HEADS = 4;

template <int WIDTH> __device__ __forceinline__ void load_floats(const float* from, float (&to)[WIDTH]) {
    constexpr int COUNT = WIDTH < 4 ? WIDTH : 4;
    UNROLL for (int first = 0; first < WIDTH; first += COUNT) {
        const Pack<float, COUNT> pack = load_pack<COUNT>(from + first);
        UNROLL for (int at = 0; at < COUNT; at++) {
            to[first + at] = pack.values[at];
        }
    }
}

// `x` and `y` may be the same: a thread reads and writes the same places.
template <int WIDTH, typename From, typename To>
__device__ __forceinline__ void turn(const From* x, int stride, To* y, int y_stride, const float* cos, const float* sin, const uint32_t* positions, int tokens,
                                     int heads, int half, float sign) {
    const unsigned packs = half / WIDTH, groups = (heads + HEADS - 1) / HEADS;
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned token = item / (packs * groups);
    if (token >= static_cast<unsigned>(tokens)) {
        return;
    }
    const int pair = item % packs * WIDTH, head = item / packs % groups * HEADS;
    const int64_t angle = static_cast<int64_t>(positions[token]) * half + pair;
    float c[WIDTH], s[WIDTH];
    load_floats(cos + angle, c);
    load_floats(sin + angle, s);
    x += static_cast<int64_t>(token) * stride + pair;
    y += static_cast<int64_t>(token) * y_stride + pair;
    Pack<From, WIDTH> first[HEADS], second[HEADS];
    UNROLL for (int at = 0; at < HEADS; at++) {
        if (head + at < heads) {
            first[at] = load_pack<WIDTH>(x + 2 * half * (head + at));
            second[at] = load_pack<WIDTH>(x + 2 * half * (head + at) + half);
        }
    }
    UNROLL for (int at = 0; at < HEADS; at++) {
        if (head + at < heads) {
            Pack<To, WIDTH> turned[2];
            UNROLL for (int i = 0; i < WIDTH; i++) {
                const float left = widen(first[at].values[i]), right = widen(second[at].values[i]);
                turned[0].values[i] = narrow<To>(left * c[i] - right * (sign * s[i]));
                turned[1].values[i] = narrow<To>(right * c[i] + left * (sign * s[i]));
            }
            store_pack(y + 2 * half * (head + at), turned[0]);
            store_pack(y + 2 * half * (head + at) + half, turned[1]);
        }
    }
}

} // namespace

KERNEL(256) void rope_bf16(bf16* x, int stride, const float* cos, const float* sin, const uint32_t* positions, int tokens, int heads,
                           int half, float sign, int width) {
    if (width == 8) {
        turn<8>(x, stride, x, stride, cos, sin, positions, tokens, heads, half, sign);
    } else {
        turn<1>(x, stride, x, stride, cos, sin, positions, tokens, heads, half, sign);
    }
}

KERNEL(256) void rope_f32(float* x, int stride, const float* cos, const float* sin, const uint32_t* positions, int tokens, int heads,
                          int half, float sign, int width) {
    if (width == 4) {
        turn<4>(x, stride, x, stride, cos, sin, positions, tokens, heads, half, sign);
    } else {
        turn<1>(x, stride, x, stride, cos, sin, positions, tokens, heads, half, sign);
    }
}

KERNEL(256) void rope_f32_to_bf16(const float* x, int stride, bf16* y, int y_stride, const float* cos, const float* sin,
                                  const uint32_t* positions, int tokens, int heads, int half, float sign, int width) {
    if (width == 4) {
        turn<4>(x, stride, y, y_stride, cos, sin, positions, tokens, heads, half, sign);
    } else {
        turn<1>(x, stride, y, y_stride, cos, sin, positions, tokens, heads, half, sign);
    }
}
