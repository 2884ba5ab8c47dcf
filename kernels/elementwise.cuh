// What element-wise kernels over [rows, cols] share: which thread takes which values.
//
// Values go in packs of WIDTH along a row: as many as one access of 16 bytes moves where the addresses and the strides are
// multiples of that, else 1. Threads take packs in the order of memory, across the ends of rows, so that narrow matrices
// fill the device too. Each loads all of its packs before it uses one: more bytes are on their way at a time.
//
// The launch is cuda/elementwise.rs: a kernel takes an address and a stride for each operand first, `rows`, `cols` and `width` last.
#pragma once

#include "common.cuh"

namespace elementwise {

constexpr int THREADS = 256;
constexpr int PACKS = 2;

// `load(row, col)` returns what `finish(row, col, loaded)` takes. `cols` is a multiple of WIDTH, packs are fewer than 2^31.
template <int WIDTH, typename Load, typename Finish>
__device__ __forceinline__ void each_pack(int rows, int cols, Load load, Finish finish) {
    const unsigned packs = cols / WIDTH, all = rows * packs;
    const unsigned first = blockIdx.x * (THREADS * PACKS) + threadIdx.x;
    decltype(load(int64_t{0}, 0)) loaded[PACKS];
    UNROLL for (int at = 0; at < PACKS; at++) {
        const unsigned pack = first + at * THREADS;
        if (pack < all) {
            loaded[at] = load(static_cast<int64_t>(pack / packs), static_cast<int>(pack % packs) * WIDTH);
        }
    }
    UNROLL for (int at = 0; at < PACKS; at++) {
        const unsigned pack = first + at * THREADS;
        if (pack < all) {
            finish(static_cast<int64_t>(pack / packs), static_cast<int>(pack % packs) * WIDTH, loaded[at]);
        }
    }
}

} // namespace elementwise
