// attention: causal self-attention over packed sequences with grouped key/value heads, and its gradients
//
// math       a sequence's query i sees its keys j <= i + keys - queries: p = softmax(scale q k^T), out = p v,
//            lse = log sum_j exp(scale q k_j^T).  delta = sum_d d_out out, dp = d_out v^T, ds = p (dp - delta):
//            dv = p^T d_out, dk = scale ds^T q, dq = scale ds k; p is made again from lse
// shapes     q, out, d_out, dq [tokens, query_heads * dim], k, v, dk, dv [tokens, kv_heads * dim], all bf16, each with a stride from
//            row to row that is a multiple of 8; lse, delta [tokens, query_heads] f32; dim % 8 == 0, dim <= 64 or dim <= 128.
//            sequences [n, 3] i32: first row, queries, keys; blocks [m, 2] i32: sequence, first query (or key) in it;
//            addresses [n, 2] u64: where a sequence's first key and value lie, or null: then keys lie as queries do
// launch     128 threads, a grid of (heads, blocks); blocks are ordered by their work, most first, so that none begins late. With
//            dynamic shared memory for the smaller and the larger heads, forward: blocks of 128 queries, 48 or 80 KiB; backward_q:
//            128 queries, 65 or 97 KiB; backward_kv: 128 or 64 keys, 65 or 97 KiB, heads are kv_heads; delta: 8 rows of a head, none
// cost       forward 4 dim FLOP, backward 14 dim, for each pair of a query and a key that it sees
// reference  reference::attention, reference::attention_backward
// source     Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691
//
// Rounding to bf16 is that of the operands of a product: p and ds. No sum depends on the order of blocks.
#include "common.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;
constexpr float LOG2_E = 1.44269504f;

// Tiles in shared memory --------------------------------------------------------------------------------------------
//
// Rows of DIM values, in chunks of 8. The chunks of a row are exchanged by the row's number, so that the 8 rows of a matrix
// that one instruction reads lie in different banks.

template <int DIM> __device__ __forceinline__ int place(int row, int chunk) {
    return row * DIM + chunk / 8 * 64 + ((chunk ^ row) & 7) * 8;
}

// Begins to copy ROWS rows of global memory; zeros below row `rows` and right of column `dim`.
template <int DIM, int ROWS>
__device__ __forceinline__ void copy_tile(bf16* tile, const bf16* from, int stride, int rows, int dim) {
    constexpr int CHUNKS = DIM / 8, ROWS_AT_ONCE = THREADS / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS, first = threadIdx.x / CHUNKS;
    from += static_cast<int64_t>(first) * stride + chunk * 8;
    rows = chunk * 8 < dim ? rows - first : 0;
    tile += place<DIM>(first, chunk); // ROWS_AT_ONCE is a multiple of 8
    UNROLL for (int row = 0; row < ROWS; row += ROWS_AT_ONCE) {
        copy_async(tile + row * DIM, from, row < rows);
        from += static_cast<int64_t>(ROWS_AT_ONCE) * stride;
    }
}

// Where a lane points for the 16 x 16 values of four matrices at the top left of a tile: columns after rows, as load_matrices gives
// an `a` and load_matrices_transposed two `b` of 16 rows of their inner axis.
template <int DIM> __device__ __forceinline__ int lane_by_rows() {
    const int lane = threadIdx.x % WARP;
    return place<DIM>(lane % 16, lane / 16);
}

// Rows after columns: load_matrices gives two `b` of 8 rows, their inner axis along the row.
template <int DIM> __device__ __forceinline__ int lane_by_columns() {
    const int lane = threadIdx.x % WARP;
    return place<DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

// The place `steps` times 16 columns to the right of one of those. Rows exchange chunks within 64 columns only: with both steps
// apart, four addresses serve all columns.
__device__ __forceinline__ int move_right(int place, int steps) { return (place ^ (steps % 4 * 16)) + steps / 4 * 64; }

// In all of these, `sums[m][n]` is what mma_bf16 calls d: rows 16 m.., columns 8 n...

template <int M, int N>
__device__ __forceinline__ void multiply_step(float (&sums)[M][N][4], const uint32_t (&left)[M][4], const uint32_t (&right)[4], int n) {
    const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
    UNROLL for (int m = 0; m < M; m++) {
        mma_bf16(sums[m][2 * n], left[m], first);
        mma_bf16(sums[m][2 * n + 1], left[m], second);
    }
}

template <int M, int N> __device__ __forceinline__ void clear(float (&sums)[M][N][4]) {
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int n = 0; n < N; n++) {
            UNROLL for (int at = 0; at < 4; at++) {
                sums[m][n][at] = 0.0f;
            }
        }
    }
}

