//! LoRA: a frozen linear layer plus a learned low-rank update.
//!
//! `y = base(x) + scaling * (dropout(x) A^T) B^T`, `scaling = alpha / rank`
//! (Hu et al. 2021, arXiv:2106.09685, eq. 3). DoRA adds a length for every row: `linear/dora.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use rag_tune_kernels::cuda::Device;
use rag_tune_kernels::dropout::Dropout;
use rag_tune_kernels::{KernelError, Tensor};
use serde::{Deserialize, Serialize};

use crate::config::LlamaConfig;
use crate::lora_settings::LoraSettings;

/// A linear layer of a block, spelt as in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// `self_attn.q_proj`
    #[serde(rename = "q_proj")]
    Q,
    /// `self_attn.k_proj`
    #[serde(rename = "k_proj")]
    K,
    /// `self_attn.v_proj`
    #[serde(rename = "v_proj")]
    V,
    /// `self_attn.o_proj`
    #[serde(rename = "o_proj")]
    O,
    /// `mlp.gate_proj`
    #[serde(rename = "gate_proj")]
    Gate,
    /// `mlp.up_proj`
    #[serde(rename = "up_proj")]
    Up,
    /// `mlp.down_proj`
    #[serde(rename = "down_proj")]
    Down,
}

impl Projection {
    /// All of a block's, in the order of its forward pass.
    pub const ALL: [Self; 7] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Its name in the checkpoint, for instance `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// Its name inside a block, for instance `self_attn.q_proj`.
    pub fn path(self) -> String {
        let module = match self {
            Self::Q | Self::K | Self::V | Self::O => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("{module}.{}", self.name())
    }

    /// `[out, in]` of its weight.
    pub fn shape(self, config: &LlamaConfig) -> [usize; 2] {
        let hidden = config.hidden_size;
        let query = config.num_attention_heads * config.head_dim;
        let key_value = config.num_key_value_heads * config.head_dim;
        match self {
            Self::Q => [query, hidden],
            Self::K | Self::V => [key_value, hidden],
            Self::O => [hidden, query],
            Self::Gate | Self::Up => [config.intermediate_size, hidden],
            Self::Down => [hidden, config.intermediate_size],
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the head and the embedding have no adapter.
pub const BLOCKS_ONLY: &str = "only the linear layers of the blocks are adapted: `lm_head` stays in 16 bits and may be \
     the embedding itself, llama.cpp refuses an adapter of it, and not every release of vLLM takes one";

/// Which layer of which block, in the order in which parameters are stored and updated.
pub type Place = (usize, Projection);

/// The factors of one layer's update, or what an optimizer holds for them.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFactors {
    /// `A`: `[rank, in]`
    pub a: Tensor,
    /// `B`: `[out, rank]`
    pub b: Tensor,
    /// DoRA's lengths of the adapted weight's rows: `[1, out]`
    pub magnitude: Option<Tensor>,
}

/// Which tensor of a layer's update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// `A`
    A,
    /// `B`
    B,
    /// DoRA's magnitude.
    Magnitude,
}

impl LoraFactors {
    /// Its tensors, always in this order.
    pub fn tensors(&self) -> impl Iterator<Item = (Factor, &Tensor)> {
        let magnitude = self.magnitude.as_ref();
        [(Factor::A, &self.a), (Factor::B, &self.b)]
            .into_iter()
            .chain(magnitude.map(|magnitude| (Factor::Magnitude, magnitude)))
    }

    /// A copy on `device`.
    ///
    /// # Errors
    /// [`KernelError`] if the device's memory is not enough, or there is a magnitude, with which devices do not compute yet.
    pub(crate) fn to_device(&self, device: &Device) -> Result<Self, KernelError> {
        if self.magnitude.is_some() {
            return Err(KernelError::Value {
                operation: "LoraFactors::to_device",
                problem: "adapters with DoRA are not computed with on devices yet: take `device = \"cpu\"`"
                    .to_owned(),
            });
        }
        Ok(Self {
            a: self.a.to_device(device)?,
            b: self.b.to_device(device)?,
            magnitude: None,
        })
    }

    /// As [`LoraFactors::tensors`].
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = (Factor, &mut Tensor)> {
        let magnitude = self.magnitude.as_mut();
        [(Factor::A, &mut self.a), (Factor::B, &mut self.b)]
            .into_iter()
            .chain(magnitude.map(|magnitude| (Factor::Magnitude, magnitude)))
    }
}

