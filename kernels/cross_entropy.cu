// cross_entropy: the loss of each row of logits, and its gradient
//
// math       lse = log sum_v exp(logits[v]): loss = lse - logits[label];  gradient[v] = scale (exp(logits[v] - lse) - [v = label])
// shapes     logits [rows, vocab] f32 or bf16 with a stride, labels [rows] below vocab -> losses [rows] f32, gradient [rows, vocab] in
//            the place of the logits, or bf16 with a stride of its own
// launch     a block a row, 512 threads; `width` (16 bytes, or 1) values an access; no gradient where its address is 0
// cost       logits are read twice (the maximum and the sum in one pass), the gradient is written once; 2 exponentials a value
// reference  reference::cross_entropy
// source     the pass for both: Milakov, Gimelshein 2018, arXiv:1805.02867
#include "common.cuh"

namespace {

constexpr int THREADS = 512;
// Not -infinity: the difference of two of them is no number.
constexpr float LOWEST = -3.402823466e38f;

// `work(col, pack)` for what falls to this thread of a row: two packs are loaded before either is used.
template <int WIDTH, typename T, typename Work> __device__ __forceinline__ void each_pack_of(const T* row, int cols, Work& work) {
    constexpr int STEP = THREADS * WIDTH;
    const int whole = cols / WIDTH * WIDTH;
    int col = threadIdx.x * WIDTH;
    for (; col + STEP < whole; col += 2 * STEP) {
        const Pack<T, WIDTH> pack = load_pack<WIDTH>(row + col), next = load_pack<WIDTH>(row + col + STEP);
        work(col, pack);
        work(col + STEP, next);
    }
    if (col < whole) {
        work(col, load_pack<WIDTH>(row + col));
    }
    for (col = whole + threadIdx.x; col < cols; col += THREADS) {
        work(col, load_pack<1>(row + col));
    }
}

// The largest of the values so far, and the sum of exp(value - largest).
struct Exponentials {
    float largest = LOWEST, sum = 0.0f;

    template <typename T, int COUNT> __device__ __forceinline__ void operator()(int, const Pack<T, COUNT>& pack) {
        float of_pack = largest;
        UNROLL for (int at = 0; at < COUNT; at++) {
            of_pack = fmaxf(of_pack, widen(pack.values[at]));
        }
        if (of_pack > largest) {
            sum *= __expf(largest - of_pack);
            largest = of_pack;
        }
        UNROLL for (int at = 0; at < COUNT; at++) {
            sum += __expf(widen(pack.values[at]) - largest);
        }
    }
};

template <typename U> struct Gradient {
    U* to;
    int label;
    float largest, factor, scale;

    template <typename T, int COUNT> __device__ __forceinline__ void operator()(int col, const Pack<T, COUNT>& pack) {
        Pack<U, COUNT> values;
        UNROLL for (int at = 0; at < COUNT; at++) {
            const float one_hot = col + at == label ? scale : 0.0f;
            values.values[at] = narrow<U>(factor * __expf(widen(pack.values[at]) - largest) - one_hot);
        }
        store_pack(to + col, values);
    }
};

template <int WIDTH, typename T, typename U>
__device__ __forceinline__ void loss_of_row(const T* logits, int logits_stride, const uint32_t* labels, float* losses, U* gradient,
                                            int gradient_stride, int vocab, float scale) {
    __shared__ float scratch[WARP];
    const int64_t row = blockIdx.x;
    const int label = labels[row];
    logits += row * logits_stride;
    const float target = widen(logits[label]);
    Exponentials own;
    each_pack_of<WIDTH>(logits, vocab, own);
    // Behind these barriers every thread has read what it needs of others' places: the gradient may take them.
    const float largest = block_max(own.largest, scratch);
    const float sum = block_sum(own.sum * __expf(own.largest - largest), scratch);
    if (threadIdx.x == 0) {
        losses[row] = largest + logf(sum) - target;
    }
    if (gradient != nullptr) {
        Gradient<U> work{gradient + row * gradient_stride, label, largest, scale / sum, scale};
        each_pack_of<WIDTH>(logits, vocab, work);
    }
}

} // namespace

KERNEL(512) void cross_entropy_f32(const float* logits, int logits_stride, const uint32_t* labels, float* losses, float* gradient,
                                   int gradient_stride, int vocab, float scale, int width) {
    if (width == 4) {
        loss_of_row<4>(logits, logits_stride, labels, losses, gradient, gradient_stride, vocab, scale);
    } else {
        loss_of_row<1>(logits, logits_stride, labels, losses, gradient, gradient_stride, vocab, scale);
    }
}

KERNEL(512) void cross_entropy_f32_to_bf16(const float* logits, int logits_stride, const uint32_t* labels, float* losses,
                                           bf16* gradient, int gradient_stride, int vocab, float scale, int width) {
    if (width == 4) {
        loss_of_row<4>(logits, logits_stride, labels, losses, gradient, gradient_stride, vocab, scale);
    } else {
        loss_of_row<1>(logits, logits_stride, labels, losses, gradient, gradient_stride, vocab, scale);
    }
}

KERNEL(512) void cross_entropy_bf16(const bf16* logits, int logits_stride, const uint32_t* labels, float* losses, bf16* gradient,
                                    int gradient_stride, int vocab, float scale, int width) {
    if (width == 8) {
        loss_of_row<8>(logits, logits_stride, labels, losses, gradient, gradient_stride, vocab, scale);
    } else {
        loss_of_row<1>(logits, logits_stride, labels, losses, gradient, gradient_stride, vocab, scale);
    }
}
