// cache_push: key and value of one new token a sequence, to their place in the sequence's cache
//
// math       keys_of(row)[positions[row]] = keys[row], and the same of values
// shapes     keys, values [rows, cols] bf16; addresses [rows, 2] u64: where a row's keys and values lie, [.., cols] bf16 each;
//            positions [rows] u32; cols % 8 == 0
// launch     256 threads, 8 columns each, a grid of (ceil(cols / 2048), rows, 2): keys, then values
// cost       8 bytes a column
// reference  Cache::push in host memory
//
// Places are read here and not computed by the host, so that a recorded step of decoding can be done again with other ones.
#include "common.cuh"

KERNEL(256) void cache_push(const bf16* keys, const bf16* values, const uint64_t* addresses, const uint32_t* positions, int cols) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * 8, row = blockIdx.y, which = blockIdx.z;
    if (column >= cols) {
        return;
    }
    const bf16* from = (which == 0 ? keys : values) + static_cast<int64_t>(row) * cols + column;
    bf16* to = reinterpret_cast<bf16*>(addresses[2 * row + which]) + static_cast<int64_t>(positions[row]) * cols + column;
    store_pack(to, load_pack<8>(from));
}
