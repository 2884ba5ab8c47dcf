// attention_decode: attention of one new query a sequence to all keys of its cache
//
// math       out = softmax(scale q k^T) v; split along the keys: of each part its sum with weights exp(score - top), its top score
//            and its total of weights, which attention_decode_join puts together
// shapes     q, out [rows, query_heads * dim] bf16; addresses [rows, 2] u64: where a row's keys and values lie, [keys, kv_heads * dim]
//            bf16; all with a stride that is a multiple of 8; dim % 8 == 0, dim <= 64 or dim <= 128.
//            rows [rows, 2] i32: number of parts, first part; blocks [m, 4] i32: row, part, first key, end of the keys (a block
//            without keys has nothing to do: grids are a little larger than needed, so that they fit longer);
//            parts [parts, query_heads, dim + 2] f32, of rows with more than one part
// launch     128 threads, a grid of (kv_heads * ceil(group / 16), blocks), no dynamic shared memory; join: 128 threads,
//            a grid of (query_heads, rows)
// cost       4 dim FLOP a key and query head, 4 dim bytes a key and kv head (once for each 16 query heads that share them)
// reference  reference::attention (its last row)
// source     Dao et al. 2023, Flash-Decoding (crfm.stanford.edu/2023/10/12/flashdecoding.html)
//
// A product needs no order of its inner axis, nor of its columns: keys and values go from global memory to the registers where
// tensor cores want them, 16 bytes a load, and nothing is exchanged. A row's parts depend on its length only, and so do its bits.
#include "common.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;
constexpr int HEADS = 16; // of a block: the rows of a product
constexpr int STEP = 16;  // keys that a warp takes at a time
constexpr float LOG2_E = 1.44269504f;

// 8 columns as registers; zeros where they are not to be read.
__device__ __forceinline__ Pack<uint32_t, 4> load_columns(const bf16* from, bool valid) {
    return valid ? load_pack<4>(reinterpret_cast<const uint32_t*>(from)) : Pack<uint32_t, 4>{};
}

