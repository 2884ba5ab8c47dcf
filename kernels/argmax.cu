// argmax: the place of each row's largest value, which is the next token of greedy decoding
//
// math       y[t] = the least i with x[t, i] = max x[t, :]; values that are no numbers do not count; 0 where nothing is above -infinity
// shapes     x [rows, cols] f32 -> y [rows] u32
// launch     a block of 1024 threads a row, no dynamic shared memory
// cost       4 bytes a value
// reference  reference::argmax
#include "common.cuh"

namespace {

struct Best {
    float value;
    unsigned at;
};

__device__ __forceinline__ Best better(Best left, Best right) {
    const bool is_right = right.value > left.value || (right.value == left.value && right.at < left.at);
    return is_right ? right : left;
}

__device__ __forceinline__ Best warp_best(Best best) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const Best other = {__shfl_xor_sync(ALL_LANES, best.value, offset), __shfl_xor_sync(ALL_LANES, best.at, offset)};
        best = better(best, other);
    }
    return best;
}

} // namespace

KERNEL(1024) void argmax(const float* x, int cols, uint32_t* y) {
    __shared__ Best of_warps[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x += static_cast<int64_t>(blockIdx.x) * cols;
    Best best = {-INFINITY, 0};
    for (int at = threadIdx.x; at < cols; at += blockDim.x) {
        const float value = x[at];
        // Later places count only where they are larger, and NaN nowhere.
        if (value > best.value) {
            best = {value, static_cast<unsigned>(at)};
        }
    }
    best = warp_best(best);
    if (lane == 0) {
        of_warps[warp] = best;
    }
    __syncthreads();
    if (warp == 0) {
        best = warp_best(lane < warps ? of_warps[lane] : Best{-INFINITY, 0});
        if (lane == 0) {
            y[blockIdx.x] = best.at;
        }
    }
}