template <int M, int N> __device__ __forceinline__ void scale_all(float (&sums)[M][N][4], float factor) {
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int n = 0; n < N; n++) {
            UNROLL for (int at = 0; at < 4; at++) {
                sums[m][n][at] *= factor;
            }
        }
    }
}

// Sets what is hidden of a warp's scores to -infinity.
template <int M, int N, typename Hidden> __device__ __forceinline__ void hide(float (&scores)[M][N][4], Hidden is_hidden) {
    const int lane = threadIdx.x % WARP;
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int n = 0; n < N; n++) {
            UNROLL for (int at = 0; at < 4; at++) {
                const int row = m * 16 + at / 2 * 8 + lane / 4, column = n * 8 + lane % 4 * 2 + at % 2;
                scores[m][n][at] = is_hidden(row, column) ? -INFINITY : scores[m][n][at];
            }
        }
    }
}

// sums = a b^T of rows in shared memory, a [16 M, DIM], b [8 N, DIM]. Both begin at a row that is a multiple of 8.
template <int DIM, int M, int N>
__device__ __forceinline__ void multiply_rows(float (&sums)[M][N][4], const bf16* a, const bf16* b) {
    const int in_a = lane_by_rows<DIM>(), in_b = lane_by_columns<DIM>();
    clear(sums);
    UNROLL for (int step = 0; step < DIM / 16; step++) {
        uint32_t left[M][4];
        UNROLL for (int m = 0; m < M; m++) {
            load_matrices(left[m], a + m * 16 * DIM + move_right(in_a, step));
        }
        UNROLL for (int n = 0; n < N / 2; n++) {
            uint32_t right[4];
            load_matrices(right, b + n * 16 * DIM + move_right(in_b, step));
            multiply_step(sums, left, right, n);
        }
    }
}

// sums += weights b, weights [16 M, 8 N] rounded to bf16, b [8 N, DIM] rows in shared memory.
template <int DIM, int M, int N>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[M][DIM / 8][4], const float (&weights)[M][N][4], const bf16* b) {
    const int in_b = lane_by_rows<DIM>();
    UNROLL for (int step = 0; step < N / 2; step++) {
        uint32_t left[M][4];
        UNROLL for (int m = 0; m < M; m++) {
            const auto& first = weights[m][2 * step];
            const auto& second = weights[m][2 * step + 1];
            left[m][0] = pair(first[0], first[1]);
            left[m][1] = pair(first[2], first[3]);
            left[m][2] = pair(second[0], second[1]);
            left[m][3] = pair(second[2], second[3]);
        }
        UNROLL for (int n = 0; n < DIM / 16; n++) {
            uint32_t right[4];
            load_matrices_transposed(right, b + step * 16 * DIM + move_right(in_b, n));
            multiply_step(sums, left, right, n);
        }
    }
}

// Writes a warp's rows, of which `rows` count, through its own part of shared memory: whole chunks then go to global memory.
template <int DIM, int M>
__device__ __forceinline__ void store_rows(bf16* tile, const float (&sums)[M][DIM / 8][4], bf16* to, int stride, int rows, int dim) {
    constexpr int CHUNKS = DIM / 8;
    const int lane = threadIdx.x % WARP, group = lane / 4, in_group = lane % 4;
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int n = 0; n < CHUNKS; n++) {
            UNROLL for (int half = 0; half < 2; half++) {
                bf16* at = tile + place<DIM>(m * 16 + half * 8 + group, n) + 2 * in_group;
                *reinterpret_cast<uint32_t*>(at) = pair(sums[m][n][2 * half], sums[m][n][2 * half + 1]);
            }
        }
    }
    __syncwarp();
    for (int at = lane; at < M * 16 * CHUNKS; at += WARP) {
        const int row = at / CHUNKS, chunk = at % CHUNKS;
        if (row < rows && chunk * 8 < dim) {
            store_pack(to + static_cast<int64_t>(row) * stride + chunk * 8, load_pack<8>(tile + place<DIM>(row, chunk)));
        }
    }
}

