//! One block of a Llama: forward, and backward from what the forward pass kept.
//!
//! ```text
//! h = x + o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n))),   n = rms_norm(x)
//! y = h + down_proj(silu(gate_proj(m)) * up_proj(m)),                       m = rms_norm(h)
//! ```

use rag_tune_kernels::attention::{self, AttentionOutput, Heads, Qkv};
use rag_tune_kernels::cuda::{Device, Row, Vector};
use rag_tune_kernels::gated::Wanted;
use rag_tune_kernels::linear::Input;
use rag_tune_kernels::rope::{RopeTable, Turn};
use rag_tune_kernels::sequences::Positions;
use rag_tune_kernels::{Compute, KernelError, Matrix, Sequences, Stored, Tensor, rms_norm, swiglu};

use crate::linear::{AdaptedLinear, AppliedAdapter, Downs, GroupContext, is_any_adapted};
use crate::lora::{AdapterGradient, LoraDropout, LoraFactors, Projection};
use crate::non_finite::Operation;

/// The frozen weights of one block.
pub(crate) struct Block {
    pub(crate) layer: usize,
    /// `input_layernorm`, `[hidden]`
    pub(crate) attention_norm: Vector,
    /// `post_attention_layernorm`, `[hidden]`
    pub(crate) mlp_norm: Vector,
    /// By [`Projection`], in the order of [`Projection::ALL`].
    pub(crate) weights: [Matrix; 7],
    /// As `weights`, each `[out]`: what a linear layer adds, where the model has that.
    pub(crate) biases: [Option<Vector>; 7],
}

/// What all blocks of a pass share.
#[derive(Clone, Copy)]
pub(crate) struct BlockContext<'a> {
    pub(crate) heads: Heads,
    pub(crate) eps: f32,
    pub(crate) compute: Compute,
    pub(crate) rope: &'a RopeTable,
    /// `[tokens]`
    pub(crate) positions: &'a Positions,
    pub(crate) adapter: Option<&'a AppliedAdapter<'a>>,
    pub(crate) dropout: Option<LoraDropout>,
}

/// What a pass keeps of each block for the backward pass. All give the same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// Only the block's input; the rest is computed again.
    BlockInput,
    /// All but the norms and the SwiGLU product.
    Selective,
    /// Everything.
    All,
}

/// What one block left for its backward pass.
pub(crate) enum Kept {
    BlockInput(Tensor),
    Saved(Box<Saved>),
}

/// What the backward pass needs. `None` is computed again.
pub(crate) struct Saved {
    attention: AttentionSaved,
    mlp: MlpSaved,
}

struct AttentionSaved {
    x: Tensor,
    normed: Option<Tensor>,
    q: Stored,
    k: Stored,
    v: Stored,
    qkv_downs: Downs,
    attended: Stored,
    /// Of attention's scores.
    lse: Tensor,
    o_down: Downs,
}

struct MlpSaved {
    h: Tensor,
    normed: Option<Tensor>,
    gate: Stored,
    up: Stored,
    gate_up_downs: Downs,
    product: Option<Tensor>,
    down_down: Downs,
}

/// Queries, keys and values after RoPE, rounded to what is stored of them.
pub(crate) struct AttentionInputs {
    pub(crate) q: Stored,
    pub(crate) k: Stored,
    pub(crate) v: Stored,
    downs: Downs,
    /// What the projections read.
    normed: Input<'static>,
}

/// Queries and keys before RoPE, and values.
pub(crate) struct Projected {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Stored,
    downs: Downs,
    /// What the projections read.
    normed: Input<'static>,
}

impl AttentionInputs {
    pub(crate) fn qkv(&self) -> Qkv<'_> {
        Qkv {
            q: &self.q,
            k: &self.k,
            v: &self.v,
        }
    }
}

