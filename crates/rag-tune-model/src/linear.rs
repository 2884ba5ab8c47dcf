//! The linear layers that read one activation, with their LoRA updates: forward and backward.

use rag_tune_kernels::dropout::Dropout;
use rag_tune_kernels::linear::{self, Input, product_nn, product_nt, product_tn};
use rag_tune_kernels::{Compute, KernelError, Matrix, Tensor};

use crate::lora::LoraFactors;

/// A frozen layer and its update.
#[derive(Clone, Copy)]
pub(crate) struct AdaptedLinear<'a> {
    pub(crate) weight: &'a Matrix,
    pub(crate) lora: Option<&'a LoraFactors>,
    /// Of the update.
    pub(crate) scaling: f32,
}

/// How the layers of a group compute.
#[derive(Clone, Copy)]
pub(crate) struct GroupContext {
    pub(crate) compute: Compute,
    /// Of the updates' input, in training.
    pub(crate) dropout: Option<Dropout>,
}

/// For each layer `dropout(x) A^T`, `[tokens, rank]`, where it has an update.
pub(crate) type Downs = Vec<Option<Tensor>>;

impl GroupContext {
    fn dropped(&self, x: &Tensor) -> Option<Tensor> {
        self.dropout
            .filter(|dropout| dropout.probability > 0.0)
            .map(|dropout| dropout.apply(x))
    }

    /// Outputs `[tokens, out]` of the layers on `x` `[tokens, in]`.
    pub(crate) fn forward<const N: usize>(
        &self,
        x: &Tensor,
        layers: [AdaptedLinear<'_>; N],
    ) -> Result<([Tensor; N], Downs), KernelError> {
        let input = Input::new(x, self.compute)?;
        let adapted = layers.iter().any(|layer| layer.lora.is_some());
        let dropped = if adapted { self.dropped(x) } else { None };
        let lora_input = dropped.as_ref().unwrap_or(x);
        let mut outputs = std::array::from_fn(|_| Tensor::default());
        let mut downs = Vec::with_capacity(N);
        for (layer, output) in layers.iter().zip(&mut outputs) {
            *output = linear::forward(&input, layer.weight)?;
            let Some(lora) = layer.lora else {
                downs.push(None);
                continue;
            };
            let mut down = Tensor::zeros(x.rows(), lora.a.rows());
            product_nt(&mut down, 0.0, 1.0, lora_input, &lora.a)?;
            product_nt(output, 1.0, layer.scaling, &down, &lora.b)?;
            downs.push(Some(down));
        }
        Ok((outputs, downs))
    }

    /// The gradient of `x` from those of the outputs; the factors' are added to `gradients`.
    pub(crate) fn backward<const N: usize>(
        &self,
        d_outputs: &[Tensor; N],
        x: &Tensor,
        layers: [AdaptedLinear<'_>; N],
        downs: &Downs,
        mut gradients: [Option<&mut LoraFactors>; N],
    ) -> Result<Tensor, KernelError> {
        let mut d_x = Tensor::zeros(x.rows(), x.cols());
        let adapted = layers.iter().any(|layer| layer.lora.is_some());
        let dropped = if adapted { self.dropped(x) } else { None };
        let lora_input = dropped.as_ref().unwrap_or(x);
        if adapted {
            let mut keep = 0.0;
            for (index, layer) in layers.iter().enumerate() {
                let (Some(lora), Some(down), Some(gradient)) =
                    (layer.lora, &downs[index], gradients[index].as_mut())
                else {
                    continue;
                };
                let d_output = &d_outputs[index];
                let mut d_down = Tensor::zeros(x.rows(), lora.a.rows());
                product_nn(&mut d_down, 0.0, layer.scaling, d_output, &lora.b)?;
                product_tn(&mut gradient.b, 1.0, layer.scaling, d_output, down)?;
                product_tn(&mut gradient.a, 1.0, 1.0, &d_down, lora_input)?;
                product_nn(&mut d_x, keep, 1.0, &d_down, &lora.a)?;
                keep = 1.0;
            }
            // The same mask as in the forward pass: values that fell out pass no gradient.
            if let Some(dropout) = self.dropout.filter(|dropout| dropout.probability > 0.0) {
                dropout.apply_in_place(&mut d_x);
            }
        }
        for (layer, d_output) in layers.iter().zip(d_outputs) {
            linear::backward(d_output, layer.weight, self.compute, &mut d_x)?;
        }
        Ok(d_x)
    }
}
