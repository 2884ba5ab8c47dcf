// rms_norm: y = x / rms(x) * weight, rms(x) = sqrt(mean(x^2) + eps); and its gradient
//
// math       r = 1 / rms(x): y = x r weight;  g = dy weight: dx += r (g - x r^2 mean(g x))
// shapes     x, dx [rows, cols] f32, weight [cols] f32, y [rows, cols] bf16 with `stride` from row to row, dy [rows, cols] f32 or bf16
// launch     a block a row, 256 threads, `width` (4 or 1) values at a time, no dynamic shared memory; any number of columns
// cost       forward 4 FLOP and 6 bytes a value; backward 8 FLOP, 14 to 16 bytes
// reference  reference::rms_norm, reference::rms_norm_backward
// source     Zhang, Sennrich 2019, arXiv:1910.07467
#include "common.cuh"

namespace {

constexpr int THREADS = 256;
// Packs that a thread keeps in registers: a row of up to 8,192 columns (by fours) is read once, and all of it is on its way at a time.
constexpr int HELD = 8;

template <int WIDTH>
__device__ __forceinline__ void forward(const float* x, const float* weight, bf16* y, int cols, float eps, float* scratch) {
    const int packs = cols / WIDTH, first = threadIdx.x;
    Pack<float, WIDTH> held[HELD];
    float squares = 0.0f;
    const auto add = [&](const Pack<float, WIDTH>& values) {
        UNROLL for (int i = 0; i < WIDTH; i++) {
            squares += values.values[i] * values.values[i];
        }
    };
    UNROLL for (int at = 0; at < HELD; at++) {
        if (first + at * THREADS < packs) {
            held[at] = load_pack<WIDTH>(x + (first + at * THREADS) * WIDTH);
        }
    }
    UNROLL for (int at = 0; at < HELD; at++) {
        if (first + at * THREADS < packs) {
            add(held[at]);
        }
    }
    for (int pack = first + HELD * THREADS; pack < packs; pack += THREADS) {
        add(load_pack<WIDTH>(x + pack * WIDTH));
    }
    const float inverse = rsqrtf(block_sum(squares, scratch) / static_cast<float>(cols) + eps);
    const auto put = [&](int pack, const Pack<float, WIDTH>& values) {
        const auto weights = load_pack<WIDTH>(weight + pack * WIDTH);
        Pack<bf16, WIDTH> rounded;
        UNROLL for (int i = 0; i < WIDTH; i++) {
            rounded.values[i] = narrow<bf16>(values.values[i] * inverse * weights.values[i]);
        }
        store_pack(y + pack * WIDTH, rounded);
    };
    UNROLL for (int at = 0; at < HELD; at++) {
        if (first + at * THREADS < packs) {
            put(first + at * THREADS, held[at]);
        }
    }
    for (int pack = first + HELD * THREADS; pack < packs; pack += THREADS) {
        put(pack, load_pack<WIDTH>(x + pack * WIDTH));
    }
}

template <int WIDTH, typename T>
__device__ __forceinline__ void backward(const T* dy, const float* x, const float* weight, float* dx, int cols, float eps, float* scratch) {
    // Of each value of x what dy brings it: g = dy weight.
    struct Values {
        Pack<float, WIDTH> x, g;
    };
    const int packs = cols / WIDTH, first = threadIdx.x;
    const auto load = [&](int pack) {
        const auto gradients = load_pack<WIDTH>(dy + pack * WIDTH);
        const auto weights = load_pack<WIDTH>(weight + pack * WIDTH);
        Values values = {load_pack<WIDTH>(x + pack * WIDTH), {}};
        UNROLL for (int i = 0; i < WIDTH; i++) {
            values.g.values[i] = widen(gradients.values[i]) * weights.values[i];
        }
        return values;
    };
    Values held[HELD];
    float squares = 0.0f, products = 0.0f;
    const auto add = [&](const Values& values) {
        UNROLL for (int i = 0; i < WIDTH; i++) {
            squares += values.x.values[i] * values.x.values[i];
            products += values.g.values[i] * values.x.values[i];
        }
    };
    UNROLL for (int at = 0; at < HELD; at++) {
        if (first + at * THREADS < packs) {
            held[at] = load(first + at * THREADS);
            add(held[at]);
        }
    }
    for (int pack = first + HELD * THREADS; pack < packs; pack += THREADS) {
        add(load(pack));
    }
    const float count = static_cast<float>(cols);
    const float inverse = rsqrtf(block_sum(squares, scratch) / count + eps);
    const float share = inverse * inverse * (block_sum(products, scratch) / count);
    const auto put = [&](int pack, const Values& values) {
        auto sums = load_pack<WIDTH>(dx + pack * WIDTH);
        UNROLL for (int i = 0; i < WIDTH; i++) {
            sums.values[i] += inverse * (values.g.values[i] - values.x.values[i] * share);
        }
        store_pack(dx + pack * WIDTH, sums);
    };
    UNROLL for (int at = 0; at < HELD; at++) {
        if (first + at * THREADS < packs) {
            put(first + at * THREADS, held[at]);
        }
    }
    for (int pack = first + HELD * THREADS; pack < packs; pack += THREADS) {
        put(pack, load(pack));
    }
}

template <typename T>
__device__ __forceinline__ void backward_row(const T* dy, const float* x, const float* weight, float* dx, int cols, float eps, int width) {
    __shared__ float scratch[WARP];
    const int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    if (width == 4) {
        backward<4>(dy + row, x + row, weight, dx + row, cols, eps, scratch);
    } else {
        backward<1>(dy + row, x + row, weight, dx + row, cols, eps, scratch);
    }
}

} // namespace

KERNEL(256) void rms_norm_forward(const float* x, const float* weight, bf16* y, int cols, int stride, float eps, int width) {
    __shared__ float scratch[WARP];
    x += static_cast<int64_t>(blockIdx.x) * cols;
    y += static_cast<int64_t>(blockIdx.x) * stride;
    if (width == 4) {
        forward<4>(x, weight, y, cols, eps, scratch);
    } else {
        forward<1>(x, weight, y, cols, eps, scratch);
    }
}

KERNEL(256) void rms_norm_backward_bf16(const bf16* dy, const float* x, const float* weight, float* dx, int cols, float eps, int width) {
    backward_row(dy, x, weight, dx, cols, eps, width);
}

KERNEL(256) void rms_norm_backward_f32(const float* dy, const float* x, const float* weight, float* dx, int cols, float eps, int width) {
    backward_row(dy, x, weight, dx, cols, eps, width);
}
