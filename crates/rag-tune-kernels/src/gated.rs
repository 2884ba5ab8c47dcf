//! gated: `silu(gate(x)) * up(x)`, `gate` and `up` being linear layers: a Llama's MLP up to its last layer.
//!
//! What the two layers give is twice as large as anything else in a block, and is only read once. Here it stays in the cache,
//! unless a backward pass will want it.

use crate::adapted::Layer;
use crate::buffer::Buffer;
use crate::cpu;
use crate::cpu::gated::Outputs;
use crate::cpu::gemm::Bf16Rows;
use crate::cpu::panels::Direction;
use crate::cpu::target::Target;
use crate::cuda;
use crate::error::KernelError;
use crate::linear::{Input, packed, takes_bf16};
use crate::matrix::Compute;
use crate::stored::Stored;
use crate::tensor::Tensor;
use crate::{adapted, swiglu};

/// What is wanted besides the product as other products read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The outputs of both layers, for a backward pass.
    pub layers: bool,
    /// The product before other products round it.
    pub exact_product: bool,
}

/// What [`forward`] returns.
pub struct Gated {
    /// `[tokens, out]`
    pub product: Input<'static>,
    /// Output of the first layer, `[tokens, out]`; if it was not wanted, perhaps `[0, out]`.
    pub gate: Stored,
    /// Of the second.
    pub up: Stored,
}

/// The same bits as [`adapted::stored`] of each layer and `swiglu::forward` behind them.
///
/// # Shapes
/// `x`: `[tokens, in]`, both weights: `[out, in]`; returns `[tokens, out]`
///
/// # Errors
/// [`KernelError::Shape`] if the shapes do not fit.
pub fn forward(
    x: &Input<'_>,
    layers: [Layer<'_>; 2],
    wanted: Wanted,
) -> Result<Gated, KernelError> {
    let [tokens, features] = x.shape();
    let [out, _] = layers[0].weight.shape();
    for layer in &layers {
        layer.check("gated::forward", [tokens, features], out)?;
    }
    if let Some(there) = x.on_device() {
        let product = match wanted.layers {
            true => None,
            false => cuda::adapted::gated(there?.buffer(), layers)?,
        };
        let Some(product) = product else {
            return one_by_one(x, layers);
        };
        let nothing = || Stored::from_bf16(0, out, Buffer::stale(0));
        return Ok(Gated {
            product: Input::owned(product, x.compute()),
            gate: nothing(),
            up: nothing(),
        });
    }
    let packed = layers.map(|layer| packed(layer.weight, Direction::Forward, x.compute()));
    let [Some((gate, gate_scales)), Some((up, up_scales))] = packed else {
        return one_by_one(x, layers);
    };
    // Nothing is rounded in the one; columns of outliers are added to whole products in the other.
    if matches!(x.compute(), Compute::F32 | Compute::LlmInt8) {
        return one_by_one(x, layers);
    }
    let is_rounded = takes_bf16(x.compute(), x.level());
    let mut rows = is_rounded.then(|| Bf16Rows::stale(tokens, out));
    let mut product = (wanted.exact_product || !is_rounded).then(|| Tensor::stale(tokens, out));
    let kept_tokens = if wanted.layers { tokens } else { 0 };
    let mut kept = [0; 2].map(|_| Buffer::stale(kept_tokens * out));
    let to = Outputs {
        product: product
            .as_mut()
            .map(|product| Target::new(product.data_mut(), out)),
        rounded: rows.as_mut().map(Bf16Rows::target),
        layers: wanted
            .layers
            .then(|| kept.each_mut().map(|values| Target::new(values, out))),
    };
    cpu::gated::forward(
        [&*x.product(gate), &*x.product(up)],
        [gate_scales, up_scales],
        layers,
        to,
    );
    let [gate, up] = kept.map(|values| Stored::from_bf16(kept_tokens, out, values));
    let product = match rows {
        Some(rows) => Input::rounded(rows, product, x.compute(), x.level()),
        None => Input::owned(product.unwrap_or_default(), x.compute()),
    };
    Ok(Gated { product, gate, up })
}

fn one_by_one(x: &Input<'_>, layers: [Layer<'_>; 2]) -> Result<Gated, KernelError> {
    let [gate, up] = layers.map(|layer| adapted::stored(x, layer));
    let (gate, up) = (gate?, up?);
    let product = Input::owned(swiglu::forward(&gate, &up)?, x.compute());
    Ok(Gated { product, gate, up })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapted::Update;
    use crate::matrix::Matrix;
    use crate::processor::Level;
    use crate::reference::testing::noise;
    use crate::stored::round;

    /// Tasks of one panel and of several, one row and many, edges of panels and tiles.
    #[test]
    fn the_same_bits_as_one_operation_after_the_other() {
        for [tokens, inner, out] in [[0, 5, 3], [1, 5, 3], [7, 70, 130], [900, 33, 600]] {
            let x = noise(tokens, inner, 1);
            let weights = [2, 3]
                .map(|seed| Matrix::int8(out, inner, noise(out, inner, seed).data()).unwrap());
            let (down, b) = (noise(tokens, 4, 4), noise(out, 4, 5));
            let bias = noise(1, out, 6).into_vec();
            let update = Some(Update {
                down: &down,
                b: &b,
                scaling: 0.5,
            });
            let layers = [
                Layer {
                    weight: &weights[0],
                    update,
                    bias: None,
                },
                Layer {
                    weight: &weights[1],
                    update: None,
                    bias: Some((&bias).into()),
                },
            ];
            for level in Level::available() {
                for compute in Compute::ALL {
                    let input = Input::at_level(&x, compute, None, level);
                    let expected = one_by_one(&input, layers).unwrap();
                    let expected_product = expected.product.into_tensor();
                    for wanted in [false, true] {
                        let all = Wanted {
                            layers: wanted,
                            exact_product: wanted,
                        };
                        let gated = forward(&input, layers, all).unwrap();
                        let mut expected_product = expected_product.clone();
                        if !wanted && takes_bf16(compute, level) {
                            round(&mut expected_product, compute);
                        }
                        let what = format!("{tokens} x {inner} x {out}, {compute:?}, {level:?}");
                        assert!(gated.product.into_tensor() == expected_product, "{what}");
                        if wanted {
                            for (kept, expected) in
                                [(gated.gate, &expected.gate), (gated.up, &expected.up)]
                            {
                                assert!(kept.widened() == expected.widened(), "{what}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = noise(2, 5, 1);
        let [weight, narrow] =
            [4, 3].map(|out| Matrix::int8(out, 5, noise(out, 5, 2).data()).unwrap());
        let (down, b) = (noise(2, 2, 3), noise(4, 3, 4));
        let plain = Layer {
            weight: &weight,
            update: None,
            bias: None,
        };
        let update = Some(Update {
            down: &down,
            b: &b,
            scaling: 1.0,
        });
        let input = Input::new(&x, Compute::Bf16);
        for other in [
            Layer {
                weight: &narrow,
                ..plain
            },
            Layer { update, ..plain },
            Layer {
                bias: Some((&[0.0; 3]).into()),
                ..plain
            },
        ] {
            assert!(forward(&input, [plain, other], Wanted::default()).is_err());
        }
    }
}
