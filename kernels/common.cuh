// What the kernels share: types, conversions, reductions over a warp and a block, and the few instructions that
// need assembly. Compiled by nvcc for a device, and by a C++ compiler through host/cuda_shim.h for tests.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>
#else
#include "host/cuda_shim.h"
#endif

using bf16 = __nv_bfloat16;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// A kernel, launched by its name: KERNEL(threads of a block at most), or with the blocks that an SM must hold at least, which is how many
// registers there may be.
#define KERNEL(...) extern "C" __global__ __launch_bounds__(__VA_ARGS__)

#ifdef __CUDACC__
// The block's dynamic shared memory as `TYPE* NAME`, aligned to 128 bytes.
#define DYNAMIC_SHARED(TYPE, NAME)                                                                                      \
    extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];                                              \
    TYPE* NAME = reinterpret_cast<TYPE*>(dynamic_shared_bytes)
#define UNROLL _Pragma("unroll")
#else
#define DYNAMIC_SHARED(TYPE, NAME) TYPE* NAME = reinterpret_cast<TYPE*>(emulator::dynamic_shared())
#define UNROLL
#endif

__device__ __forceinline__ float widen(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(float value) { return value; }

// Rounds to nearest even.
template <typename T> __device__ __forceinline__ T narrow(float value);
template <> __device__ __forceinline__ bf16 narrow<bf16>(float value) { return __float2bfloat16_rn(value); }
template <> __device__ __forceinline__ float narrow<float>(float value) { return value; }

// The quotient is 0 where exp(-value) is beyond 2^126, and so is the sigmoid as bf16 products see it.
__device__ __forceinline__ float sigmoid(float value) { return __fdividef(1.0f, 1.0f + __expf(-value)); }

// `COUNT` values that one load moves: 16 bytes at an address that is a multiple of that.
template <typename T, int COUNT> struct alignas(sizeof(T) * COUNT) Pack {
    T values[COUNT];
};

template <int COUNT, typename T> __device__ __forceinline__ Pack<T, COUNT> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T, COUNT>*>(from);
}

template <int COUNT, typename T> __device__ __forceinline__ void store_pack(T* to, const Pack<T, COUNT>& pack) {
    *reinterpret_cast<Pack<T, COUNT>*>(to) = pack;
}

// Two bf16 in a register as tensor cores read them: the first in the lower half.
__device__ __forceinline__ uint32_t pair(float first, float second) {
    const Pack<bf16, 2> both = {{narrow<bf16>(first), narrow<bf16>(second)}};
    return *reinterpret_cast<const uint32_t*>(&both);
}

// The difference of each of two bf16.
__device__ __forceinline__ uint32_t subtract_pairs(uint32_t left, uint32_t right) {
    const __nv_bfloat162 difference =
        __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&left), *reinterpret_cast<const __nv_bfloat162*>(&right));
    return *reinterpret_cast<const uint32_t*>(&difference);
}

__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, offset);
    }
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    }
    return value;
}

// The sum over a block of whole warps, in every thread and in one order. `scratch` has 32 places; it may be used again at once.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) {
        scratch[warp] = value;
    }
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

// As block_sum, the maximum.
__device__ __forceinline__ float block_max(float value, float* scratch) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) {
        scratch[warp] = value;
    }
    __syncthreads();
    return warp_max(lane < warps ? scratch[lane] : -INFINITY);
}

// Tensor cores and asynchronous copies ------------------------------------------------------------------------------
//
// mma_bf16: d += a b for a [16, 16] and b [16, 8], f32 sums. With g = lane / 4, t = lane % 4 a lane holds
//   a[0] = (g, 2t..), a[1] = (g + 8, 2t..), a[2] = (g, 2t + 8..), a[3] = (g + 8, 2t + 8..)     pairs along the inner axis
//   b[0] = (2t.., g), b[1] = (2t + 8.., g)                                                    pairs along the inner axis
//   d[0], d[1] = (g, 2t..), d[2], d[3] = (g + 8, 2t..)
//
// load_matrices: four 8 x 8 matrices of 16-bit values from shared memory. Lane l gives the address of row l % 8 of matrix
// l / 8 (8 values, 16 bytes, aligned so); it gets of each matrix the pair (g, 2t..), or with `_transposed` that of the
// transposed matrix.
#ifdef __CUDACC__
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// Begins to copy 16 bytes to shared memory; zeros where `valid` is false, and then `from` is not read.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// As copy_async: the first `bytes` of 16, zeros behind them.
__device__ __forceinline__ void copy_async_some(void* to, const void* from, int bytes) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// 16 bytes of what is read once and not written by the kernel: they do not displace what is read again from the nearest cache.
__device__ __forceinline__ Pack<uint32_t, 4> load_once(const void* from) {
    Pack<uint32_t, 4> words;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(words.values[0]), "=r"(words.values[1]), "=r"(words.values[2]), "=r"(words.values[3])
                 : "l"(from));
    return words;
}

// Ends a group of copies of this thread.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups are still on their way. Others see them after a barrier.
template <int PENDING> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}
#else
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { emulator::mma_bf16(d, a, b); }
inline void load_matrices(uint32_t (&to)[4], const void* row) { emulator::load_matrices(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) { emulator::load_matrices(to, row, true); }
inline void copy_async(void* to, const void* from, bool valid) { emulator::copy_async(to, from, valid ? 16 : 0); }
inline void copy_async_some(void* to, const void* from, int bytes) { emulator::copy_async(to, from, bytes); }
inline Pack<uint32_t, 4> load_once(const void* from) { return load_pack<4>(static_cast<const uint32_t*>(from)); }
inline void commit_copies() { emulator::commit_copies(); }
template <int PENDING> inline void wait_copies() { emulator::wait_copies(PENDING); }
#endif

// 2^value to within 2 units in the last place; 0 where that is below the smallest normal number.
#ifdef __CUDACC__
__device__ __forceinline__ float power_of_two(float value) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(value));
    return result;
}
#else
inline float power_of_two(float value) { return std::exp2(value); }
#endif
