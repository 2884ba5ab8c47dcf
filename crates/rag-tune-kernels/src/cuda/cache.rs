//! Attention on a device, as `crate::attention` asks for it; keys and values of a sequence so far.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use super::attention::{self, CachePlace, Caches, Gradients, Packed, Rows, RowsMut, Saved};
use super::buffer::DeviceBuffer;
use super::device::Device;
use super::tensor::{Lent, own};
use crate::attention::{AttentionOutput, Heads, Qkv, QkvGradient};
use crate::error::KernelError;
use crate::matrix::Compute;
use crate::sequences::Sequences;
use crate::stored::Stored;
use crate::tensor::{Tensor, two_places};

/// Positions that a cache has room for at first; it doubles when that is not enough.
const FIRST_CAPACITY: usize = 256;

/// `[positions, key/value heads * dim]` twice, with room for more.
#[derive(Debug, Clone)]
pub(crate) struct DeviceCache {
    device: Device,
    heads: Heads,
    /// Keys and values; none before the first tokens. Clones share them until one of them grows.
    values: Option<[Arc<DeviceBuffer<bf16>>; 2]>,
    positions: usize,
}

impl DeviceCache {
    pub(crate) fn new(heads: Heads, device: &Device) -> Self {
        Self {
            device: device.clone(),
            heads,
            values: None,
            positions: 0,
        }
    }

    /// Appends rows of packed keys and values.
    pub(crate) fn push(
        &mut self,
        new: [&DeviceBuffer<bf16>; 2],
        rows: Range<usize>,
    ) -> Result<(), KernelError> {
        let (first, added) = (self.positions * self.width(), rows.len());
        let from = rows.start * self.width()..rows.end * self.width();
        for (held, new) in self.with_room(added)?.into_iter().zip(new) {
            held.copy_from(first, new, from.clone())?;
        }
        self.positions += added;
        Ok(())
    }

    /// Counts one position more, which the caller writes. Returns where all keys and all values begin.
    pub(super) fn extend(&mut self) -> Result<[u64; 2], KernelError> {
        let places = self.with_room(1)?.map(|held| held.at(0));
        self.positions += 1;
        Ok(places)
    }

    /// Keys and values, nobody else's, with room for `added` positions more.
    fn with_room(&mut self, added: usize) -> Result<[&mut DeviceBuffer<bf16>; 2], KernelError> {
        let capacity = match &self.values {
            None => 0,
            Some([keys, _]) => keys.len() / self.width(),
        };
        let positions = self.positions + added;
        if self.values.is_none() || positions > capacity {
            self.grow(positions.max(2 * capacity).max(FIRST_CAPACITY))?;
        }
        let [keys, values] = self.values.as_mut().expect("grown where there was nothing");
        Ok([own(keys)?, own(values)?])
    }

    fn grow(&mut self, capacity: usize) -> Result<(), KernelError> {
        let (width, held) = (self.width(), self.positions * self.width());
        let grown = |old: Option<&DeviceBuffer<bf16>>| {
            let mut larger = DeviceBuffer::stale(&self.device, capacity * width)?;
            if let Some(old) = old {
                larger.copy_from(0, old, 0..held)?;
            }
            Ok::<_, KernelError>(Arc::new(larger))
        };
        let old = self.values.as_ref();
        self.values = Some([
            grown(old.map(|[keys, _]| &**keys))?,
            grown(old.map(|[_, values]| &**values))?,
        ]);
        Ok(())
    }

    fn width(&self) -> usize {
        self.heads.key_value * self.heads.dim
    }

    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// `[key/value heads, dim]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.heads.key_value, self.heads.dim]
    }

    pub(crate) fn bytes(&self) -> usize {
        2 * size_of::<bf16>() * self.positions * self.width()
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn place(&self) -> Option<CachePlace<'_>> {
        let [k, v] = self.values.as_ref()?;
        Some(CachePlace {
            k,
            v,
            first: 0,
            rows: self.positions,
        })
    }
}

fn there<'a>(stored: &'a Stored, operation: &'static str) -> Result<Lent<'a, bf16>, KernelError> {
    stored.on_device().ok_or_else(|| two_places(operation))?
}

fn rows<'a>(values: &'a Lent<'_, bf16>, heads: usize, dim: usize) -> Rows<'a> {
    Rows {
        values: values.buffer(),
        stride: heads * dim,
    }
}

fn stored(tokens: usize, width: usize, values: DeviceBuffer<bf16>) -> Stored {
    Stored::new(Tensor::from_device(tokens, width, values), Compute::Bf16)
}

