// What the kernels on 8-bit codes share: exact conversions, and the tile of a product that int8_matmul and int8_gemm are made of.
#pragma once

#include "common.cuh"

// The code in byte `at` of `word`. A conversion instruction has a quarter of the rate of these: a byte behind the exponent of 2^23 is
// the number 2^23 + byte, and the code is that less 2^23 + 128, once its sign bit is turned.
__device__ __forceinline__ float code_at(uint32_t word, int at) {
    const uint32_t bits = __byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7540 + at);
    return __uint_as_float(bits) - 8388736.0f;
}

// The codes in bytes `first` and `second` of `word` as two bf16. The lower 7 bits behind the exponent of 2^7 are the number 128 + bits; the
// sign bit at the same place makes 128 into 256: the difference is the code, and nothing is rounded.
__device__ __forceinline__ uint32_t code_pair(uint32_t word, int first, int second) {
    const uint32_t bits = __byte_perm(word, 0x43434343u, 0x4040 + 256 * second + first);
    return subtract_pairs(bits & 0xff7fff7fu, bits & 0xff80ff80u);
}

// A product of [TOKENS, inner] bf16 by 8-bit codes, for a block of 4 * WARPS_TOKENS warps: a warp has TOKENS / WARPS_TOKENS tokens and
// 32 of the tile's 128 features. The inner axis comes in chunks of 64 through a ring of STAGES places in shared memory.
namespace tile {

constexpr int INNER = 64;
constexpr int FEATURES = 128;
constexpr int WARP_FEATURES = 32;
// 16 bytes: what is copied at once, and what a row of a matrix of load_matrices is.
constexpr int COPY = 16;

// Where 16 bytes of a row lie: shuffled, so that neither copies nor reads of one warp meet in a bank.
// Rows of 128 bytes: 8 rows at one `place` are apart, and so are 4 rows at an even place and the one behind it.
__device__ __forceinline__ int in_row_of_128(int row, int place) {
    const int shuffle = (row & 3) << 1 | (row >> 2 & 1);
    return row * 128 + COPY * (place ^ shuffle);
}
// Rows of 64 bytes, two in a line of all banks: 8 rows at one `place` are apart.
__device__ __forceinline__ int in_row_of_64(int row, int place) { return row * 64 + COPY * (place ^ (row >> 1 & 3)); }

template <int TOKENS, int WARPS_TOKENS> struct Shape {
    static constexpr int THREADS = 4 * WARPS_TOKENS * WARP;
    static constexpr int WARP_TOKENS = TOKENS / WARPS_TOKENS;
    static constexpr int TOKEN_BYTES = TOKENS * INNER * static_cast<int>(sizeof(bf16));
    static constexpr int STAGE_BYTES = TOKEN_BYTES + INNER * FEATURES;
    static_assert(TOKEN_BYTES % (COPY * THREADS) == 0 && INNER * FEATURES % (COPY * THREADS) == 0, "threads copy equally much");
};

// x [tokens, inner] and codes [features, inner]. The codes are mma_bf16's a, so that a load of x is its b as it comes.
template <typename SHAPE> struct Forward {
    static constexpr int TILES = SHAPE::WARP_TOKENS / 8;
    // A thread's, of tiles of 16 features and 8 tokens.
    using Sums = float[2][TILES][4];

    const bf16* x;
    const int8_t* codes;
    int tokens, features, inner, x_stride, first_token, first_feature;

    __device__ __forceinline__ void copy(unsigned char* stage, int chunk) const {
        UNROLL for (int load = 0; load < SHAPE::TOKEN_BYTES / COPY / SHAPE::THREADS; load++) {
            const int row = threadIdx.x / 8 + load * (SHAPE::THREADS / 8), place = threadIdx.x % 8;
            const int token = first_token + row, k = chunk * INNER + 8 * place;
            copy_async(stage + in_row_of_128(row, place), x + static_cast<int64_t>(token) * x_stride + k, token < tokens && k < inner);
        }
        UNROLL for (int load = 0; load < FEATURES * INNER / COPY / SHAPE::THREADS; load++) {
            const int row = threadIdx.x / 4 + load * (SHAPE::THREADS / 4), place = threadIdx.x % 4;
            const int feature = first_feature + row, k = chunk * INNER + COPY * place;
            copy_async(stage + SHAPE::TOKEN_BYTES + in_row_of_64(row, place), codes + static_cast<int64_t>(feature) * inner + k,
                       feature < features && k < inner);
        }
    }

    // Gives `put` each sum: the token, the feature, and the sum.
    template <typename PUT> __device__ __forceinline__ void each(const Sums& sums, PUT put) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int feature = first_feature + warp % 4 * WARP_FEATURES + lane / 4;
        const int token = first_token + warp / 4 * SHAPE::WARP_TOKENS + 2 * (lane % 4);
        UNROLL for (int m = 0; m < 2; m++) {
            UNROLL for (int n = 0; n < TILES; n++) {
                UNROLL for (int at = 0; at < 4; at++) {
                    put(token + 8 * n + at % 2, feature + 16 * m + 8 * (at / 2), sums[m][n][at]);
                }
            }
        }
    }

