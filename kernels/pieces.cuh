// The table of an adapter's tensors: cuda/adamw.rs builds it, adamw.cu and grad_norm.cu read it.
#pragma once

#include "common.cuh"

// At most PIECE values of a tensor, which one block takes: no thread searches for the tensor that it is in.
struct Piece {
    // Multiples of 16.
    float* parameter;
    const float* gradient;
    float* first_moment;
    float* second_moment;
    // The tensor's learning rate over that of the step.
    float lr_ratio;
    float weight_decay;
    int64_t len;
};
static_assert(sizeof(Piece) == 48, "as cuda/adamw.rs writes it");

namespace pieces {
constexpr int THREADS = 256;
}