/// The MLP's inner activations.
struct MlpInner {
    normed: Input<'static>,
    gate: Stored,
    up: Stored,
    gate_up_downs: Downs,
    product: Input<'static>,
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

/// The norm of `x` as `layers` read it.
fn normed(
    x: &Tensor,
    weight: &Vector,
    context: BlockContext<'_>,
    layers: &[AdaptedLinear<'_>],
) -> Result<Input<'static>, KernelError> {
    let exact = is_any_adapted(layers);
    rms_norm::input(x, weight, context.eps, context.compute, exact)
}

impl Block {
    /// The block with its weights on `device`.
    pub(crate) fn into_device(self, device: &Device) -> Result<Self, KernelError> {
        let mut block = self;
        for weight in &mut block.weights {
            *weight = weight.to_device(device)?;
        }
        for bias in block.biases.iter_mut().flatten() {
            *bias = bias.to_device(device)?;
        }
        block.attention_norm = block.attention_norm.to_device(device)?;
        block.mlp_norm = block.mlp_norm.to_device(device)?;
        Ok(block)
    }

    fn adapted<'a>(
        &'a self,
        context: BlockContext<'a>,
        projection: Projection,
    ) -> AdaptedLinear<'a> {
        let weight = &self.weights[projection as usize];
        let bias = self.biases[projection as usize].as_ref().map(Row::from);
        AdaptedLinear::new(weight, bias, (self.layer, projection), context.adapter)
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
        let Projected {
            q,
            k,
            v,
            downs,
            normed,
        } = self.projected(x, context)?;
        let (rope, positions) = (context.rope, context.positions);
        let [q, k] = [q, k].map(|tensor| rope.store(tensor, positions, context.compute));
        let (q, k) = (q?, k?);
        Ok(AttentionInputs {
            q,
            k,
            v,
            downs,
            normed,
        })
    }

    /// Norm and projections.
    pub(crate) fn projected(
        &self,
        x: &Tensor,
        context: BlockContext<'_>,
    ) -> Result<Projected, KernelError> {
        let layers = self.qkv_layers(context);
        let normed = normed(x, &self.attention_norm, context, &layers)?;
        let group = self.group(context, Site::AttentionInput);
        let read = group.read(&normed, &layers)?;
        let (q, k, v, downs) = match group.three_outputs(&read, &layers)? {
            Some(([q, k, v], downs)) => (q, k, Stored::new(v, context.compute), downs),
            None => {
                let [q, k, v] = &layers;
                let (q, q_down) = group.output(&read, q, None)?;
                let (k, k_down) = group.output(&read, k, None)?;
                let (v, v_down) = group.stored(&read, v)?;
                (q, k, v, vec![q_down, k_down, v_down])
            }
        };
        Ok(Projected {
            q,
            k,
            v,
            downs,
            normed,
        })
    }

    /// `h = x + o_proj(attended)`
    fn add_attention(
        &self,
        x: &Tensor,
        attended: &Stored,
        context: BlockContext<'_>,
    ) -> Result<(Tensor, Downs), KernelError> {
        let group = self.group(context, Site::AttentionOutput);
        let attended = Input::of_stored(attended, context.compute);
        let layer = self.adapted(context, Projection::O);
        let read = group.read(&attended, &[layer])?;
        let (h, down) = group.output(&read, &layer, Some(x))?;
        Ok((h, vec![down]))
    }

    /// `y = h + mlp(h)`
    fn add_mlp(
        &self,
        h: &Tensor,
        context: BlockContext<'_>,
        keep: bool,
    ) -> Result<(Tensor, MlpInner), KernelError> {
        let layers = self.gate_up_layers(context);
        let normed = normed(h, &self.mlp_norm, context, &layers)?;
        let group = self.group(context, Site::MlpInput);
        let down = self.adapted(context, Projection::Down);
        let wanted = Wanted {
            layers: keep,
            exact_product: is_any_adapted(&[down]),
        };
        let read = group.read(&normed, &layers)?;
        let (gated, gate_up_downs) = group.gated(&read, layers, wanted)?;
        let group = self.group(context, Site::MlpProduct);
        let read = group.read(&gated.product, &[down])?;
        let (y, down_down) = group.output(&read, &down, Some(h))?;
        let down_down = vec![down_down];
        let inner = MlpInner {
            normed,
            gate: gated.gate,
            up: gated.up,
            gate_up_downs,
            product: gated.product,
            down_down,
        };
        Ok((y, inner))
    }

    /// The rest of the block after attention, where nothing is kept.
    pub(crate) fn after_attention(
        &self,
        x: Tensor,
        attended: Stored,
        context: BlockContext<'_>,
    ) -> Result<Tensor, KernelError> {
        let (h, _) = self.add_attention(&x, &attended, context)?;
        drop((x, attended));
        Ok(self.add_mlp(&h, context, false)?.0)
    }

    /// The whole block over packed sequences, keeping nothing.
    pub(crate) fn output(
        &self,
        x: Tensor,
        sequences: &Sequences,
        context: BlockContext<'_>,
    ) -> Result<Tensor, KernelError> {
        let inputs = self.attention_inputs(&x, context)?;
        let attended = attention::forward(inputs.qkv(), sequences, context.heads)?;
        drop(inputs);
        self.after_attention(x, attended.out, context)
    }

    /// The whole block over packed sequences, keeping what `keep` says.
    pub(crate) fn forward(
        &self,
        x: Tensor,
        sequences: &Sequences,
        context: BlockContext<'_>,
        keep: Keep,
    ) -> Result<(Tensor, Kept), KernelError> {
        if keep == Keep::BlockInput {
            let y = self.output(x.clone(), sequences, context)?;
            return Ok((y, Kept::BlockInput(x)));
        }
        let (y, saved) = self.saving(x, sequences, context, keep)?;
        Ok((y, Kept::Saved(Box::new(saved))))
    }

    fn saving(
        &self,
        x: Tensor,
        sequences: &Sequences,
        context: BlockContext<'_>,
        keep: Keep,
    ) -> Result<(Tensor, Saved), KernelError> {
        let all = |input: Input<'static>| (keep == Keep::All).then(|| input.into_tensor());
        let inputs = self.attention_inputs(&x, context)?;
        let AttentionOutput { out, lse } =
            attention::forward(inputs.qkv(), sequences, context.heads)?;
        let AttentionInputs {
            q,
            k,
            v,
            downs,
            normed,
        } = inputs;
        let normed = all(normed);
        let (h, o_down) = self.add_attention(&x, &out, context)?;
        let attention = AttentionSaved {
            x,
            normed,
            q,
            k,
            v,
            qkv_downs: downs,
            attended: out,
            lse,
            o_down,
        };
        let (y, inner) = self.add_mlp(&h, context, true)?;
        let mlp = MlpSaved {
            h,
            normed: all(inner.normed),
            gate: inner.gate,
            up: inner.up,
            gate_up_downs: inner.gate_up_downs,
            product: all(inner.product),
            down_down: inner.down_down,
        };
        Ok((y, Saved { attention, mlp }))
    }

    /// The forward pass, telling each operation's output `[tokens, any]` as it is made.
    pub(crate) fn forward_told(
        &self,
        x: Tensor,
        sequences: &Sequences,
        context: BlockContext<'_>,
        tell: &mut dyn FnMut(Operation, &Tensor),
    ) -> Result<Tensor, KernelError> {
        let attention = self.attention_inputs(&x, context)?;
        tell(Operation::QProj, &*attention.q.widened().to_host()?);
        tell(Operation::KProj, &*attention.k.widened().to_host()?);
        tell(Operation::VProj, &*attention.v.widened().to_host()?);
        let attended = attention::forward(attention.qkv(), sequences, context.heads)?.out;
        tell(Operation::Attention, &*attended.widened().to_host()?);
        let (h, _) = self.add_attention(&x, &attended, context)?;
        tell(Operation::OProj, &*h.to_host()?);
        let (y, mlp) = self.add_mlp(&h, context, true)?;
        tell(Operation::GateProj, &*mlp.gate.into_tensor().to_host()?);
        tell(Operation::UpProj, &*mlp.up.into_tensor().to_host()?);
        tell(Operation::DownProj, &*y.to_host()?);
        Ok(y)
    }

    /// `d loss / d x` from `d loss / d y`; adapter gradients are added to `gradient`.
    pub(crate) fn backward(
        &self,
        d_y: Tensor,
        kept: Kept,
        sequences: &Sequences,
        context: BlockContext<'_>,
        gradient: &mut AdapterGradient,
    ) -> Result<Tensor, KernelError> {
        let Saved { attention, mlp } = match kept {
            Kept::Saved(saved) => *saved,
            Kept::BlockInput(x) => self.saving(x, sequences, context, Keep::Selective)?.1,
        };
        let d_h = self.mlp_backward(d_y, mlp, context, gradient)?;
        self.attention_backward(d_h, attention, sequences, context, gradient)
    }

    fn mlp_backward(
        &self,
        d_y: Tensor,
        saved: MlpSaved,
        context: BlockContext<'_>,
        gradient: &mut AdapterGradient,
    ) -> Result<Tensor, KernelError> {
        let product = match saved.product {
            Some(product) => product,
            None => swiglu::forward(&saved.gate, &saved.up)?,
        };
        let down = self.adapted(context, Projection::Down);
        let group = self.group(context, Site::MlpProduct);
        let d_y = [d_y];
        let gradients = self.gradients(gradient, [Projection::Down]);
        let d_product = group.backward(&d_y, &product, [down], &saved.down_down, gradients)?;
        drop(product);
        let (d_gate, d_up) = swiglu::backward(d_product, &saved.gate, &saved.up)?;
        drop((saved.gate, saved.up));
        let normed = match saved.normed {
            Some(normed) => normed,
            None => rms_norm::forward(&saved.h, &self.mlp_norm, context.eps)?,
        };
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
        saved: AttentionSaved,
        sequences: &Sequences,
        context: BlockContext<'_>,
        gradient: &mut AdapterGradient,
    ) -> Result<Tensor, KernelError> {
        let group = self.group(context, Site::AttentionOutput);
        let layers = [self.adapted(context, Projection::O)];
        let gradients = self.gradients(gradient, [Projection::O]);
        let d_h = [d_h];
        let attended = AttentionOutput {
            out: saved.attended,
            lse: saved.lse,
        };
        let wide = attended.out.widened();
        let d_attended = group.backward(&d_h, &wide, layers, &saved.o_down, gradients)?;
        drop(wide);
        let (q, k, v) = (saved.q, saved.k, saved.v);
        let qkv = Qkv {
            q: &q,
            k: &k,
            v: &v,
        };
        let mut d_qkv = attention::backward(&d_attended, qkv, &attended, sequences, context.heads)?;
        drop((q, k, v, attended, d_attended));
        let (rope, positions) = (context.rope, context.positions);
        rope.apply(&mut d_qkv.q, positions, Turn::Backward)?;
        rope.apply(&mut d_qkv.k, positions, Turn::Backward)?;
        let normed = match saved.normed {
            Some(normed) => normed,
            None => rms_norm::forward(&saved.x, &self.attention_norm, context.eps)?,
        };
        let group = self.group(context, Site::AttentionInput);
        let gradients = self.gradients(gradient, [Projection::Q, Projection::K, Projection::V]);
        let d_outputs = [d_qkv.q, d_qkv.k, d_qkv.v];
        let layers = self.qkv_layers(context);
        let d_normed = group.backward(&d_outputs, &normed, layers, &saved.qkv_downs, gradients)?;
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

#[cfg(test)]
impl Kept {
    /// Bytes of its tensors.
    pub(crate) fn bytes(&self) -> usize {
        let of = |tensor: &Tensor| size_of_val(tensor.data());
        let saved = match self {
            Self::BlockInput(x) => return of(x),
            Self::Saved(saved) => saved,
        };
        let (attention, mlp) = (&saved.attention, &saved.mlp);
        let plain = [&attention.x, &attention.lse, &mlp.h].into_iter();
        let optional = [&attention.normed, &mlp.normed, &mlp.product].into_iter();
        let downs = [
            &attention.qkv_downs,
            &attention.o_down,
            &mlp.gate_up_downs,
            &mlp.down_down,
        ];
        let stored = [
            &attention.q,
            &attention.k,
            &attention.v,
            &attention.attended,
            &mlp.gate,
            &mlp.up,
        ];
        plain.chain(optional.flatten()).map(of).sum::<usize>()
            + downs.into_iter().flatten().flatten().map(of).sum::<usize>()
            + stored.into_iter().map(Stored::bytes).sum::<usize>()
    }
}
