//! One block of a Llama: forward, and backward from what the forward pass kept.
//!
//! ```text
//! h = x + o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n))),   n = rms_norm(x)
//! y = h + down_proj(silu(gate_proj(m)) * up_proj(m)),                       m = rms_norm(h)
//! ```

use rag_tune_kernels::attention::{self, AttentionOutput, Heads, Qkv};
use rag_tune_kernels::rope::{RopeTable, Turn};
use rag_tune_kernels::{Compute, KernelError, Matrix, Sequences, Tensor, rms_norm, swiglu};

use crate::linear::{AdaptedLinear, AppliedAdapter, Downs, GroupContext};
use crate::lora::{AdapterGradient, LoraDropout, LoraFactors, Projection};

/// The frozen weights of one block.
pub(crate) struct Block {
    pub(crate) layer: usize,
    /// `input_layernorm`, `[hidden]`
    pub(crate) attention_norm: Vec<f32>,
    /// `post_attention_layernorm`, `[hidden]`
    pub(crate) mlp_norm: Vec<f32>,
    /// By [`Projection`], in the order of [`Projection::ALL`].
    pub(crate) weights: [Matrix; 7],
}

/// What all blocks of a pass share.
#[derive(Clone, Copy)]
pub(crate) struct BlockContext<'a> {
    pub(crate) heads: Heads,
    pub(crate) eps: f32,
    pub(crate) compute: Compute,
    pub(crate) rope: &'a RopeTable,
    /// `[tokens]`
    pub(crate) positions: &'a [u32],
    pub(crate) adapter: Option<&'a AppliedAdapter<'a>>,
    pub(crate) dropout: Option<LoraDropout>,
}

/// What the backward pass needs: norms and the SwiGLU product are recomputed.
pub(crate) struct Saved {
    x: Tensor,
    attention: AttentionInputs,
    attended: AttentionOutput,
    h: Tensor,
    gate: Tensor,
    up: Tensor,
    o_down: Downs,
    gate_up_downs: Downs,
    down_down: Downs,
}

/// Queries, keys and values after RoPE.
pub(crate) struct AttentionInputs {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    downs: Downs,
}

impl AttentionInputs {
    fn qkv(&self) -> Qkv<'_> {
        Qkv {
            q: &self.q,
            k: &self.k,
            v: &self.v,
        }
    }
}

/// What the second half of a block leaves behind, besides its output.
struct MlpSaved {
    gate: Tensor,
    up: Tensor,
    gate_up_downs: Downs,
    down_down: Downs,
}

/// The activation sites of a block, each with its own dropout mask.
#[derive(Clone, Copy)]
enum Site {
    AttentionInput,
    AttentionOutput,
    MlpInput,
    MlpProduct,
}

