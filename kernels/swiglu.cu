// swiglu: y = silu(gate) * up, silu(g) = g * sigmoid(g); and its gradient
//
// math       s = sigmoid(gate): y = gate s up;  d_gate = dy up s (1 + gate (1 - s)), d_up = dy gate s
// shapes     gate, up, y, dy, d_gate, d_up [rows, cols] bf16, each with a stride from row to row
// launch     elementwise.cuh: 512 packs of `width` (8 or 1) values a block, 256 threads
// cost       forward 6 bytes a value, backward 10; an exponential and a division each
// reference  reference::swiglu, reference::swiglu_backward
// source     Shazeer 2020, arXiv:2002.05202
#include "elementwise.cuh"

namespace {

template <int WIDTH>
__device__ __forceinline__ void forward(const bf16* gate, int gate_stride, const bf16* up, int up_stride, bf16* y, int y_stride,
                                        int rows, int cols) {
    struct Inputs {
        Pack<bf16, WIDTH> gate, up;
    };
    const auto load = [=](int64_t row, int col) {
        return Inputs{load_pack<WIDTH>(gate + row * gate_stride + col), load_pack<WIDTH>(up + row * up_stride + col)};
    };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, const Inputs& inputs) {
        Pack<bf16, WIDTH> products;
        UNROLL for (int at = 0; at < WIDTH; at++) {
            const float value = widen(inputs.gate.values[at]);
            products.values[at] = narrow<bf16>(value * sigmoid(value) * widen(inputs.up.values[at]));
        }
        store_pack(y + row * y_stride + col, products);
    });
}

template <int WIDTH>
__device__ __forceinline__ void backward(const bf16* dy, int dy_stride, const bf16* gate, int gate_stride, const bf16* up,
                                         int up_stride, bf16* d_gate, int d_gate_stride, bf16* d_up, int d_up_stride, int rows,
                                         int cols) {
    struct Inputs {
        Pack<bf16, WIDTH> dy, gate, up;
    };
    const auto load = [=](int64_t row, int col) {
        return Inputs{load_pack<WIDTH>(dy + row * dy_stride + col), load_pack<WIDTH>(gate + row * gate_stride + col),
                      load_pack<WIDTH>(up + row * up_stride + col)};
    };
    elementwise::each_pack<WIDTH>(rows, cols, load, [=](int64_t row, int col, const Inputs& inputs) {
        Pack<bf16, WIDTH> of_gate, of_up;
        UNROLL for (int at = 0; at < WIDTH; at++) {
            const float value = widen(inputs.gate.values[at]), gradient = widen(inputs.dy.values[at]);
            const float share = sigmoid(value), silu = value * share;
            of_gate.values[at] = narrow<bf16>(gradient * widen(inputs.up.values[at]) * (share + silu * (1.0f - share)));
            of_up.values[at] = narrow<bf16>(gradient * silu);
        }
        store_pack(d_gate + row * d_gate_stride + col, of_gate);
        store_pack(d_up + row * d_up_stride + col, of_up);
    });
}

} // namespace

KERNEL(256) void swiglu_forward(const bf16* gate, int gate_stride, const bf16* up, int up_stride, bf16* y, int y_stride, int rows,
                                int cols, int width) {
    if (width == 8) {
        forward<8>(gate, gate_stride, up, up_stride, y, y_stride, rows, cols);
    } else {
        forward<1>(gate, gate_stride, up, up_stride, y, y_stride, rows, cols);
    }
}

KERNEL(256) void swiglu_backward(const bf16* dy, int dy_stride, const bf16* gate, int gate_stride, const bf16* up, int up_stride,
                                 bf16* d_gate, int d_gate_stride, bf16* d_up, int d_up_stride, int rows, int cols, int width) {
    if (width == 8) {
        backward<8>(dy, dy_stride, gate, gate_stride, up, up_stride, d_gate, d_gate_stride, d_up, d_up_stride, rows, cols);
    } else {
        backward<1>(dy, dy_stride, gate, gate_stride, up, up_stride, d_gate, d_gate_stride, d_up, d_up_stride, rows, cols);
    }
}