/// A LoRA adapter: the factors of every adapted layer, f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// How it is shaped and scaled.
    pub settings: LoraSettings,
    /// The factors by place.
    pub layers: BTreeMap<Place, LoraFactors>,
    /// From `settings`, whose patterns take time to match.
    scalings: BTreeMap<Place, f32>,
}

impl Adapter {
    /// A fresh adapter: `A` Kaiming-uniform with `a = sqrt(5)` (uniform in `+-1/sqrt(in)`, PEFT's
    /// default), `B` zero, so that step 0 is exactly the base model.
    ///
    /// DoRA's magnitudes are the base's, which are not known here: they are left at zero, and
    /// [`Llama::fresh_adapter`](crate::llama::Llama::fresh_adapter) fills them in.
    pub fn new(config: &LlamaConfig, settings: LoraSettings, seed: u64) -> Self {
        let mut layers = BTreeMap::new();
        let mut random = SplitMix64(seed);
        for place in settings.places(config.num_hidden_layers) {
            let rank = settings.rank_at(place);
            let [out_features, in_features] = place.1.shape(config);
            let bound = 1.0 / (in_features as f32).sqrt();
            let a = Tensor::from_fn(rank, in_features, |_, _| random.symmetric() * bound);
            let b = Tensor::zeros(out_features, rank);
            let magnitude = settings.use_dora.then(|| Tensor::zeros(1, out_features));
            layers.insert(place, LoraFactors { a, b, magnitude });
        }
        let scalings = layers
            .keys()
            .map(|place| (*place, settings.scaling_at(*place)))
            .collect();
        Self {
            settings,
            layers,
            scalings,
        }
    }

    /// The factors of one layer, if it is adapted.
    pub fn get(&self, place: Place) -> Option<&LoraFactors> {
        self.layers.get(&place)
    }

    /// Every tensor, in the order in which parameters are stored and updated.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        tensors_mut(&mut self.layers)
    }

    /// Where its factors lie; `None` is host memory.
    pub fn device(&self) -> Option<&Device> {
        self.layers.values().next()?.a.device()
    }

    /// A copy on `device`.
    ///
    /// # Errors
    /// [`KernelError`] if the device's memory is not enough, or there is a magnitude, with which devices do not compute yet.
    pub fn to_device(&self, device: &Device) -> Result<Self, KernelError> {
        let layers = self.layers.iter();
        let there = layers.map(|(place, factors)| Ok((*place, factors.to_device(device)?)));
        Ok(Self {
            settings: self.settings.clone(),
            layers: there.collect::<Result<_, KernelError>>()?,
            scalings: self.scalings.clone(),
        })
    }

    /// A copy with its factors as products read them where they lie.
    pub(crate) fn to_operands(&self) -> Result<Self, KernelError> {
        let mut rounded = self.clone();
        for tensor in rounded.tensors_mut() {
            *tensor = tensor.to_operand()?.into_owned();
        }
        Ok(rounded)
    }

    /// The adapter in host memory; without a copy where it is.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails, now or in something launched before.
    pub fn to_host(&self) -> Result<Cow<'_, Self>, KernelError> {
        if self.device().is_none() {
            return Ok(Cow::Borrowed(self));
        }
        let mut here = self.clone();
        for tensor in here.tensors_mut() {
            *tensor = tensor.to_host()?.into_owned();
        }
        Ok(Cow::Owned(here))
    }

    /// Only what adapts the block `layer`.
    pub(crate) fn of_block(&self, layer: usize) -> Self {
        let here = self.layers.iter().filter(|((at, _), _)| *at == layer);
        Self {
            settings: self.settings.clone(),
            layers: here.map(|(place, lora)| (*place, lora.clone())).collect(),
            scalings: self.scalings.clone(),
        }
    }

    /// What the update of one layer is multiplied by.
    pub fn scaling(&self, place: Place) -> f32 {
        self.scalings.get(&place).copied().unwrap_or_default()
    }

    /// Zeros in the shape of the factors, in host memory: where gradients are summed.
    pub fn zero_gradient(&self) -> AdapterGradient {
        self.zero_gradient_on(None)
            .expect("host memory is not refused")
    }

    /// As [`Adapter::zero_gradient`], on `device` if there is one.
    ///
    /// # Errors
    /// [`KernelError::Device`] if its memory is not enough.
    pub fn zero_gradient_on(
        &self,
        device: Option<&Device>,
    ) -> Result<AdapterGradient, KernelError> {
        let zeros = |[rows, cols]: [usize; 2]| match device {
            None => Ok(Tensor::zeros(rows, cols)),
            Some(device) => Tensor::zeros_on(device, rows, cols),
        };
        let layers = self.layers.iter().map(|(place, factors)| {
            let magnitude = factors.magnitude.as_ref().map(|it| zeros(it.shape()));
            let gradient = LoraFactors {
                a: zeros(factors.a.shape())?,
                b: zeros(factors.b.shape())?,
                magnitude: magnitude.transpose()?,
            };
            Ok((*place, gradient))
        });
        let layers = layers.collect::<Result<_, KernelError>>()?;
        Ok(AdapterGradient { layers })
    }

    /// Number of trained values.
    pub fn parameters(&self) -> usize {
        let tensors = self.layers.values().flat_map(LoraFactors::tensors);
        tensors.map(|(_, tensor)| tensor.len()).sum()
    }
}

