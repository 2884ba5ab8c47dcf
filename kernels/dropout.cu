// dropout: values fall out by a hash of (key, element), the others are scaled up
//
// math       y = x scale where hash(key, row cols + col) >= threshold, else 0; scale = 1 / (1 - p), threshold = p (2^32 - 1)
// shapes     x, y [rows, cols] bf16 or f32, each with a stride; y may be x
// launch     elementwise.cuh: 512 packs of `width` (16 bytes, or 1) values a block, 256 threads
// cost       4 bytes a value in bf16, 8 in f32; about 20 integer operations: in bf16 these take as long as the memory
// reference  Dropout::apply: the same values fall out on every device, so that a run may go on on another one
// source     the mixer: C. Wellons' hash-prospector, two rounds
#include "elementwise.cuh"

namespace {

// Elements of a piece: its number goes into the key, the element's into the hash. As cpu/dropout.rs has it.
constexpr int PIECE_BITS = 15;

__device__ __forceinline__ uint32_t hash_of(uint32_t at, uint32_t low, uint32_t high) {
    uint32_t hash = at ^ low;
    hash = (hash ^ (hash >> 16)) * 0x7feb352du;
    hash = (hash ^ (hash >> 15)) * 0x846ca68bu;
    hash = (hash ^ (hash >> 16)) + high;
    hash = (hash ^ (hash >> 16)) * 0x7feb352du;
    hash = (hash ^ (hash >> 15)) * 0x846ca68bu;
    return hash ^ (hash >> 16);
}

template <int WIDTH, typename T>
__device__ __forceinline__ void drop(const T* x, int x_stride, T* y, int y_stride, uint64_t key, uint32_t threshold, float scale,
                                     int rows, int cols) {
    const auto load = [=](int64_t row, int col) { return load_pack<WIDTH>(x + row * x_stride + col); };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, Pack<T, WIDTH> pack) {
        // A piece is a multiple of WIDTH long, and so is a row: a pack lies in one piece.
        const uint64_t element = static_cast<uint64_t>(row) * cols + col;
        const uint64_t of_piece = key ^ (element >> PIECE_BITS) * 0x9e3779b97f4a7c15u;
        const uint32_t first = element & ((1u << PIECE_BITS) - 1);
        UNROLL for (int at = 0; at < WIDTH; at++) {
            const uint32_t hash = hash_of(first + at, static_cast<uint32_t>(of_piece), static_cast<uint32_t>(of_piece >> 32));
            // Not a factor of 0: 0 * infinity would hide an overflow as NaN, or the reverse.
            pack.values[at] = narrow<T>(hash >= threshold ? widen(pack.values[at]) * scale : 0.0f);
        }
        store_pack(y + row * y_stride + col, pack);
    });
}

} // namespace

KERNEL(256) void dropout_bf16(const bf16* x, int x_stride, bf16* y, int y_stride, uint64_t key, uint32_t threshold, float scale,
                              int rows, int cols, int width) {
    if (width == 8) {
        drop<8>(x, x_stride, y, y_stride, key, threshold, scale, rows, cols);
    } else {
        drop<1>(x, x_stride, y, y_stride, key, threshold, scale, rows, cols);
    }
}

KERNEL(256) void dropout_f32(const float* x, int x_stride, float* y, int y_stride, uint64_t key, uint32_t threshold, float scale,
                             int rows, int cols, int width) {
    if (width == 4) {
        drop<4>(x, x_stride, y, y_stride, key, threshold, scale, rows, cols);
    } else {
        drop<1>(x, x_stride, y, y_stride, key, threshold, scale, rows, cols);
    }
}