    // The order of a sum is free, if both factors have the same: a lane has of 16 inner indices 4 t to 4 t + 3, not 2 t, 2 t + 1, 2 t + 8, 2 t + 9,
    // because those four codes are one register, and those four of x one load.
    __device__ __forceinline__ void add(Sums& sums, const unsigned char* stage) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int group = lane / 4, in_group = lane % 4;
        const int warp_feature = warp % 4 * WARP_FEATURES, warp_token = warp / 4 * SHAPE::WARP_TOKENS;
        uint32_t words[4][4];
        UNROLL for (int eight = 0; eight < 4; eight++) {
            load_matrices(words[eight], stage + SHAPE::TOKEN_BYTES + in_row_of_64(warp_feature + 8 * eight + lane % 8, lane / 8));
        }
        UNROLL for (int step = 0; step < 4; step++) {
            uint32_t left[2][4];
            UNROLL for (int m = 0; m < 2; m++) {
                UNROLL for (int at = 0; at < 4; at++) {
                    left[m][at] = code_pair(words[2 * m + at % 2][step], at / 2 * 2, at / 2 * 2 + 1);
                }
            }
            UNROLL for (int n = 0; n < TILES; n++) {
                const unsigned char* from = stage + in_row_of_128(warp_token + 8 * n + group, 2 * step + in_group / 2) + 8 * (in_group % 2);
                const auto right = load_pack<2>(reinterpret_cast<const uint32_t*>(from));
                UNROLL for (int m = 0; m < 2; m++) {
                    mma_bf16(sums[m][n], left[m], right.values);
                }
            }
        }
    }
};

