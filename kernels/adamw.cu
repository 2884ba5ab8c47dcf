// adamw: Adam with decoupled weight decay, of all tensors of an adapter in one launch
//
// math       g = gradient_scale gradient, m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, rate = lr lr_ratio,
//            p = p (1 - rate weight_decay) - rate (m / correction1) / (sqrt(v / correction2) + epsilon), correction = 1 - beta^step
// shapes     pieces: see pieces.cuh; everything f32
// launch     a block a piece, 256 threads
// cost       28 bytes and about 15 FLOP a value; the table costs 48 bytes a piece of 16 KiB
// reference  reference::adamw
// source     Loshchilov, Hutter 2017, arXiv:1711.05101
#include "pieces.cuh"

namespace {

struct Step {
    float rate, keep, gradient_scale, beta1, beta2, epsilon, correction1, correction2;
};

template <int COUNT> __device__ __forceinline__ void update(const Piece& piece, int64_t first, const Step& step) {
    const Pack<float, COUNT> gradients = load_pack<COUNT>(piece.gradient + first);
    Pack<float, COUNT> parameters = load_pack<COUNT>(static_cast<const float*>(piece.parameter + first));
    Pack<float, COUNT> m = load_pack<COUNT>(static_cast<const float*>(piece.first_moment + first));
    Pack<float, COUNT> v = load_pack<COUNT>(static_cast<const float*>(piece.second_moment + first));
    UNROLL for (int at = 0; at < COUNT; at++) {
        const float gradient = gradients.values[at] * step.gradient_scale;
        m.values[at] = step.beta1 * m.values[at] + (1.0f - step.beta1) * gradient;
        v.values[at] = step.beta2 * v.values[at] + (1.0f - step.beta2) * gradient * gradient;
        const float denominator = sqrtf(v.values[at] / step.correction2) + step.epsilon;
        const float moved = step.rate * (m.values[at] / step.correction1) / denominator;
        parameters.values[at] = parameters.values[at] * step.keep - moved;
    }
    store_pack(piece.parameter + first, parameters);
    store_pack(piece.first_moment + first, m);
    store_pack(piece.second_moment + first, v);
}

} // namespace

KERNEL(256) void adamw(const Piece* all, float lr, float gradient_scale, float beta1, float beta2, float epsilon, float correction1,
                       float correction2) {
    const Piece piece = all[blockIdx.x];
    const float rate = lr * piece.lr_ratio;
    const Step step{rate, 1.0f - rate * piece.weight_decay, gradient_scale, beta1, beta2, epsilon, correction1, correction2};
    const int64_t whole = piece.len / 4 * 4;
    for (int64_t first = 4 * threadIdx.x; first < whole; first += 4 * pieces::THREADS) {
        update<4>(piece, first, step);
    }
    if (whole + threadIdx.x < piece.len) {
        update<1>(piece, whole + threadIdx.x, step);
    }
}