template <int DIM>
__device__ __forceinline__ void decode(const bf16* q, const uint64_t* addresses, const int* rows, const int* blocks, bf16* out,
                                       float* parts, int q_stride, int stride, int out_stride, int query_heads, int group, int dim,
                                       float scale) {
    constexpr int N = DIM / 8, PITCH = HEADS * 8 + 4; // 4 more: threads of a warp read different banks
    __shared__ float sums_of[WARPS][N][PITCH], top_of[WARPS][HEADS], total_of[WARPS][HEADS];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row_in_8 = lane / 4, in_group = lane % 4;
    const int tiles = (group + HEADS - 1) / HEADS, kv_head = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    const int first_head = kv_head * group + tile * HEADS, heads = min(HEADS, group - tile * HEADS);
    const int* block = blocks + 4 * blockIdx.y;
    const int row = block[0], part = block[1], first_key = block[2], end = block[3];
    if (first_key >= end) {
        return;
    }
    q += static_cast<int64_t>(row) * q_stride + first_head * dim;
    const bf16* k = reinterpret_cast<const bf16*>(addresses[2 * row]) + kv_head * dim;
    const bf16* v = reinterpret_cast<const bf16*>(addresses[2 * row + 1]) + kv_head * dim;

    // Of each 32 columns a lane has 8 that follow each other, in q as in k: two steps of a product.
    uint32_t queries[DIM / 16][4];
    UNROLL for (int at = 0; at < DIM / 32; at++) {
        const int column = at * 32 + in_group * 8;
        UNROLL for (int half = 0; half < 2; half++) {
            const int head = half * 8 + row_in_8;
            const auto words = load_columns(q + head * dim + column, head < heads && column < dim);
            UNROLL for (int word = 0; word < 4; word++) {
                queries[2 * at + word / 2][word % 2 * 2 + half] = words.values[word];
            }
        }
    }
    const float to_power = scale * LOG2_E;
    float sums[N][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    UNROLL for (int n = 0; n < N; n++) {
        UNROLL for (int at = 0; at < 4; at++) {
            sums[n][at] = 0.0f;
        }
    }
    for (int base = first_key + warp * STEP; base < end; base += WARPS * STEP) {
        Pack<uint32_t, 4> keys[2][DIM / 32], values[4][DIM / 64];
        UNROLL for (int n = 0; n < 2; n++) {
            const int key = base + n * 8 + row_in_8;
            UNROLL for (int at = 0; at < DIM / 32; at++) {
                const int column = at * 32 + in_group * 8;
                keys[n][at] = load_columns(k + static_cast<int64_t>(key) * stride + column, key < end && column < dim);
            }
        }
        // Values of the keys whose weights the lane will have: 2 in_group, the next, and those 8 further.
        UNROLL for (int index = 0; index < 4; index++) {
            const int key = base + index / 2 * 8 + in_group * 2 + index % 2;
            UNROLL for (int at = 0; at < DIM / 64; at++) {
                const int column = at * 64 + row_in_8 * 8;
                values[index][at] = load_columns(v + static_cast<int64_t>(key) * stride + column, key < end && column < dim);
            }
        }
        float scores[2][4] = {};
        UNROLL for (int n = 0; n < 2; n++) {
            UNROLL for (int step = 0; step < DIM / 16; step++) {
                const auto& words = keys[n][step / 2].values;
                const uint32_t right[2] = {words[step % 2 * 2], words[step % 2 * 2 + 1]};
                mma_bf16(scores[n], queries[step], right);
            }
            UNROLL for (int at = 0; at < 4; at++) {
                const int key = base + n * 8 + in_group * 2 + at % 2;
                scores[n][at] = key < end ? scores[n][at] : -INFINITY;
            }
        }
        UNROLL for (int half = 0; half < 2; half++) {
            const float before = top[half];
            // Finite: key `base` is there.
            float largest = fmaxf(before, fmaxf(fmaxf(scores[0][2 * half], scores[0][2 * half + 1]),
                                                fmaxf(scores[1][2 * half], scores[1][2 * half + 1])));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            const float kept = power_of_two((before - largest) * to_power), shift = largest * to_power;
            float sum = 0.0f;
            UNROLL for (int n = 0; n < 2; n++) {
                UNROLL for (int at = 2 * half; at < 2 * half + 2; at++) {
                    scores[n][at] = power_of_two(scores[n][at] * to_power - shift);
                    sum += scores[n][at];
                }
            }
            UNROLL for (int n = 0; n < N; n++) {
                sums[n][2 * half] *= kept;
                sums[n][2 * half + 1] *= kept;
            }
            top[half] = largest;
            total[half] = total[half] * kept + sum;
        }
        const uint32_t weights[4] = {pair(scores[0][0], scores[0][1]), pair(scores[0][2], scores[0][3]),
                                     pair(scores[1][0], scores[1][1]), pair(scores[1][2], scores[1][3])};
        // Product n has the columns 64 (n / 8) + n % 8 + 8 i: what a lane has loaded of each key.
        UNROLL for (int n = 0; n < N; n++) {
            const int at = n / 8, word = n % 8 / 2;
            const uint32_t halves = n % 2 == 0 ? 0x5410 : 0x7632;
            const uint32_t right[2] = {
                __byte_perm(values[0][at].values[word], values[1][at].values[word], halves),
                __byte_perm(values[2][at].values[word], values[3][at].values[word], halves),
            };
            mma_bf16(sums[n], weights, right);
        }
    }

    UNROLL for (int half = 0; half < 2; half++) {
        const int head = half * 8 + row_in_8;
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
        if (in_group == 0) {
            top_of[warp][head] = top[half];
            total_of[warp][head] = total[half];
        }
        UNROLL for (int n = 0; n < N; n++) {
            store_pack(&sums_of[warp][n][head * 8 + in_group * 2], Pack<float, 2>{{sums[n][2 * half], sums[n][2 * half + 1]}});
        }
    }
    __syncthreads();
    const int count = rows[2 * row];
    for (int at = threadIdx.x; at < heads * DIM; at += THREADS) {
        const int head = at / DIM, column = at % DIM, n = column / 64 * 8 + column % 8, place = head * 8 + column % 64 / 8;
        if (column >= dim) {
            continue;
        }
        float largest = -INFINITY, sum = 0.0f, all = 0.0f;
        for (int from = 0; from < WARPS; from++) {
            largest = fmaxf(largest, top_of[from][head]);
        }
        for (int from = 0; from < WARPS; from++) {
            const float factor = power_of_two((top_of[from][head] - largest) * to_power);
            sum += factor * sums_of[from][n][place];
            all += factor * total_of[from][head];
        }
        if (count == 1) {
            out[static_cast<int64_t>(row) * out_stride + (first_head + head) * dim + column] = narrow<bf16>(sum / all);
            continue;
        }
        float* to = parts + (static_cast<int64_t>(rows[2 * row + 1] + part) * query_heads + first_head + head) * (dim + 2);
        to[column] = sum;
        if (column == 0) {
            to[dim] = largest;
            to[dim + 1] = all;
        }
    }
}

} // namespace

KERNEL(128) void attention_decode_64(const bf16* q, const uint64_t* addresses, const int* rows, const int* blocks, bf16* out, float* parts,
                                     int q_stride, int stride, int out_stride, int query_heads, int group, int dim, float scale) {
    decode<64>(q, addresses, rows, blocks, out, parts, q_stride, stride, out_stride, query_heads, group, dim, scale);
}

KERNEL(128) void attention_decode_128(const bf16* q, const uint64_t* addresses, const int* rows, const int* blocks, bf16* out, float* parts,
                                      int q_stride, int stride, int out_stride, int query_heads, int group, int dim, float scale) {
    decode<128>(q, addresses, rows, blocks, out, parts, q_stride, stride, out_stride, query_heads, group, dim, scale);
}

KERNEL(128) void attention_decode_join(const float* parts, const int* rows, bf16* out, int out_stride, int dim, float scale) {
    const int head = blockIdx.x, row = blockIdx.y, count = rows[2 * row], column = threadIdx.x;
    if (count == 1 || column >= dim) {
        return;
    }
    const int64_t from_part = static_cast<int64_t>(gridDim.x) * (dim + 2);
    const float* from = parts + rows[2 * row + 1] * from_part + head * (dim + 2);
    float largest = -INFINITY, sum = 0.0f, all = 0.0f;
    for (int part = 0; part < count; part++) {
        largest = fmaxf(largest, from[part * from_part + dim]);
    }
    for (int part = 0; part < count; part++) {
        const float* of_part = from + part * from_part;
        const float factor = power_of_two((of_part[dim] - largest) * (scale * LOG2_E));
        sum += factor * of_part[column];
        all += factor * of_part[dim + 1];
    }
    out[static_cast<int64_t>(row) * out_stride + head * dim + column] = narrow<bf16>(sum / all);
}