// dy [tokens, inner] and codes [inner, features], as Forward. Of 16 features tile 2 j of the sums has those with even numbers, tile 2 j + 1 the others.
template <typename SHAPE> struct Backward {
    static constexpr int TILES = SHAPE::WARP_TOKENS / 16;
    // A thread's, of tiles of 16 tokens and 8 features.
    using Sums = float[TILES][4][4];

    const bf16* dy;
    const int8_t* codes;
    int tokens, features, inner, dy_stride, first_token, first_feature;

    __device__ __forceinline__ void copy(unsigned char* stage, int chunk) const {
        UNROLL for (int load = 0; load < SHAPE::TOKEN_BYTES / COPY / SHAPE::THREADS; load++) {
            const int row = threadIdx.x / 8 + load * (SHAPE::THREADS / 8), place = threadIdx.x % 8;
            const int token = first_token + row, k = chunk * INNER + 8 * place;
            // What lies behind a row's end may be anything, also NaN, and must not come in.
            const int values = token < tokens ? max(0, min(8, inner - k)) : 0;
            copy_async_some(stage + in_row_of_128(row, place), dy + static_cast<int64_t>(token) * dy_stride + k, 2 * values);
        }
        UNROLL for (int load = 0; load < FEATURES * INNER / COPY / SHAPE::THREADS; load++) {
            const int row = threadIdx.x / 8 + load * (SHAPE::THREADS / 8), place = threadIdx.x % 8;
            const int k = chunk * INNER + row, feature = first_feature + COPY * place;
            copy_async(stage + SHAPE::TOKEN_BYTES + in_row_of_128(row, place), codes + static_cast<int64_t>(k) * features + feature,
                       k < inner && feature < features);
        }
    }

    // Gives `put` each four sums of neighbours: the token, the first feature, and the sums.
    template <typename PUT> __device__ __forceinline__ void each(const Sums& sums, PUT put) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int feature = first_feature + warp % 4 * WARP_FEATURES + 4 * (lane % 4);
        const int token = first_token + warp / 4 * SHAPE::WARP_TOKENS + lane / 4;
        UNROLL for (int m = 0; m < TILES; m++) {
            UNROLL for (int half = 0; half < 2; half++) {
                UNROLL for (int j = 0; j < 2; j++) {
                    const float(&even)[4] = sums[m][2 * j];
                    const float(&odd)[4] = sums[m][2 * j + 1];
                    const Pack<float, 4> four = {{even[2 * half], odd[2 * half], even[2 * half + 1], odd[2 * half + 1]}};
                    put(token + 16 * m + 8 * half, feature + 16 * j, four);
                }
            }
        }
    }

    // load_matrices_transposed moves 16 bits, which are two codes of one row: a lane gets codes of two rows and two columns, and the columns
    // go to two tiles.
    __device__ __forceinline__ void add(Sums& sums, const unsigned char* stage) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int warp_feature = warp % 4 * WARP_FEATURES, warp_token = warp / 4 * SHAPE::WARP_TOKENS;
        UNROLL for (int step = 0; step < 4; step++) {
            uint32_t left[TILES][4], words[4];
            UNROLL for (int m = 0; m < TILES; m++) {
                load_matrices(left[m], stage + in_row_of_128(warp_token + 16 * m + lane % 16, 2 * step + lane / 16));
            }
            load_matrices_transposed(
                words, stage + SHAPE::TOKEN_BYTES + in_row_of_128(16 * step + lane % 16, warp_feature / COPY + lane / 16));
            UNROLL for (int n = 0; n < 4; n++) {
                const int odd = n % 2, at = n / 2 * 2;
                const uint32_t right[2] = {code_pair(words[at], odd, odd + 2), code_pair(words[at + 1], odd, odd + 2)};
                UNROLL for (int m = 0; m < TILES; m++) {
                    mma_bf16(sums[m][n], left[m], right);
                }
            }
        }
    }
};

// Adds chunks `chunk` to `end` of a Forward or a Backward; `stages` is shared memory for STAGES stages.
template <typename SHAPE, int STAGES, typename OPERANDS>
__device__ __forceinline__ void multiply(typename OPERANDS::Sums& sums, const OPERANDS& operands, unsigned char* stages, int chunk, int end) {
    // A thread has a group of copies for each stage, if empty, so that counting groups is counting stages.
    UNROLL for (int ahead = 0; ahead < STAGES - 1; ahead++) {
        if (chunk + ahead < end) {
            operands.copy(stages + ahead * SHAPE::STAGE_BYTES, chunk + ahead);
        }
        commit_copies();
    }
    int reading = 0, writing = STAGES - 1;
    for (; chunk < end; chunk++) {
        wait_copies<STAGES - 2>();
        // The chunk is there for all threads, and all are done with the one before it, whose place is now written.
        __syncthreads();
        if (chunk + STAGES - 1 < end) {
            operands.copy(stages + writing * SHAPE::STAGE_BYTES, chunk + STAGES - 1);
        }
        commit_copies();
        operands.add(sums, stages + reading * SHAPE::STAGE_BYTES);
        writing = reading;
        reading = reading + 1 == STAGES ? 0 : reading + 1;
    }
    wait_copies<0>();
}

} // namespace tile
