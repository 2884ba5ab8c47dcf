// Lets a C++ compiler take the kernels, for tests on machines without a GPU.
//
// A block runs at a time; its threads are fibers that hand over at barriers and at operations of a whole warp. Which thread
// runs next is fixed, or shuffled by a seed: a kernel that lacks a barrier then gives other results in another order. What a
// thread copies asynchronously is not there before it waits for it: until then its place holds NaNs. Dynamic shared memory is
// allocated for each block, so that a sanitizer sees its ends, and begins as NaNs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static thread_local

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

// bf16 with the conversions that the kernels use ---------------------------------------------------------------------

struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
    const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &wide, sizeof result);
    return result;
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) {
        return {0x7fff};
    }
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline __nv_bfloat162 __hsub2(__nv_bfloat162 left, __nv_bfloat162 right) {
    const auto difference = [](__nv_bfloat16 left, __nv_bfloat16 right) {
        return __float2bfloat16_rn(__bfloat162float(left) - __bfloat162float(right));
    };
    return {difference(left.x, right.x), difference(left.y, right.y)};
}

struct __half {
    _Float16 value;
};

inline float __half2float(__half value) { return static_cast<float>(value.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }

// Arithmetic --------------------------------------------------------------------------------------------------------

inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = (static_cast<uint64_t>(high) << 32) | low;
    uint32_t result = 0;
    for (int at = 0; at < 4; at++) {
        const uint32_t from = (selector >> (4 * at)) & 7;
        result |= static_cast<uint32_t>((bytes >> (8 * from)) & 0xff) << (8 * at);
    }
    return result;
}
using std::max;
using std::min;

// Threads -----------------------------------------------------------------------------------------------------------

namespace emulator {

struct Thread {
    dim3 thread_index, block_index, block_size, grid_size;
};

// The thread that runs.
const Thread& current();
// The block's.
void* dynamic_shared();
// Waits for all threads of the block.
void block_barrier();
// Waits for the lanes of the thread's warp that are in `mask`.
void warp_barrier(uint32_t mask);
// Gives `bytes` (at most 64) of each lane in `mask` to all of them, `[32][64]`.
const unsigned char* exchange(uint32_t mask, const void* mine, size_t bytes);
int lane();

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void load_matrices(uint32_t (&to)[4], const void* row, bool transposed);
// The first `bytes` of 16, zeros behind them.
void copy_async(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int pending);

// Ends the process: what went wrong in which thread of which kernel.
[[noreturn]] void fail(const char* problem);

template <typename T> T from_lane(uint32_t mask, T value, int source) {
    static_assert(sizeof(T) <= 64 && std::is_trivially_copyable_v<T>);
    const unsigned char* all = exchange(mask, &value, sizeof value);
    if (source < 0 || source >= 32 || !((mask >> source) & 1)) {
        fail("a shuffle reads a lane that does not take part");
    }
    T result;
    std::memcpy(&result, all + 64 * source, sizeof result);
    return result;
}

// Kernels by name -----------------------------------------------------------------------------------------------------

using Launcher = void (*)(void** arguments);
void add_kernel(const char* name, std::string signature, Launcher launcher);

// How a caller spells an argument's type.
template <typename T> constexpr char kind() {
    if constexpr (std::is_pointer_v<T>) {
        return 'p';
    } else if constexpr (std::is_floating_point_v<T>) {
        static_assert(sizeof(T) == 4);
        return 'f';
    } else {
        static_assert(std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
        return sizeof(T) == 8 ? 'l' : 'i';
    }
}

template <auto FUNCTION> struct Arguments;
template <typename... T, void (*FUNCTION)(T...)> struct Arguments<FUNCTION> {
    static std::string signature() { return {kind<T>()...}; }
    static void launch(void** arguments) { with(arguments, std::index_sequence_for<T...>{}); }

  private:
    template <size_t... AT> static void with(void** arguments, std::index_sequence<AT...>) {
        FUNCTION(*static_cast<std::remove_reference_t<T>*>(arguments[AT])...);
    }
};

struct Register {
    Register(const char* name, std::string signature, Launcher launcher) { add_kernel(name, std::move(signature), launcher); }
};

} // namespace emulator

#define threadIdx (emulator::current().thread_index)
#define blockIdx (emulator::current().block_index)
#define blockDim (emulator::current().block_size)
#define gridDim (emulator::current().grid_size)

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulator::warp_barrier(mask); }
template <typename T> T __shfl_sync(uint32_t mask, T value, int source) { return emulator::from_lane(mask, value, source); }
template <typename T> T __shfl_xor_sync(uint32_t mask, T value, int bits) {
    return emulator::from_lane(mask, value, emulator::lane() ^ bits);
}
template <typename T> T __shfl_down_sync(uint32_t mask, T value, int offset) {
    const int source = emulator::lane() + offset;
    return emulator::from_lane(mask, value, source < 32 ? source : emulator::lane());
}
inline uint32_t __ballot_sync(uint32_t mask, bool value) {
    const unsigned char mine = value;
    const unsigned char* all = emulator::exchange(mask, &mine, 1);
    uint32_t result = 0;
    for (int lane = 0; lane < 32; lane++) {
        result |= ((mask >> lane) & 1) && all[64 * lane] ? 1u << lane : 0;
    }
    return result;
}

template <typename T> T atomicAdd(T* at, T value) {
    const T before = *at;
    *at = before + value;
    return before;
}