// What a block works on.
struct Work {
    int sequence, first; // first query or key in the sequence
    int row, queries, keys;
};

__device__ __forceinline__ Work work_of(const int* sequences, const int* blocks, int block) {
    const int sequence = blocks[2 * block];
    const int* of_sequence = sequences + 3 * sequence;
    return {sequence, blocks[2 * block + 1], of_sequence[0], of_sequence[1], of_sequence[2]};
}

// Forward -----------------------------------------------------------------------------------------------------------

constexpr int QUERIES = 128;                  // of a block
constexpr int WARP_QUERIES = QUERIES / WARPS; // two rows of products: each matrix of keys that a warp loads is used twice

// KEYS: of a tile.
template <int DIM, int KEYS>
__device__ __forceinline__ void forward(const bf16* q, const bf16* k, const bf16* v, const uint64_t* addresses, const int* sequences,
                                        const int* blocks, bf16* out, float* lse, int q_stride, int k_stride, int v_stride,
                                        int out_stride, int group, int dim, float scale) {
    constexpr int M = WARP_QUERIES / 16, N = KEYS / 8, TILE = KEYS * DIM;
    DYNAMIC_SHARED(bf16, q_tile);                                         // [QUERIES, DIM]
    bf16* kv_tiles = q_tile + QUERIES * DIM;                              // two of keys and values, [2, 2, KEYS, DIM]
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int head = blockIdx.x, heads = gridDim.x, kv_column = head / group * dim;
    const Work work = work_of(sequences, blocks, blockIdx.y);
    const int64_t row = work.row + work.first;
    const int rows = work.queries - work.first;
    if (addresses != nullptr) {
        k = reinterpret_cast<const bf16*>(addresses[2 * work.sequence]);
        v = reinterpret_cast<const bf16*>(addresses[2 * work.sequence + 1]);
    } else {
        k += static_cast<int64_t>(work.row) * k_stride;
        v += static_cast<int64_t>(work.row) * v_stride;
    }
    k += kv_column;
    v += kv_column;
    // The block's query i sees the keys up to `last + i`.
    const int last = work.keys - work.queries + work.first;
    const int tiles = (min(last + QUERIES, work.keys) + KEYS - 1) / KEYS;
    const auto copy_keys = [&](int tile) {
        const int64_t key = tile * KEYS;
        bf16* to = kv_tiles + tile % 2 * 2 * TILE;
        copy_tile<DIM, KEYS>(to, k + key * k_stride, k_stride, work.keys - tile * KEYS, dim);
        copy_tile<DIM, KEYS>(to + TILE, v + key * v_stride, v_stride, work.keys - tile * KEYS, dim);
        commit_copies();
    };
    copy_tile<DIM, QUERIES>(q_tile, q + row * q_stride + head * dim, q_stride, rows, dim);
    copy_keys(0);

    const int warp_row = warp * WARP_QUERIES;
    bf16* warp_q = q_tile + warp_row * DIM;
    const int warp_last = warp_row < rows ? last + warp_row : -WARP_QUERIES; // a warp without queries sees nothing
    const float to_power = scale * LOG2_E;
    float sums[M][DIM / 8][4];
    float top[M][2], total[M][2]; // of rows `lane / 4` and 8 more: the largest score, and this lane's part of the sum of exponentials
    clear(sums);
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int half = 0; half < 2; half++) {
            top[m][half] = -INFINITY;
            total[m][half] = 0.0f;
        }
    }
    for (int tile = 0; tile < tiles; tile++) {
        wait_copies<0>();
        // The tile is there for all, and all are done with the one before, whose place the next one takes.
        __syncthreads();
        if (tile + 1 < tiles) {
            copy_keys(tile + 1);
        }
        // The warp's query i sees the tile's keys up to `seen + i`.
        const int seen = warp_last - tile * KEYS;
        if (seen + WARP_QUERIES <= 0) {
            continue;
        }
        const bf16* k_tile = kv_tiles + tile % 2 * 2 * TILE;
        float scores[M][N][4];
        multiply_rows<DIM>(scores, warp_q, k_tile);
        if (seen < KEYS - 1) {
            hide(scores, [&](int query, int key) { return key > seen + query; });
        }
        UNROLL for (int m = 0; m < M; m++) {
            UNROLL for (int half = 0; half < 2; half++) {
                const float before = top[m][half];
                // Finite from the first tile on: every query sees key 0.
                float largest = before;
                UNROLL for (int n = 0; n < N; n++) {
                    largest = fmaxf(largest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                }
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
                const float kept = power_of_two((before - largest) * to_power), shift = largest * to_power;
                float sum = 0.0f;
                UNROLL for (int n = 0; n < N; n++) {
                    UNROLL for (int at = 2 * half; at < 2 * half + 2; at++) {
                        scores[m][n][at] = power_of_two(scores[m][n][at] * to_power - shift);
                        sum += scores[m][n][at];
                    }
                }
                UNROLL for (int n = 0; n < DIM / 8; n++) {
                    sums[m][n][2 * half] *= kept;
                    sums[m][n][2 * half + 1] *= kept;
                }
                top[m][half] = largest;
                total[m][half] = total[m][half] * kept + sum;
            }
        }
        add_weighted_rows<DIM>(sums, scores, k_tile + TILE);
    }

    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int half = 0; half < 2; half++) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            const float inverse = __fdividef(1.0f, sum);
            UNROLL for (int n = 0; n < DIM / 8; n++) {
                sums[m][n][2 * half] *= inverse;
                sums[m][n][2 * half + 1] *= inverse;
            }
            const int query = warp_row + m * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && query < rows) {
                lse[(row + query) * heads + head] = top[m][half] * scale + logf(sum);
            }
        }
    }
    store_rows<DIM>(warp_q, sums, out + (row + warp_row) * out_stride + head * dim, out_stride, rows - warp_row, dim);
}

