//! The linear layers that read one activation, with their LoRA updates: forward and backward.

mod dora;

use std::borrow::Cow;
use std::collections::BTreeMap;

use rag_tune_kernels::adapted::{self, Layer, Update};
use rag_tune_kernels::cuda::{Device, Row};
use rag_tune_kernels::dropout::Dropout;
use rag_tune_kernels::gated::{self, Gated, Wanted};
use rag_tune_kernels::linear::{self, Input, Write, product_nn, product_nt, product_tn};
use rag_tune_kernels::{Compute, KernelError, Matrix, Stored, Tensor, bias, swiglu};

use self::dora::{Dora, add_rescaled, rescaled, scale_columns, scaled_rows};
pub(crate) use self::dora::{add_update, factor, length, row_norms};
use crate::lora::{Adapter, LoraFactors, Place};

/// A frozen layer and its update.
#[derive(Clone, Copy)]
pub(crate) struct AdaptedLinear<'a> {
    pub(crate) weight: &'a Matrix,
    /// `[out]`, frozen. Added last: as in PEFT, DoRA does not rescale it.
    bias: Option<Row<'a>>,
    lora: Option<&'a LoraFactors>,
    /// Of the update.
    scaling: f32,
    dora: Option<Dora<'a>>,
}

/// An adapter, and what a pass derives from it and the base.
pub(crate) struct AppliedAdapter<'a> {
    /// Where the base is, as products read it.
    adapter: Cow<'a, Adapter>,
    /// Norms of the adapted weights' rows, where the adapter has magnitudes.
    norms: BTreeMap<Place, Vec<f32>>,
}

impl<'a> AppliedAdapter<'a> {
    /// `weight` gives the base's, which lies on `device` if there is one.
    pub(crate) fn new<'m>(
        adapter: &'a Adapter,
        device: Option<&Device>,
        weight: impl Fn(Place) -> &'m Matrix,
    ) -> Result<Self, KernelError> {
        let mut norms = BTreeMap::new();
        for (place, lora) in &adapter.layers {
            if lora.magnitude.is_some() {
                let update = Some((lora, adapter.scaling(*place)));
                norms.insert(*place, row_norms(weight(*place), update)?);
            }
        }
        let adapter = match device {
            None => Cow::Borrowed(adapter),
            Some(_) if adapter.device() == device => Cow::Owned(adapter.to_operands()?),
            Some(device) => Cow::Owned(adapter.to_device(device)?.to_operands()?),
        };
        Ok(Self { adapter, norms })
    }
}

impl<'a> AdaptedLinear<'a> {
    /// The layer at `place`, with its update if it has one.
    pub(crate) fn new(
        weight: &'a Matrix,
        bias: Option<Row<'a>>,
        place: Place,
        adapter: Option<&'a AppliedAdapter<'_>>,
    ) -> Self {
        let lora = adapter.and_then(|applied| applied.adapter.get(place));
        let norms = adapter.and_then(|applied| applied.norms.get(&place));
        let magnitude = lora.and_then(|lora| lora.magnitude.as_ref());
        Self {
            weight,
            bias,
            lora,
            scaling: adapter.map_or(0.0, |applied| applied.adapter.scaling(place)),
            dora: magnitude
                .zip(norms)
                .map(|(magnitude, norms)| Dora { magnitude, norms }),
        }
    }

    /// As products take it.
    fn with_down<'d>(&self, down: Option<&'d Tensor>) -> Layer<'d>
    where
        'a: 'd,
    {
        let update = self.lora.zip(down).map(|(lora, down)| Update {
            down,
            b: &lora.b,
            scaling: self.scaling,
        });
        Layer {
            weight: self.weight,
            update,
            bias: self.bias,
        }
    }
}

