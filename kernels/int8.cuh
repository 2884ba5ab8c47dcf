// What the kernels on 8-bit codes share: exact conversions, and the tile of a product that int8_matmul and int8_gemm are made of.
#pragma once

#include "common.cuh"

// The code in byte `at` of `word`. A conversion instruction has a quarter of the rate of these: a byte behind the exponent of 2^23 is
// the number 2^23 + byte, and the code is that less 2^23 + 128, once its sign bit is turned.
__device__ __forceinline__ float code_at(uint32_t word, int at) {
    const uint32_t bits = __byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7540 + at);
    return __uint_as_float(bits) - 8388736.0f;
}

// The codes in bytes 0 and 2 of `word` as two bf16; bytes 1 and 3 do not matter. The lower 7 bits behind the exponent of 2^7 are the
// number 128 + bits; the sign bit at the same place makes 128 into 256: the difference is the code, and nothing is rounded.
__device__ __forceinline__ uint32_t code_pair(uint32_t word) {
    return subtract_pairs((word & 0x007f007fu) | 0x43004300u, (word & 0x00800080u) | 0x43004300u);
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
    static constexpr int TOKEN_TILES = WARP_TOKENS / 16;
    static constexpr int LEFT_BYTES = TOKENS * INNER * static_cast<int>(sizeof(bf16));
    static constexpr int STAGE_BYTES = LEFT_BYTES + INNER * FEATURES;
};

// A thread's sums: of its warp's tiles of 16 tokens and 8 features what mma_bf16 gives a lane.
template <typename SHAPE> using Sums = float[SHAPE::TOKEN_TILES][4][4];

// x [tokens, inner] and codes [features, inner]: the sums over `inner` of their products, of chunks `chunk` to `end`.
// Tile n of the sums has features 8 n to 8 n + 7 of the warp's.
template <typename SHAPE> struct Forward {
    const bf16* x;
    const int8_t* codes;
    int tokens, features, inner, x_stride, first_token, first_feature;

    __device__ __forceinline__ void copy(unsigned char* stage, int chunk) const {
        for (int at = threadIdx.x; at < SHAPE::LEFT_BYTES / COPY; at += SHAPE::THREADS) {
            const int row = at / 8, place = at % 8;
            const int token = first_token + row, k = chunk * INNER + 8 * place;
            copy_async(stage + in_row_of_128(row, place), x + static_cast<int64_t>(token) * x_stride + k, token < tokens && k < inner);
        }
        for (int at = threadIdx.x; at < FEATURES * INNER / COPY; at += SHAPE::THREADS) {
            const int row = at / 4, place = at % 4;
            const int feature = first_feature + row, k = chunk * INNER + COPY * place;
            copy_async(stage + SHAPE::LEFT_BYTES + in_row_of_64(row, place), codes + static_cast<int64_t>(feature) * inner + k,
                       feature < features && k < inner);
        }
    }

    // Gives `put` each two sums of neighbours: the token, the first feature, and the sums.
    template <typename PUT> __device__ __forceinline__ void each(const Sums<SHAPE>& sums, PUT put) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int feature = first_feature + warp % 4 * WARP_FEATURES + 2 * (lane % 4);
        const int token = first_token + warp / 4 * SHAPE::WARP_TOKENS + lane / 4;
        UNROLL for (int m = 0; m < SHAPE::TOKEN_TILES; m++) {
            UNROLL for (int half = 0; half < 2; half++) {
                UNROLL for (int n = 0; n < 4; n++) {
                    const Pack<float, 2> both = {{sums[m][n][2 * half], sums[m][n][2 * half + 1]}};
                    put(token + 16 * m + 8 * half, feature + 8 * n, both);
                }
            }
        }
    }

    // The order of a sum is free, if both factors have the same: a lane has of 16 inner indices 4 t to 4 t + 3, not 2 t, 2 t + 1, 2 t + 8, 2 t + 9,
    // because those four codes are one register, and those four of x one load.
    __device__ __forceinline__ void add(Sums<SHAPE>& sums, const unsigned char* stage) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int group = lane / 4, in_group = lane % 4;
        const int warp_feature = warp % 4 * WARP_FEATURES, warp_token = warp / 4 * SHAPE::WARP_TOKENS;
        uint32_t words[4][4];
        UNROLL for (int n = 0; n < 4; n++) {
            load_matrices(words[n], stage + SHAPE::LEFT_BYTES + in_row_of_64(warp_feature + 8 * n + lane % 8, lane / 8));
        }
        UNROLL for (int step = 0; step < 4; step++) {
            uint32_t left[SHAPE::TOKEN_TILES][4];
            UNROLL for (int m = 0; m < SHAPE::TOKEN_TILES; m++) {
                UNROLL for (int half = 0; half < 2; half++) {
                    const int row = warp_token + 16 * m + 8 * half + group;
                    const unsigned char* from = stage + in_row_of_128(row, 2 * step + in_group / 2) + 8 * (in_group % 2);
                    const auto pairs = load_pack<2>(reinterpret_cast<const uint32_t*>(from));
                    left[m][half] = pairs.values[0];
                    left[m][half + 2] = pairs.values[1];
                }
            }
            UNROLL for (int n = 0; n < 4; n++) {
                const uint32_t word = words[n][step];
                const uint32_t right[2] = {code_pair(__byte_perm(word, 0, 0x4140)), code_pair(__byte_perm(word, 0, 0x4342))};
                UNROLL for (int m = 0; m < SHAPE::TOKEN_TILES; m++) {
                    mma_bf16(sums[m][n], left[m], right);
                }
            }
        }
    }
};