// Backward ----------------------------------------------------------------------------------------------------------

// In both kernels a warp keeps its rows' sums in registers, and makes scores of a strip of 8 N rows of the other kind at a time.

// Gradients of M * 64 keys and values: their rows times the columns of queries.
template <int DIM, int M, int N>
__device__ __forceinline__ void backward_kv(const bf16* q, const bf16* k, const bf16* v, const bf16* d_out, const float* lse,
                                            const float* delta, const int* sequences, const int* blocks, bf16* dk, bf16* dv,
                                            int q_stride, int k_stride, int v_stride, int d_out_stride, int dk_stride, int dv_stride,
                                            int group, int dim, float scale) {
    constexpr int WARP_ROWS = 16 * M, ROWS = WARPS * WARP_ROWS, COLUMNS = 64, STRIP = 8 * N, TILE = COLUMNS * DIM;
    static_assert(THREADS == 2 * COLUMNS);
    DYNAMIC_SHARED(bf16, k_tile);                                              // [ROWS, DIM]
    bf16* v_tile = k_tile + ROWS * DIM;                                        // [ROWS, DIM]
    bf16* q_tiles = v_tile + ROWS * DIM;                                       // two of q and d_out, [2, 2, COLUMNS, DIM]
    float* columns = reinterpret_cast<float*>(q_tiles + 4 * TILE);             // two of lse and delta, [2, 2, COLUMNS]
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int kv_head = blockIdx.x, heads = gridDim.x * group;
    const Work work = work_of(sequences, blocks, blockIdx.y);
    // Queries before the block's first key see none of its keys.
    const int64_t row = work.row + work.first;
    const int rows = work.keys - work.first;
    const int tiles = (rows + COLUMNS - 1) / COLUMNS, steps = group * tiles;
    const auto copy_queries = [&](int step) {
        const int head = kv_head * group + step / tiles, first = step % tiles * COLUMNS;
        bf16* to = q_tiles + step % 2 * 2 * TILE;
        copy_tile<DIM, COLUMNS>(to, q + (row + first) * q_stride + head * dim, q_stride, rows - first, dim);
        copy_tile<DIM, COLUMNS>(to + TILE, d_out + (row + first) * d_out_stride + head * dim, d_out_stride, rows - first, dim);
        commit_copies();
    };
    // A thread's part of `columns`. Behind the last query a log-sum-exp without bounds makes probabilities zero.
    const auto column_value = [&](int step) {
        const int head = kv_head * group + step / tiles, query = step % tiles * COLUMNS + threadIdx.x % COLUMNS;
        const int64_t at = (row + query) * heads + head;
        if (threadIdx.x < COLUMNS) {
            return query < rows ? lse[at] * LOG2_E : INFINITY;
        }
        return query < rows ? delta[at] : 0.0f;
    };
    copy_tile<DIM, ROWS>(k_tile, k + row * k_stride + kv_head * dim, k_stride, rows, dim);
    copy_tile<DIM, ROWS>(v_tile, v + row * v_stride + kv_head * dim, v_stride, rows, dim);
    copy_queries(0);
    columns[threadIdx.x] = column_value(0);

    const int warp_row = warp * WARP_ROWS;
    bf16* warp_k = k_tile + warp_row * DIM;
    bf16* warp_v = v_tile + warp_row * DIM;
    const float to_power = scale * LOG2_E;
    float dk_sums[M][DIM / 8][4], dv_sums[M][DIM / 8][4];
    clear(dk_sums);
    clear(dv_sums);
    for (int step = 0; step < steps; step++) {
        wait_copies<0>();
        __syncthreads();
        float next = 0.0f;
        if (step + 1 < steps) {
            copy_queries(step + 1);
            next = column_value(step + 1);
        }
        const bf16* tile = q_tiles + step % 2 * 2 * TILE;
        const float* of_columns = columns + step % 2 * 2 * COLUMNS;
        for (int strip = 0; strip < COLUMNS; strip += STRIP) {
            // The warp's key i is seen by the strip's queries from `i - ahead` on.
            const int first = step % tiles * COLUMNS + strip, ahead = first - warp_row;
            if (first >= rows || ahead + STRIP <= 0) {
                continue;
            }
            float p[M][N][4], ds[M][N][4];
            multiply_rows<DIM>(p, warp_k, tile + strip * DIM);
            multiply_rows<DIM>(ds, warp_v, tile + TILE + strip * DIM);
            if (ahead < WARP_ROWS - 1) {
                hide(p, [&](int key, int query) { return key > query + ahead; });
            }
            UNROLL for (int n = 0; n < N; n++) {
                const int column = strip + n * 8 + lane % 4 * 2;
                const Pack<float, 2> shifts = load_pack<2>(of_columns + column), deltas = load_pack<2>(of_columns + COLUMNS + column);
                UNROLL for (int m = 0; m < M; m++) {
                    UNROLL for (int at = 0; at < 4; at++) {
                        p[m][n][at] = power_of_two(p[m][n][at] * to_power - shifts.values[at % 2]);
                        ds[m][n][at] = p[m][n][at] * (ds[m][n][at] - deltas.values[at % 2]);
                    }
                }
            }
            add_weighted_rows<DIM>(dv_sums, p, tile + TILE + strip * DIM);
            add_weighted_rows<DIM>(dk_sums, ds, tile + strip * DIM);
        }
        if (step + 1 < steps) {
            columns[(step + 1) % 2 * 2 * COLUMNS + threadIdx.x] = next;
        }
    }
    scale_all(dk_sums, scale);
    const int64_t to = row + warp_row;
    store_rows<DIM>(warp_k, dk_sums, dk + to * dk_stride + kv_head * dim, dk_stride, rows - warp_row, dim);
    store_rows<DIM>(warp_v, dv_sums, dv + to * dv_stride + kv_head * dim, dv_stride, rows - warp_row, dim);
}