/// As `crate::attention::forward`; the shapes fit.
pub(crate) fn forward(
    qkv: Qkv<'_>,
    sequences: &Sequences,
    heads: Heads,
) -> Result<AttentionOutput, KernelError> {
    const OPERATION: &str = "attention::forward";
    let [q, k, v] = [qkv.q, qkv.k, qkv.v].map(|it| there(it, OPERATION));
    let (q, k, v) = (q?, k?, v?);
    let device = q.buffer().device();
    let schedule = sequences.schedule(device, heads)?;
    let (tokens, width) = (sequences.tokens(), heads.query * heads.dim);
    let mut out = DeviceBuffer::stale(device, tokens * width)?;
    let mut lse = DeviceBuffer::stale(device, tokens * heads.query)?;
    let packed = packed([&q, &k, &v], heads);
    let to = RowsMut {
        values: &mut out,
        stride: width,
    };
    attention::forward(packed, &schedule, to, &mut lse)?;
    Ok(AttentionOutput {
        out: stored(tokens, width, out),
        lse: Tensor::from_device(tokens, heads.query, lse),
    })
}

fn packed<'a>([q, k, v]: [&'a Lent<'_, bf16>; 3], heads: Heads) -> Packed<'a> {
    Packed {
        q: rows(q, heads.query, heads.dim),
        k: rows(k, heads.key_value, heads.dim),
        v: rows(v, heads.key_value, heads.dim),
    }
}

/// As `crate::attention::backward`; the shapes fit.
pub(crate) fn backward(
    d_out: &Tensor,
    qkv: Qkv<'_>,
    saved: &AttentionOutput,
    sequences: &Sequences,
    heads: Heads,
) -> Result<QkvGradient, KernelError> {
    const OPERATION: &str = "attention::backward";
    let [q, k, v, out] = [qkv.q, qkv.k, qkv.v, &saved.out].map(|it| there(it, OPERATION));
    let (q, k, v, out) = (q?, k?, v?, out?);
    let elsewhere = || two_places(OPERATION);
    let d_out = d_out.on_device().ok_or_else(elsewhere)?.bf16()?;
    let lse = saved.lse.on_device().ok_or_else(elsewhere)?.f32()?;
    let device = q.buffer().device();
    let schedule = sequences.schedule(device, heads)?;
    let tokens = sequences.tokens();
    let [q_width, k_width] =
        [heads.query, heads.key_value].map(|heads_there| heads_there * heads.dim);
    let stale = |width| DeviceBuffer::stale(device, tokens * width);
    let (mut dq, mut dk, mut dv) = (stale(q_width)?, stale(k_width)?, stale(k_width)?);
    fn to(values: &mut DeviceBuffer<bf16>, stride: usize) -> RowsMut<'_> {
        RowsMut { values, stride }
    }
    let gradients = Gradients {
        dq: to(&mut dq, q_width),
        dk: to(&mut dk, k_width),
        dv: to(&mut dv, k_width),
    };
    let saved = Saved {
        out: rows(&out, heads.query, heads.dim),
        lse: lse.buffer(),
    };
    let d_out = rows(&d_out, heads.query, heads.dim);
    attention::backward(
        d_out,
        packed([&q, &k, &v], heads),
        saved,
        &schedule,
        gradients,
    )?;
    Ok(QkvGradient {
        q: Tensor::from_device(tokens, q_width, dq),
        k: Tensor::from_device(tokens, k_width, dk),
        v: Tensor::from_device(tokens, k_width, dv),
    })
}

/// As `crate::attention::behind`; the shapes fit, and no cache is empty.
pub(crate) fn behind(
    q: &Stored,
    sequences: &Sequences,
    caches: &[&DeviceCache],
    heads: Heads,
) -> Result<Stored, KernelError> {
    let q = there(q, "attention::behind")?;
    let device = q.buffer().device();
    let (keys, places) = tables(caches);
    let schedule = sequences.schedule_behind(device, &keys, heads)?;
    let (tokens, width) = (sequences.tokens(), heads.query * heads.dim);
    let mut out = DeviceBuffer::stale(device, tokens * width)?;
    let mut lse = DeviceBuffer::stale(device, tokens * heads.query)?;
    let to = RowsMut {
        values: &mut out,
        stride: width,
    };
    // SAFETY: the caches' buffers are borrowed until the launch, and freed behind it.
    let caches = unsafe { Caches::new(device, &places, heads.key_value * heads.dim, heads)? };
    let q = rows(&q, heads.query, heads.dim);
    attention::behind(q, &caches, &schedule, to, &mut lse)?;
    Ok(stored(tokens, width, out))
}

/// How many keys each has, and where.
fn tables<'a>(caches: &[&'a DeviceCache]) -> (Vec<usize>, Vec<CachePlace<'a>>) {
    let keys = caches.iter().map(|cache| cache.positions).collect();
    let places = caches.iter().filter_map(|cache| cache.place()).collect();
    (keys, places)
}
