// grad_norm: the sum of the squares of all gradients of an adapter, always in the same order
//
// math       total = sum gradient^2 in f64; the norm is its root
// shapes     pieces: see pieces.cuh; sums [pieces] f64, total [1] f64
// launch     grad_norm_pieces: a block a piece, 256 threads; grad_norm_total: one block of 256 threads
// cost       4 bytes and 2 FLOP in f64 a value
// reference  the test: a sum in a plain loop, as the gradient's norm on the CPU
#include "pieces.cuh"

namespace {

// The sum over a block of pieces::THREADS, in thread 0. Its order is fixed by the number of threads.
__device__ __forceinline__ double block_total(double value) {
    __shared__ double of_warps[WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, offset);
    }
    if (threadIdx.x % WARP == 0) {
        of_warps[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    double total = 0.0;
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < pieces::THREADS / WARP; warp++) {
            total += of_warps[warp];
        }
    }
    return total;
}

} // namespace

KERNEL(256) void grad_norm_pieces(const Piece* all, double* sums) {
    const Piece piece = all[blockIdx.x];
    const int64_t whole = piece.len / 4 * 4;
    double own = 0.0;
    for (int64_t first = 4 * threadIdx.x; first < whole; first += 4 * pieces::THREADS) {
        const Pack<float, 4> pack = load_pack<4>(piece.gradient + first);
        UNROLL for (int at = 0; at < 4; at++) {
            own += static_cast<double>(pack.values[at]) * pack.values[at];
        }
    }
    if (whole + threadIdx.x < piece.len) {
        const double value = piece.gradient[whole + threadIdx.x];
        own += value * value;
    }
    const double total = block_total(own);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = total;
    }
}

KERNEL(256) void grad_norm_total(const double* sums, double* total, int count) {
    double own = 0.0;
    for (int at = threadIdx.x; at < count; at += pieces::THREADS) {
        own += sums[at];
    }
    own = block_total(own);
    if (threadIdx.x == 0) {
        *total = own;
    }
}