// Gradients of QUERIES queries: their rows times the columns of keys, in tiles of COLUMNS.
template <int DIM, int COLUMNS, int N>
__device__ __forceinline__ void backward_q(const bf16* q, const bf16* k, const bf16* v, const bf16* d_out, const float* lse,
                                           const float* delta, const int* sequences, const int* blocks, bf16* dq, int q_stride,
                                           int k_stride, int v_stride, int d_out_stride, int dq_stride, int group, int dim,
                                           float scale) {
    constexpr int M = WARP_QUERIES / 16, STRIP = 8 * N, TILE = COLUMNS * DIM;
    DYNAMIC_SHARED(bf16, q_tile);                                               // [QUERIES, DIM]
    bf16* d_out_tile = q_tile + QUERIES * DIM;                                  // [QUERIES, DIM]
    bf16* kv_tiles = d_out_tile + QUERIES * DIM;                                // two of keys and values, [2, 2, COLUMNS, DIM]
    float* of_rows = reinterpret_cast<float*>(kv_tiles + 4 * TILE);             // lse and delta, [2, QUERIES]: there are no registers left
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int head = blockIdx.x, heads = gridDim.x, kv_column = head / group * dim;
    const Work work = work_of(sequences, blocks, blockIdx.y);
    const int64_t row = work.row + work.first;
    const int rows = work.queries - work.first;
    const int tiles = (min(work.first + QUERIES, work.keys) + COLUMNS - 1) / COLUMNS;
    k += static_cast<int64_t>(work.row) * k_stride + kv_column;
    v += static_cast<int64_t>(work.row) * v_stride + kv_column;
    const auto copy_keys = [&](int tile) {
        const int64_t key = tile * COLUMNS;
        bf16* to = kv_tiles + tile % 2 * 2 * TILE;
        copy_tile<DIM, COLUMNS>(to, k + key * k_stride, k_stride, work.keys - tile * COLUMNS, dim);
        copy_tile<DIM, COLUMNS>(to + TILE, v + key * v_stride, v_stride, work.keys - tile * COLUMNS, dim);
        commit_copies();
    };
    copy_tile<DIM, QUERIES>(q_tile, q + row * q_stride + head * dim, q_stride, rows, dim);
    copy_tile<DIM, QUERIES>(d_out_tile, d_out + row * d_out_stride + head * dim, d_out_stride, rows, dim);
    copy_keys(0);
    static_assert(THREADS == QUERIES);
    const int64_t of_thread = (row + threadIdx.x) * heads + head;
    const bool has_row = static_cast<int>(threadIdx.x) < rows;
    of_rows[threadIdx.x] = has_row ? lse[of_thread] * LOG2_E : 0.0f;
    of_rows[QUERIES + threadIdx.x] = has_row ? delta[of_thread] : 0.0f;

    const int warp_row = warp * WARP_QUERIES;
    bf16* warp_q = q_tile + warp_row * DIM;
    const bf16* warp_d_out = d_out_tile + warp_row * DIM;
    const int warp_last = warp_row < rows ? work.first + warp_row : -WARP_QUERIES; // a warp without queries sees nothing
    const float to_power = scale * LOG2_E;
    float sums[M][DIM / 8][4];
    clear(sums);
    for (int tile = 0; tile < tiles; tile++) {
        wait_copies<0>();
        __syncthreads();
        if (tile + 1 < tiles) {
            copy_keys(tile + 1);
        }
        const bf16* k_tile = kv_tiles + tile % 2 * 2 * TILE;
        for (int strip = 0; strip < COLUMNS; strip += STRIP) {
            // The warp's query i sees the strip's keys up to `seen + i`.
            const int seen = warp_last - tile * COLUMNS - strip;
            if (seen + WARP_QUERIES <= 0) {
                continue;
            }
            float p[M][N][4], ds[M][N][4];
            multiply_rows<DIM>(p, warp_q, k_tile + strip * DIM);
            if (seen < STRIP - 1) {
                hide(p, [&](int query, int key) { return key > seen + query; });
            }
            multiply_rows<DIM>(ds, warp_d_out, k_tile + TILE + strip * DIM);
            UNROLL for (int m = 0; m < M; m++) {
                UNROLL for (int half = 0; half < 2; half++) {
                    const int query = warp_row + m * 16 + half * 8 + lane / 4;
                    const float shift = of_rows[query], of_row = of_rows[QUERIES + query];
                    UNROLL for (int n = 0; n < N; n++) {
                        UNROLL for (int at = 2 * half; at < 2 * half + 2; at++) {
                            ds[m][n][at] = power_of_two(p[m][n][at] * to_power - shift) * (ds[m][n][at] - of_row);
                        }
                    }
                }
            }
            add_weighted_rows<DIM>(sums, ds, k_tile + strip * DIM);
        }
    }
    scale_all(sums, scale);
    store_rows<DIM>(warp_q, sums, dq + (row + warp_row) * dq_stride + head * dim, dq_stride, rows - warp_row, dim);
}

} // namespace