impl Block {
    fn adapted<'a>(
        &'a self,
        context: BlockContext<'a>,
        projection: Projection,
    ) -> AdaptedLinear<'a> {
        let weight = &self.weights[projection as usize];
        AdaptedLinear::new(weight, (self.layer, projection), context.adapter)
    }

    fn group(&self, context: BlockContext<'_>, site: Site) -> GroupContext {
        GroupContext {
            compute: context.compute,
            dropout: context
                .dropout
                .map(|dropout| dropout.at(self.layer, site as usize)),
        }
    }

    fn qkv_layers<'a>(&'a self, context: BlockContext<'a>) -> [AdaptedLinear<'a>; 3] {
        [Projection::Q, Projection::K, Projection::V]
            .map(|projection| self.adapted(context, projection))
    }

    fn gate_up_layers<'a>(&'a self, context: BlockContext<'a>) -> [AdaptedLinear<'a>; 2] {
        [Projection::Gate, Projection::Up].map(|projection| self.adapted(context, projection))
    }

    /// The first third: norm, projections, RoPE.
    pub(crate) fn attention_inputs(
        &self,
        x: &Tensor,
        context: BlockContext<'_>,
    ) -> Result<AttentionInputs, KernelError> {
        let normed = rms_norm::forward(x, &self.attention_norm, context.eps)?;
        let group = self.group(context, Site::AttentionInput);
        let ([mut q, mut k, v], downs) = group.forward(&normed, self.qkv_layers(context))?;
        context
            .rope
            .apply(&mut q, context.positions, Turn::Forward)?;
        context
            .rope
            .apply(&mut k, context.positions, Turn::Forward)?;
        Ok(AttentionInputs { q, k, v, downs })
    }

    /// `h = x + o_proj(attended)`
    fn add_attention(
        &self,
        mut x: Tensor,
        attended: &Tensor,
        context: BlockContext<'_>,
    ) -> Result<(Tensor, Downs), KernelError> {
        let group = self.group(context, Site::AttentionOutput);
        let ([out], downs) = group.forward(attended, [self.adapted(context, Projection::O)])?;
        x.add_assign(&out)?;
        Ok((x, downs))
    }

    /// `y = h + mlp(h)`
    fn add_mlp(
        &self,
        h: &Tensor,
        context: BlockContext<'_>,
    ) -> Result<(Tensor, MlpSaved), KernelError> {
        let normed = rms_norm::forward(h, &self.mlp_norm, context.eps)?;
        let group = self.group(context, Site::MlpInput);
        let ([gate, up], gate_up_downs) = group.forward(&normed, self.gate_up_layers(context))?;
        let product = swiglu::forward(&gate, &up)?;
        let group = self.group(context, Site::MlpProduct);
        let ([mut y], down_down) =
            group.forward(&product, [self.adapted(context, Projection::Down)])?;
        y.add_assign(h)?;
        Ok((
            y,
            MlpSaved {
                gate,
                up,
                gate_up_downs,
                down_down,
            },
        ))
    }

    /// The rest of the block after attention, for generation.
    pub(crate) fn after_attention(
        &self,
        x: Tensor,
        attended: &Tensor,
        context: BlockContext<'_>,
    ) -> Result<Tensor, KernelError> {
        let (h, _) = self.add_attention(x, attended, context)?;
        Ok(self.add_mlp(&h, context)?.0)
    }

    /// The whole block over packed sequences, keeping what the backward pass needs.
    pub(crate) fn forward(
        &self,
        x: Tensor,
        sequences: &Sequences,
        context: BlockContext<'_>,
    ) -> Result<(Tensor, Saved), KernelError> {
        let attention = self.attention_inputs(&x, context)?;
        let attended = attention::forward(attention.qkv(), sequences, context.heads)?;
        let (h, o_down) = self.add_attention(x.clone(), &attended.out, context)?;
        let (y, mlp) = self.add_mlp(&h, context)?;
        let MlpSaved {
            gate,
            up,
            gate_up_downs,
            down_down,
        } = mlp;
        Ok((
            y,
            Saved {
                x,
                attention,
                attended,
                h,
                gate,
                up,
                o_down,
                gate_up_downs,
                down_down,
            },
        ))
    }

    /// `d loss / d x` from `d loss / d y`; adapter gradients are added to `gradient`.
    pub(crate) fn backward(
        &self,
        d_y: Tensor,
        saved: Saved,
        sequences: &Sequences,
        context: BlockContext<'_>,
        gradient: &mut AdapterGradient,
    ) -> Result<Tensor, KernelError> {
        let d_h = self.mlp_backward(d_y, &saved, context, gradient)?;
        self.attention_backward(d_h, &saved, sequences, context, gradient)
    }

    fn mlp_backward(
        &self,
        d_y: Tensor,
        saved: &Saved,
        context: BlockContext<'_>,
        gradient: &mut AdapterGradient,
    ) -> Result<Tensor, KernelError> {
        let product = swiglu::forward(&saved.gate, &saved.up)?;
        let down = [self.adapted(context, Projection::Down)];
        let group = self.group(context, Site::MlpProduct);
        let d_y = [d_y];
        let gradients = self.gradients(gradient, [Projection::Down]);
        let d_product = group.backward(&d_y, &product, down, &saved.down_down, gradients)?;
        drop(product);
        let (d_gate, d_up) = swiglu::backward(d_product, &saved.gate, &saved.up)?;
        let normed = rms_norm::forward(&saved.h, &self.mlp_norm, context.eps)?;
        let group = self.group(context, Site::MlpInput);
        let gradients = self.gradients(gradient, [Projection::Gate, Projection::Up]);
        let layers = self.gate_up_layers(context);
        let d_normed = group.backward(
            &[d_gate, d_up],
            &normed,
            layers,
            &saved.gate_up_downs,
            gradients,
        )?;
        let [mut d_h] = d_y;
        rms_norm::backward(&d_normed, &saved.h, &self.mlp_norm, context.eps, &mut d_h)?;
        Ok(d_h)
    }

    fn attention_backward(
        &self,
        d_h: Tensor,
        saved: &Saved,
        sequences: &Sequences,
        context: BlockContext<'_>,
        gradient: &mut AdapterGradient,
    ) -> Result<Tensor, KernelError> {
        let group = self.group(context, Site::AttentionOutput);
        let layers = [self.adapted(context, Projection::O)];
        let gradients = self.gradients(gradient, [Projection::O]);
        let d_h = [d_h];
        let d_attended =
            group.backward(&d_h, &saved.attended.out, layers, &saved.o_down, gradients)?;
        let qkv = saved.attention.qkv();
        let mut d_qkv =
            attention::backward(&d_attended, qkv, &saved.attended, sequences, context.heads)?;
        context
            .rope
            .apply(&mut d_qkv.q, context.positions, Turn::Backward)?;
        context
            .rope
            .apply(&mut d_qkv.k, context.positions, Turn::Backward)?;
        let normed = rms_norm::forward(&saved.x, &self.attention_norm, context.eps)?;
        let group = self.group(context, Site::AttentionInput);
        let gradients = self.gradients(gradient, [Projection::Q, Projection::K, Projection::V]);
        let d_outputs = [d_qkv.q, d_qkv.k, d_qkv.v];
        let layers = self.qkv_layers(context);
        let d_normed = group.backward(
            &d_outputs,
            &normed,
            layers,
            &saved.attention.downs,
            gradients,
        )?;
        let [mut d_x] = d_h;
        rms_norm::backward(
            &d_normed,
            &saved.x,
            &self.attention_norm,
            context.eps,
            &mut d_x,
        )?;
        Ok(d_x)
    }

    /// This block's places in the gradient. `projections` must be in the order of [`Projection`].
    fn gradients<'g, const N: usize>(
        &self,
        gradient: &'g mut AdapterGradient,
        projections: [Projection; N],
    ) -> [Option<&'g mut LoraFactors>; N] {
        let first = (self.layer, projections[0]);
        let last = (self.layer, projections[N - 1]);
        let mut found = std::array::from_fn(|_| None);
        for ((_, projection), factors) in gradient.layers.range_mut(first..=last) {
            if let Some(index) = projections.iter().position(|wanted| wanted == projection) {
                found[index] = Some(factors);
            }
        }
        found
    }
}
