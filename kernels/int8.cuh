// What the kernels on 8-bit codes share.
#pragma once

#include "common.cuh"

// The code in byte `at` of `word`. A conversion instruction has a quarter of the rate of these: a byte behind the exponent of 2^23 is
// the number 2^23 + byte, and the code is that less 2^23 + 128, once its sign bit is turned.
__device__ __forceinline__ float code_at(uint32_t word, int at) {
    const uint32_t bits = __byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7540 + at);
    return __uint_as_float(bits) - 8388736.0f;
}