// Of a tile of the larger heads: as many as nvcc keeps in registers, 48 from sm_90 on. Shared memory is given for 48.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int KEYS_128 = 32;
#else
constexpr int KEYS_128 = 48;
#endif

KERNEL(128) void attention_forward_64(const bf16* q, const bf16* k, const bf16* v, const uint64_t* addresses, const int* sequences,
                                      const int* blocks, bf16* out, float* lse, int q_stride, int k_stride, int v_stride,
                                      int out_stride, int group, int dim, float scale) {
    forward<64, 64>(q, k, v, addresses, sequences, blocks, out, lse, q_stride, k_stride, v_stride, out_stride, group, dim, scale);
}

KERNEL(128) void attention_forward_128(const bf16* q, const bf16* k, const bf16* v, const uint64_t* addresses, const int* sequences,
                                       const int* blocks, bf16* out, float* lse, int q_stride, int k_stride, int v_stride,
                                       int out_stride, int group, int dim, float scale) {
    forward<128, KEYS_128>(q, k, v, addresses, sequences, blocks, out, lse, q_stride, k_stride, v_stride, out_stride, group, dim, scale);
}

KERNEL(128) void attention_delta(const bf16* d_out, const bf16* out, float* delta, int count, int heads, int d_out_stride, int out_stride,
                                 int dim) {
    constexpr int LANES = 16; // of 8 columns each
    const int at = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES, column = threadIdx.x % LANES * 8;
    float sum = 0.0f;
    if (at < count && column < dim) {
        const int64_t token = at / heads;
        const int first = at % heads * dim + column;
        const Pack<bf16, 8> gradients = load_pack<8>(d_out + token * d_out_stride + first);
        const Pack<bf16, 8> values = load_pack<8>(out + token * out_stride + first);
        for (int index = 0; index < 8; index++) {
            sum += widen(gradients.values[index]) * widen(values.values[index]);
        }
    }
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    }
    if (at < count && column == 0) {
        delta[at] = sum;
    }
}