// dy [tokens, inner] and codes [inner, features], as Forward. Of 16 features tile 2 j of the sums has those with even numbers, tile 2 j + 1 the others.
template <typename SHAPE> struct Backward {
    const bf16* dy;
    const int8_t* codes;
    int tokens, features, inner, dy_stride, first_token, first_feature;

    __device__ __forceinline__ void copy(unsigned char* stage, int chunk) const {
        for (int at = threadIdx.x; at < SHAPE::LEFT_BYTES / COPY; at += SHAPE::THREADS) {
            const int row = at / 8, place = at % 8;
            const int token = first_token + row, k = chunk * INNER + 8 * place;
            // What lies behind a row's end may be anything, also NaN, and must not come in.
            const int values = token < tokens ? max(0, min(8, inner - k)) : 0;
            copy_async_some(stage + in_row_of_128(row, place), dy + static_cast<int64_t>(token) * dy_stride + k, 2 * values);
        }
        for (int at = threadIdx.x; at < INNER * FEATURES / COPY; at += SHAPE::THREADS) {
            const int row = at / 8, place = at % 8;
            const int k = chunk * INNER + row, feature = first_feature + COPY * place;
            copy_async(stage + SHAPE::LEFT_BYTES + in_row_of_128(row, place), codes + static_cast<int64_t>(k) * features + feature,
                       k < inner && feature < features);
        }
    }

    // Gives `put` each four sums of neighbours: the token, the first feature, and the sums.
    template <typename PUT> __device__ __forceinline__ void each(const Sums<SHAPE>& sums, PUT put) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int feature = first_feature + warp % 4 * WARP_FEATURES + 4 * (lane % 4);
        const int token = first_token + warp / 4 * SHAPE::WARP_TOKENS + lane / 4;
        UNROLL for (int m = 0; m < SHAPE::TOKEN_TILES; m++) {
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
    __device__ __forceinline__ void add(Sums<SHAPE>& sums, const unsigned char* stage) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int warp_feature = warp % 4 * WARP_FEATURES, warp_token = warp / 4 * SHAPE::WARP_TOKENS;
        UNROLL for (int step = 0; step < 4; step++) {
            uint32_t left[SHAPE::TOKEN_TILES][4], words[4];
            UNROLL for (int m = 0; m < SHAPE::TOKEN_TILES; m++) {
                load_matrices(left[m], stage + in_row_of_128(warp_token + 16 * m + lane % 16, 2 * step + lane / 16));
            }
            load_matrices_transposed(
                words, stage + SHAPE::LEFT_BYTES + in_row_of_128(16 * step + lane % 16, warp_feature / COPY + lane / 16));
            UNROLL for (int n = 0; n < 4; n++) {
                const int shift = 8 * (n % 2), at = n / 2 * 2;
                const uint32_t right[2] = {code_pair(words[at] >> shift), code_pair(words[at + 1] >> shift)};
                UNROLL for (int m = 0; m < SHAPE::TOKEN_TILES; m++) {
                    mma_bf16(sums[m][n], left[m], right);
                }
            }
        }
    }
};

// Adds chunks `chunk` to `end` of a Forward or a Backward; `stages` is shared memory for STAGES stages.
template <typename SHAPE, int STAGES, typename OPERANDS>
__device__ __forceinline__ void multiply(Sums<SHAPE>& sums, const OPERANDS& operands, unsigned char* stages, int chunk, int end) {
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