/// Gradients of an adapter's factors, by place.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterGradient {
    /// As [`Adapter::layers`].
    pub layers: BTreeMap<Place, LoraFactors>,
}

impl AdapterGradient {
    /// Every tensor, in the adapter's order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let tensors = self.layers.values().flat_map(LoraFactors::tensors);
        tensors.map(|(_, tensor)| tensor)
    }

    /// Every tensor, in the adapter's order.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        tensors_mut(&mut self.layers)
    }

    /// Where it lies; `None` is host memory.
    pub fn device(&self) -> Option<&Device> {
        self.tensors().next()?.device()
    }

    /// Adds another, which may lie on a device where this one does not.
    ///
    /// # Errors
    /// [`KernelError`] if it has other shapes, or the driver fails.
    pub fn add(&mut self, other: &Self) -> Result<(), KernelError> {
        for (mine, others) in self.tensors_mut().zip(other.tensors()) {
            match mine.device() {
                Some(_) => mine.add_assign(others)?,
                None => mine.add_assign(&*others.to_host()?)?,
            }
        }
        Ok(())
    }

    /// Euclidean norm over all values.
    ///
    /// # Panics
    /// If they lie on a device.
    pub fn norm(&self) -> f64 {
        let squares = self
            .tensors()
            .flat_map(|tensor| tensor.data())
            .map(|value| f64::from(*value).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// Sets every value to 0, where they lie.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        self.tensors_mut().try_for_each(Tensor::clear)
    }
}

fn tensors_mut(layers: &mut BTreeMap<Place, LoraFactors>) -> impl Iterator<Item = &mut Tensor> {
    let tensors = layers.values_mut().flat_map(LoraFactors::tensors_mut);
    tensors.map(|(_, tensor)| tensor)
}

/// Dropout of the adapters' inputs in one pass over one micro-batch.
///
/// Layers that read the same activation (q, k, v; gate, up) share its mask.
#[derive(Debug, Clone, Copy)]
pub struct LoraDropout {
    /// Probability of falling out.
    pub probability: f32,
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// The micro-batch of the step.
    pub micro_batch: u64,
}

impl LoraDropout {
    /// The dropout of one block's `site`-th activation.
    pub(crate) fn at(&self, layer: usize, site: usize) -> Dropout {
        let parts = [self.step, self.micro_batch, layer as u64, site as u64];
        Dropout::keyed(self.probability, self.seed, &parts)
    }
}

/// splitmix64 (Steele et al. 2014): small, seedable, the same on every machine.
struct SplitMix64(u64);

impl SplitMix64 {
    /// Uniform in `[-1, 1)`.
    fn symmetric(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