KERNEL(128) void attention_backward_kv_64(const bf16* q, const bf16* k, const bf16* v, const bf16* d_out, const float* lse,
                                          const float* delta, const int* sequences, const int* blocks, bf16* dk, bf16* dv,
                                          int q_stride, int k_stride, int v_stride, int d_out_stride, int dk_stride, int dv_stride,
                                          int group, int dim, float scale) {
    backward_kv<64, 2, 4>(q, k, v, d_out, lse, delta, sequences, blocks, dk, dv, q_stride, k_stride,
                          v_stride, d_out_stride, dk_stride, dv_stride, group, dim, scale);
}

KERNEL(128) void attention_backward_kv_128(const bf16* q, const bf16* k, const bf16* v, const bf16* d_out, const float* lse,
                                           const float* delta, const int* sequences, const int* blocks, bf16* dk, bf16* dv,
                                           int q_stride, int k_stride, int v_stride, int d_out_stride, int dk_stride, int dv_stride,
                                           int group, int dim, float scale) {
    backward_kv<128, 1, 8>(q, k, v, d_out, lse, delta, sequences, blocks, dk, dv, q_stride, k_stride,
                           v_stride, d_out_stride, dk_stride, dv_stride, group, dim, scale);
}

KERNEL(128) void attention_backward_q_64(const bf16* q, const bf16* k, const bf16* v, const bf16* d_out, const float* lse,
                                         const float* delta, const int* sequences, const int* blocks, bf16* dq, int q_stride,
                                         int k_stride, int v_stride, int d_out_stride, int dq_stride, int group, int dim,
                                         float scale) {
    backward_q<64, 64, 4>(q, k, v, d_out, lse, delta, sequences, blocks, dq, q_stride, k_stride, v_stride,
                          d_out_stride, dq_stride, group, dim, scale);
}

KERNEL(128) void attention_backward_q_128(const bf16* q, const bf16* k, const bf16* v, const bf16* d_out, const float* lse,
                                          const float* delta, const int* sequences, const int* blocks, bf16* dq, int q_stride,
                                          int k_stride, int v_stride, int d_out_stride, int dq_stride, int group, int dim,
                                          float scale) {
    backward_q<128, 32, 4>(q, k, v, d_out, lse, delta, sequences, blocks, dq, q_stride, k_stride,
                           v_stride, d_out_stride, dq_stride, group, dim, scale);
}