/// Whether an update reads what the layers read, before products round it.
pub(crate) fn is_any_adapted(layers: &[AdaptedLinear<'_>]) -> bool {
    layers.iter().any(|layer| layer.lora.is_some())
}

/// What the layers of a group read.
pub(crate) struct Read<'t, 'x> {
    input: &'t Input<'x>,
    /// What their updates read, where it is not the same.
    dropped: Option<Tensor>,
}

impl Read<'_, '_> {
    /// `dropout(x) A^T`, where the layer has an update.
    fn down(&self, layer: &AdaptedLinear<'_>) -> Result<Option<Tensor>, KernelError> {
        let Some(lora) = layer.lora else {
            return Ok(None);
        };
        let x = self.dropped.as_ref().unwrap_or_else(|| self.input.tensor());
        let mut down = x.stale_operand_beside(x.rows(), lora.a.rows())?;
        product_nt(&mut down, 0.0, 1.0, x, &lora.a)?;
        Ok(Some(down))
    }
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
    /// What the updates of `layers` read of `x`, where that is not all of it.
    fn dropped<'t>(
        &self,
        layers: &[AdaptedLinear<'_>],
        x: impl FnOnce() -> &'t Tensor,
    ) -> Result<Option<Tensor>, KernelError> {
        self.dropout
            .filter(|dropout| dropout.probability > 0.0 && is_any_adapted(layers))
            .map(|dropout| dropout.apply(x()))
            .transpose()
    }

    /// What `layers` read, `[tokens, in]`.
    pub(crate) fn read<'t, 'x>(
        &self,
        input: &'t Input<'x>,
        layers: &[AdaptedLinear<'_>],
    ) -> Result<Read<'t, 'x>, KernelError> {
        let dropped = self.dropped(layers, || input.tensor())?;
        Ok(Read { input, dropped })
    }

    /// A layer's output `[tokens, out]`, bias included, plus `residual`; and its down.
    pub(crate) fn output(
        &self,
        read: &Read<'_, '_>,
        layer: &AdaptedLinear<'_>,
        residual: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>), KernelError> {
        let down = read.down(layer)?;
        let output = match (layer.dora, layer.lora, &down) {
            (Some(dora), Some(lora), Some(down)) => {
                let mut output = self.dora_output(read, layer, (dora, lora), down)?;
                if let Some(residual) = residual {
                    output.add_assign(residual)?;
                }
                output
            }
            _ => adapted::forward(read.input, layer.with_down(down.as_ref()), residual)?,
        };
        Ok((output, down))
    }

    /// As [`Self::output`] of three layers, where a device does that in one launch.
    pub(crate) fn three_outputs(
        &self,
        read: &Read<'_, '_>,
        layers: &[AdaptedLinear<'_>; 3],
    ) -> Result<Option<([Tensor; 3], Downs)>, KernelError> {
        let weights = layers.each_ref().map(|layer| layer.weight);
        let is_dora = layers.iter().any(|layer| layer.dora.is_some());
        if is_dora || !adapted::takes_three(read.input, weights) {
            return Ok(None);
        }
        let downs = layers.iter().map(|layer| read.down(layer));
        let downs = downs.collect::<Result<Downs, _>>()?;
        let with_downs =
            std::array::from_fn(|index| layers[index].with_down(downs[index].as_ref()));
        let outputs = adapted::forward_three(read.input, with_downs)?;
        Ok(Some((outputs, downs)))
    }

    fn dora_output(
        &self,
        read: &Read<'_, '_>,
        layer: &AdaptedLinear<'_>,
        (dora, lora): (Dora<'_>, &LoraFactors),
        down: &Tensor,
    ) -> Result<Tensor, KernelError> {
        let mut output = linear::forward(read.input, layer.weight)?;
        let factors = dora.factors();
        match &read.dropped {
            None => scale_columns(&mut output, &factors),
            Some(dropped) => {
                let dropped = Input::new(dropped, self.compute);
                let base = linear::forward(&dropped, layer.weight)?;
                add_rescaled(&mut output, &base, &factors);
            }
        }
        let b = scaled_rows(&lora.b, &factors);
        product_nt(&mut output, 1.0, layer.scaling, down, &b)?;
        if let Some(bias) = layer.bias {
            bias::add(&mut output, bias)?;
        }
        Ok(output)
    }

    /// As [`Self::output`], as it waits for the backward pass.
    pub(crate) fn stored(
        &self,
        read: &Read<'_, '_>,
        layer: &AdaptedLinear<'_>,
    ) -> Result<(Stored, Option<Tensor>), KernelError> {
        if layer.dora.is_some() {
            let (output, down) = self.output(read, layer, None)?;
            return Ok((Stored::new(output, self.compute), down));
        }
        let down = read.down(layer)?;
        let output = adapted::stored(read.input, layer.with_down(down.as_ref()))?;
        Ok((output, down))
    }

    /// `silu(gate(x)) * up(x)` `[tokens, out]` of two layers, and their downs.
    pub(crate) fn gated(
        &self,
        read: &Read<'_, '_>,
        layers: [AdaptedLinear<'_>; 2],
        wanted: Wanted,
    ) -> Result<(Gated, Downs), KernelError> {
        if layers.iter().any(|layer| layer.dora.is_some()) {
            let [gate, up] = layers.map(|layer| self.stored(read, &layer));
            let ((gate, gate_down), (up, up_down)) = (gate?, up?);
            let product = Input::owned(swiglu::forward(&gate, &up)?, self.compute);
            return Ok((Gated { product, gate, up }, vec![gate_down, up_down]));
        }
        let [gate, up] = layers.map(|layer| read.down(&layer));
        let downs = vec![gate?, up?];
        let parts = std::array::from_fn(|index| layers[index].with_down(downs[index].as_ref()));
        Ok((gated::forward(read.input, parts, wanted)?, downs))
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
        let mut d_x = x.stale_beside(x.rows(), x.cols())?;
        // What comes first replaces, what follows is added.
        let mut write = Write::Set;
        let dropped = self.dropped(&layers, || x)?;
        let lora_input = dropped.as_ref().unwrap_or(x);
        if is_any_adapted(&layers) {
            let base_input = match layers.iter().any(|layer| layer.dora.is_some()) {
                true => Some(Input::new(lora_input, self.compute)),
                false => None,
            };
            for (index, layer) in layers.iter().enumerate() {
                let (Some(lora), Some(down), Some(gradient)) =
                    (layer.lora, &downs[index], gradients[index].as_mut())
                else {
                    continue;
                };
                let d_output = &*d_outputs[index].to_operand()?;
                let b = match (layer.dora, &base_input) {
                    (Some(dora), Some(input)) => {
                        let base = linear::forward(input, layer.weight)?;
                        dora_gradients(layer, dora, d_output, down, &base, gradient)?;
                        if dropped.is_some() {
                            let d_base = rescaled(d_output, &dora.factors());
                            self.add_backward(&d_base, layer.weight, &mut write, &mut d_x)?;
                        }
                        &scaled_rows(&lora.b, &dora.factors())
                    }
                    _ => {
                        product_tn(&mut gradient.b, 1.0, layer.scaling, d_output, down)?;
                        &lora.b
                    }
                };
                let mut d_down = x.stale_operand_beside(x.rows(), lora.a.rows())?;
                product_nn(&mut d_down, 0.0, layer.scaling, d_output, b)?;
                product_tn(&mut gradient.a, 1.0, 1.0, &d_down, lora_input)?;
                product_nn(&mut d_x, write.keep(), 1.0, &d_down, &lora.a)?;
                write = Write::Add;
            }
            // The same mask as in the forward pass: values that fell out pass no gradient.
            if let Some(dropout) = self.dropout.filter(|dropout| dropout.probability > 0.0)
                && write == Write::Add
            {
                dropout.apply_in_place(&mut d_x)?;
            }
        }
        for (layer, d_output) in layers.iter().zip(d_outputs) {
            // With dropout, the rest of what DoRA passes back went through the mask above.
            match layer.dora.filter(|_| dropped.is_none()) {
                None => self.add_backward(d_output, layer.weight, &mut write, &mut d_x)?,
                Some(dora) => {
                    let mut d_base = d_output.clone();
                    scale_columns(&mut d_base, &dora.factors());
                    self.add_backward(&d_base, layer.weight, &mut write, &mut d_x)?;
                }
            }
        }
        Ok(d_x)
    }

    /// `d_x (+)= d_output W`; whatever comes next is added.
    fn add_backward(
        &self,
        d_output: &Tensor,
        weight: &Matrix,
        write: &mut Write,
        d_x: &mut Tensor,
    ) -> Result<(), KernelError> {
        linear::backward(d_output, weight, self.compute, *write, d_x)?;
        *write = Write::Add;
        Ok(())
    }
}

/// The gradients of `B` and of the magnitude.
fn dora_gradients(
    layer: &AdaptedLinear<'_>,
    dora: Dora<'_>,
    d_output: &Tensor,
    down: &Tensor,
    base: &Tensor,
    gradient: &mut LoraFactors,
) -> Result<(), KernelError> {
    let Some(lora) = layer.lora else {
        return Ok(());
    };
    let mut d_b = Tensor::zeros(lora.b.rows(), lora.b.cols());
    product_tn(&mut d_b, 0.0, layer.scaling, d_output, down)?;
    let update = (0..d_b.rows()).map(|out| {
        let pairs = d_b.row(out).iter().zip(lora.b.row(out));
        pairs.map(|(d_b, b)| d_b * b).sum()
    });
    let update: Vec<f32> = update.collect();
    if let Some(magnitude) = gradient.magnitude.as_mut() {
        dora.add_gradient(magnitude, d_output, base, &update);
    }
    gradient.b.add_assign(&scaled_rows(&d_b, &dora.factors()))
}
