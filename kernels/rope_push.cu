// rope_push: queries, keys and values of one new token a sequence: turned by their positions, keys and values to their places in the
// sequence's cache
//
// math       rope.cu's, of queries and keys; keys_of(row)[positions[row]] = turned k[row], values_of(row)[positions[row]] = v[row]
// shapes     q [rows, heads * 2 half], k [rows, kv_heads * 2 half] f32, v as k, f32 or bf16; cos, sin [.., half] f32; positions [rows] u32;
//            addresses [rows, 2] u64: where a row's keys and values lie, [.., kv_heads * 2 half] bf16 each
//            -> turned [rows, heads * 2 half] bf16
// launch     64 threads, a grid of (heads + 2 kv_heads, rows): a head each
// cost       6 bytes a value of q and k, 4 or 6 of v, 8 of a table; a launch in place of three
// reference  reference::rope, and Cache::push in host memory
//
// Places are read here and not computed by the host, so that a recorded step of decoding can be done again with other ones.
#include "common.cuh"

namespace {

template <typename T>
__device__ __forceinline__ void rope_push(const float* q, const float* k, const T* v, const float* cos, const float* sin,
                                          const uint32_t* positions, const uint64_t* addresses, bf16* turned, int heads, int kv_heads,
                                          int half) {
    const int row = blockIdx.y, head = blockIdx.x, dim = 2 * half;
    const int64_t position = positions[row], width = static_cast<int64_t>(kv_heads) * dim;
    bf16* keys = reinterpret_cast<bf16*>(addresses[2 * row]) + position * width;
    bf16* values = reinterpret_cast<bf16*>(addresses[2 * row + 1]) + position * width;
    if (head >= heads + kv_heads) {
        const int from = (head - heads - kv_heads) * dim;
        for (int at = threadIdx.x; at < dim; at += blockDim.x) {
            values[from + at] = narrow<bf16>(widen(v[row * width + from + at]));
        }
        return;
    }
    const bool is_query = head < heads;
    const int first = (is_query ? head : head - heads) * dim;
    const float* x = is_query ? q + static_cast<int64_t>(row) * heads * dim + first : k + row * width + first;
    bf16* y = is_query ? turned + static_cast<int64_t>(row) * heads * dim + first : keys + first;
    for (int at = threadIdx.x; at < half; at += blockDim.x) {
        const float c = cos[position * half + at], s = sin[position * half + at], left = x[at], right = x[at + half];
        y[at] = narrow<bf16>(left * c - right * s);
        y[at + half] = narrow<bf16>(right * c + left * s);
    }
}

} // namespace

KERNEL(64) void rope_push_bf16(const float* q, const float* k, const bf16* v, const float* cos, const float* sin, const uint32_t* positions,
                               const uint64_t* addresses, bf16* turned, int heads, int kv_heads, int half) {
    rope_push(q, k, v, cos, sin, positions, addresses, turned, heads, kv_heads, half);
}

KERNEL(64) void rope_push_f32(const float* q, const float* k, const float* v, const float* cos, const float* sin, const uint32_t* positions,
                              const uint64_t* addresses, bf16* turned, int heads, int kv_heads, int half) {
    rope_push(q, k, v, cos, sin, positions, addresses, turned, heads, kv_heads, half);
}
