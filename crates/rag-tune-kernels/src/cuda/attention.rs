//! Launches of kernels/attention.cu.
//!
//! Which block works on what is a table that the host makes: a [`Schedule`] once for a batch; all layers use it.

use half::bf16;

use super::buffer::DeviceBuffer;
use super::device::{Device, count};
use super::driver::Argument;
use crate::attention::Heads;
use crate::error::KernelError;
use crate::sequences::Sequences;

const THREADS: usize = 128;
/// Queries of a block.
const QUERIES: usize = 128;
/// What a grid may have along y.
pub(super) const MOST_BLOCKS: usize = 65_535;

/// A row of features for each token, `[tokens, heads * dim]`, `stride` values from row to row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a DeviceBuffer<bf16>,
    pub(crate) stride: usize,
}

/// As [`Rows`], to be written.
#[derive(Debug)]
pub(crate) struct RowsMut<'a> {
    pub(crate) values: &'a mut DeviceBuffer<bf16>,
    pub(crate) stride: usize,
}

/// Queries, keys and values of a packed batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) q: Rows<'a>,
    pub(crate) k: Rows<'a>,
    pub(crate) v: Rows<'a>,
}

/// What the forward pass has left for the backward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saved<'a> {
    pub(crate) out: Rows<'a>,
    /// `[tokens, query heads]`
    pub(crate) lse: &'a DeviceBuffer<f32>,
}

/// Where the backward pass writes.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    pub(crate) dq: RowsMut<'a>,
    pub(crate) dk: RowsMut<'a>,
    pub(crate) dv: RowsMut<'a>,
}

/// One sequence's keys and values, each `[rows, key/value heads * dim]` from value `first` of its buffer on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachePlace<'a> {
    pub(crate) k: &'a DeviceBuffer<bf16>,
    pub(crate) v: &'a DeviceBuffer<bf16>,
    pub(crate) first: usize,
    pub(crate) rows: usize,
}

/// Where sequences' keys and values lie, in one layer.
#[derive(Debug)]
pub(crate) struct Caches {
    /// `[sequences, 2]`
    addresses: DeviceBuffer<u64>,
    rows: Vec<usize>,
    stride: usize,
    heads: Heads,
}

/// A table of blocks on the device.
#[derive(Debug)]
struct Blocks {
    table: DeviceBuffer<i32>,
    count: usize,
}

/// The blocks of a batch, for all of its layers.
#[derive(Debug)]
pub(crate) struct Schedule {
    heads: Heads,
    tokens: usize,
    /// Keys of each sequence.
    keys: Vec<usize>,
    /// Whether the keys are those of the queries' tokens and no more.
    is_whole: bool,
    /// `[sequences, 3]`: first row, queries, keys.
    sequences: DeviceBuffer<i32>,
    query_blocks: Blocks,
    key_blocks: Blocks,
}

/// The kernels' instance for a head size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instance {
    Dim64,
    Dim128,
}

impl Instance {
    pub(super) fn of(operation: &'static str, heads: Heads) -> Result<Self, KernelError> {
        let Heads {
            query,
            key_value,
            dim,
        } = heads;
        if key_value == 0 || !query.is_multiple_of(key_value) {
            let problem = format!("{query} query heads do not share {key_value} evenly");
            return Err(KernelError::Value { operation, problem });
        }
        match dim {
            _ if dim == 0 || !dim.is_multiple_of(8) || dim > 128 => {
                let problem =
                    format!("heads of {dim} features: a device takes multiples of 8 up to 128");
                Err(KernelError::Value { operation, problem })
            }
            ..=64 => Ok(Self::Dim64),
            _ => Ok(Self::Dim128),
        }
    }

    /// Features of a head with the padding to the instance's size.
    fn padded(self) -> usize {
        match self {
            Self::Dim64 => 64,
            Self::Dim128 => 128,
        }
    }

    /// Keys of a block of the backward pass.
    fn keys(self) -> usize {
        match self {
            Self::Dim64 => 128,
            Self::Dim128 => 64,
        }
    }

    /// Bytes of shared memory for so many rows of features.
    fn shared_bytes(self, rows: usize) -> usize {
        rows * self.padded() * size_of::<bf16>()
    }
}

impl Blocks {
    /// `rows` of one length each, by their work, most first: no block begins late and long.
    fn new<const N: usize>(
        operation: &'static str,
        device: &Device,
        mut rows: Vec<[usize; N]>,
        work: impl Fn(&[usize; N]) -> usize,
    ) -> Result<Self, KernelError> {
        if rows.len() > MOST_BLOCKS {
            let problem = format!(
                "a batch of {} blocks, a grid has at most {MOST_BLOCKS}",
                rows.len()
            );
            return Err(KernelError::Value { operation, problem });
        }
        rows.sort_by_key(|row| std::cmp::Reverse(work(row)));
        Ok(Self {
            table: table(operation, device, rows.as_flattened())?,
            count: rows.len(),
        })
    }
}

/// Numbers on a device, 32 bits each.
fn table(
    operation: &'static str,
    device: &Device,
    values: &[usize],
) -> Result<DeviceBuffer<i32>, KernelError> {
    DeviceBuffer::from_slice(device, &narrowed(operation, values)?)
}

/// Numbers as a kernel's tables hold them.
pub(super) fn narrowed(operation: &'static str, values: &[usize]) -> Result<Vec<i32>, KernelError> {
    let narrow = |&value| {
        i32::try_from(value).map_err(|_| KernelError::Value {
            operation,
            problem: format!("{value} is more than a kernel's 32-bit numbers hold"),
        })
    };
    values.iter().map(narrow).collect()
}

impl Schedule {
    /// For the last tokens of sequences that have `keys` keys each, these tokens' included.
    ///
    /// # Errors
    /// [`KernelError`] if there are no kernels for such heads, there are too many tokens, or a sequence has fewer keys than queries.
    pub(crate) fn behind(
        device: &Device,
        sequences: &Sequences,
        keys: &[usize],
        heads: Heads,
    ) -> Result<Self, KernelError> {
        const OPERATION: &str = "attention::Schedule";
        let instance = Instance::of(OPERATION, heads)?;
        let error = |problem| {
            let operation = OPERATION;
            KernelError::Value { operation, problem }
        };
        if keys.len() != sequences.len() {
            let problem = format!("keys of {} of {} sequences", keys.len(), sequences.len());
            return Err(error(problem));
        }
        let (mut rows, mut query_blocks, mut key_blocks) = (vec![], vec![], vec![]);
        let queries: Vec<usize> = sequences.ranges().map(|range| range.len()).collect();
        for (index, range) in sequences.ranges().enumerate() {
            let (queries, keys) = (range.len(), keys[index]);
            if keys < queries {
                return Err(error(format!("{keys} keys for {queries} queries")));
            }
            rows.push([range.start, queries, keys]);
            query_blocks.extend((0..queries).step_by(QUERIES).map(|first| [index, first]));
            let key_firsts = (0..keys).step_by(instance.keys());
            key_blocks.extend(key_firsts.map(|first| [index, first]));
        }
        let seen = |&[sequence, first]: &[usize; 2]| {
            keys[sequence] - queries[sequence] + (first + QUERIES).min(queries[sequence])
        };
        let seeing = |&[sequence, first]: &[usize; 2]| keys[sequence] - first;
        Ok(Self {
            heads,
            tokens: sequences.tokens(),
            is_whole: keys == queries,
            sequences: table(OPERATION, device, rows.as_flattened())?,
            query_blocks: Blocks::new(OPERATION, device, query_blocks, seen)?,
            key_blocks: Blocks::new(OPERATION, device, key_blocks, seeing)?,
            keys: keys.to_vec(),
        })
    }

    /// Whether it was made for these.
    pub(crate) fn is_of(&self, device: &Device, keys: &[usize], heads: Heads) -> bool {
        self.device() == device && self.keys == keys && self.heads == heads
    }

    pub(crate) fn device(&self) -> &Device {
        self.sequences.device()
    }

    /// `1 / sqrt(dim)`
    fn scale(&self) -> f32 {
        scale(self.heads)
    }

    /// That `rows` has all tokens with so many heads.
    fn check(
        &self,
        operation: &'static str,
        name: &str,
        rows: Rows<'_>,
        heads: usize,
    ) -> Result<(), KernelError> {
        let width = heads * self.heads.dim;
        check_rows(operation, name, self.device(), rows, [self.tokens, width])
    }

    /// That there is a value for each token and query head.
    fn check_values(
        &self,
        operation: &'static str,
        name: &str,
        values: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let expected = self.tokens * self.heads.query;
        if values.len() == expected && values.device() == self.device() {
            return Ok(());
        }
        let problem = format!(
            "`{name}` has {} values, expected {expected} on the batch's device",
            values.len()
        );
        Err(KernelError::Value { operation, problem })
    }
}

pub(super) fn scale(heads: Heads) -> f32 {
    1.0 / (heads.dim as f32).sqrt()
}

fn check_rows(
    operation: &'static str,
    name: &str,
    device: &Device,
    rows: Rows<'_>,
    [count, width]: [usize; 2],
) -> Result<(), KernelError> {
    let Rows { values, stride } = rows;
    // Rows are read and written in chunks of 8 values, 16 bytes.
    let fits = stride >= width && stride.is_multiple_of(8);
    let needed = if count == 0 {
        0
    } else {
        (count - 1) * stride + width
    };
    if fits && values.len() >= needed && values.device() == device {
        return Ok(());
    }
    let problem = format!(
        "`{name}` has {} values with a stride of {stride}, expected {count} rows of {width} on the batch's device, their stride a multiple of 8",
        values.len()
    );
    Err(KernelError::Value { operation, problem })
}

impl<'a> RowsMut<'a> {
    fn as_rows(&self) -> Rows<'_> {
        Rows {
            values: self.values,
            stride: self.stride,
        }
    }
}

impl Caches {
    /// # Safety
    /// The places' buffers live, and no one else writes to their places while a launch with these caches has not ended.
    ///
    /// # Errors
    /// [`KernelError`] if a place is not inside its buffers, or not aligned.
    pub(crate) unsafe fn new(
        device: &Device,
        places: &[CachePlace<'_>],
        stride: usize,
        heads: Heads,
    ) -> Result<Self, KernelError> {
        const OPERATION: &str = "attention::Caches";
        Instance::of(OPERATION, heads)?;
        let width = heads.key_value * heads.dim;
        let mut addresses = Vec::with_capacity(2 * places.len());
        for place in places {
            let values = [place.k, place.v];
            let end = match place.rows {
                0 => place.first,
                rows => place.first + (rows - 1) * stride + width,
            };
            let inside = values
                .iter()
                .all(|values| end <= values.len() && values.device() == device);
            // Addresses of buffers are multiples of 256 bytes, chunks have 8 values.
            let aligned = place.first.is_multiple_of(8) && stride.is_multiple_of(8);
            if !inside || !aligned || stride < width {
                let problem = format!(
                    "{} rows of {width} with a stride of {stride} from value {} on, of {} and {}",
                    place.rows,
                    place.first,
                    place.k.len(),
                    place.v.len()
                );
                let operation = OPERATION;
                return Err(KernelError::Value { operation, problem });
            }
            addresses.extend(values.map(|values| values.at(place.first)));
        }
        Ok(Self {
            addresses: DeviceBuffer::from_slice(device, &addresses)?,
            rows: places.iter().map(|place| place.rows).collect(),
            stride,
            heads,
        })
    }

    /// That there are `keys` of each sequence.
    fn check(
        &self,
        operation: &'static str,
        device: &Device,
        keys: &[usize],
        heads: Heads,
    ) -> Result<(), KernelError> {
        let pairs = self.rows.iter().zip(keys);
        let enough =
            self.rows.len() == keys.len() && pairs.clone().all(|(rows, keys)| rows >= keys);
        if enough && self.heads == heads && self.addresses.device() == device {
            return Ok(());
        }
        let problem = format!(
            "caches of {:?} rows for {:?}, expected {keys:?} for {heads:?} on the batch's device",
            self.rows, self.heads
        );
        Err(KernelError::Value { operation, problem })
    }
}

/// Attention of a packed batch to itself.
///
/// # Shapes
/// `out`: as `q`; `lse`: `[tokens, query heads]`, the log-sum-exp of each row of scores
///
/// # Errors
/// [`KernelError`] if shapes do not fit, or the device fails.
pub(crate) fn forward(
    qkv: Packed<'_>,
    schedule: &Schedule,
    out: RowsMut<'_>,
    lse: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "attention_forward";
    check_packed(OPERATION, qkv, schedule)?;
    let keys = [
        qkv.k.values.argument(),
        qkv.v.values.argument(),
        Argument::address(0),
    ];
    let strides = [qkv.k.stride, qkv.v.stride];
    // SAFETY: `k` and `v` have a row for each token of the schedule, and its sequences' keys are these tokens.
    unsafe { launch_forward(OPERATION, qkv.q, keys, strides, schedule, out, lse) }
}

/// Attention of the last tokens of each sequence to all keys up to them in its cache.
///
/// # Shapes
/// As [`forward`].
///
/// # Errors
/// As [`forward`].
pub(crate) fn behind(
    q: Rows<'_>,
    caches: &Caches,
    schedule: &Schedule,
    out: RowsMut<'_>,
    lse: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "attention_behind";
    caches.check(OPERATION, schedule.device(), &schedule.keys, schedule.heads)?;
    let none = Argument::address(0);
    let keys = [none, none, caches.addresses.argument()];
    let strides = [caches.stride, caches.stride];
    // SAFETY: each sequence has an address, behind which lie its keys: `Caches::new` has found them inside their buffers.
    unsafe { launch_forward(OPERATION, q, keys, strides, schedule, out, lse) }
}

/// # Safety
/// `keys` are the addresses of packed keys and values, or a table of them; all keys of the schedule's sequences lie there.
unsafe fn launch_forward(
    operation: &'static str,
    q: Rows<'_>,
    [k, v, addresses]: [Argument; 3],
    [k_stride, v_stride]: [usize; 2],
    schedule: &Schedule,
    out: RowsMut<'_>,
    lse: &mut DeviceBuffer<f32>,
) -> Result<(), KernelError> {
    let heads = schedule.heads;
    schedule.check(operation, "q", q, heads.query)?;
    schedule.check(operation, "out", out.as_rows(), heads.query)?;
    schedule.check_values(operation, "lse", lse)?;
    let instance = Instance::of(operation, heads)?;
    let (kernel, tile) = match instance {
        Instance::Dim64 => ("attention_forward_64", 64),
        Instance::Dim128 => ("attention_forward_128", 48),
    };
    let arguments = [
        q.values.argument(),
        k,
        v,
        addresses,
        schedule.sequences.argument(),
        schedule.query_blocks.table.argument(),
        out.values.argument(),
        lse.argument(),
        count(operation, q.stride)?,
        count(operation, k_stride)?,
        count(operation, v_stride)?,
        count(operation, out.stride)?,
        count(operation, heads.query / heads.key_value)?,
        count(operation, heads.dim)?,
        schedule.scale().into(),
    ];
    let grid = [heads.query, schedule.query_blocks.count, 1];
    let shared_bytes = instance.shared_bytes(QUERIES + 4 * tile);
    // SAFETY: `q`, `out` and `lse` have a row for each token, and the tables name rows of these tokens only; keys are the caller's promise.
    unsafe {
        schedule
            .device()
            .launch(kernel, grid, (THREADS, shared_bytes), &arguments)
    }
}

fn check_packed(
    operation: &'static str,
    qkv: Packed<'_>,
    schedule: &Schedule,
) -> Result<(), KernelError> {
    if !schedule.is_whole {
        let problem = "a schedule of sequences that have more keys than queries".to_owned();
        return Err(KernelError::Value { operation, problem });
    }
    let heads = schedule.heads;
    schedule.check(operation, "q", qkv.q, heads.query)?;
    schedule.check(operation, "k", qkv.k, heads.key_value)?;
    schedule.check(operation, "v", qkv.v, heads.key_value)
}

/// Gradients of `q`, `k`, `v`, given that of `out`; the same bits each time.
///
/// # Shapes
/// All as the inputs and the output of [`forward`].
///
/// # Errors
/// As [`forward`].
pub(crate) fn backward(
    d_out: Rows<'_>,
    qkv: Packed<'_>,
    saved: Saved<'_>,
    schedule: &Schedule,
    gradients: Gradients<'_>,
) -> Result<(), KernelError> {
    const OPERATION: &str = "attention_backward";
    let (heads, device) = (schedule.heads, schedule.device());
    let Gradients { dq, dk, dv } = gradients;
    check_packed(OPERATION, qkv, schedule)?;
    schedule.check(OPERATION, "d_out", d_out, heads.query)?;
    schedule.check(OPERATION, "out", saved.out, heads.query)?;
    schedule.check(OPERATION, "dq", dq.as_rows(), heads.query)?;
    schedule.check(OPERATION, "dk", dk.as_rows(), heads.key_value)?;
    schedule.check(OPERATION, "dv", dv.as_rows(), heads.key_value)?;
    schedule.check_values(OPERATION, "lse", saved.lse)?;
    let number = |value| count(OPERATION, value);

    let rows = schedule.tokens * heads.query;
    let delta = DeviceBuffer::<f32>::stale(device, rows)?;
    let arguments = [
        d_out.values.argument(),
        saved.out.values.argument(),
        delta.argument(),
        number(rows)?,
        number(heads.query)?,
        number(d_out.stride)?,
        number(saved.out.stride)?,
        number(heads.dim)?,
    ];
    let grid = [rows.div_ceil(THREADS / 16), 1, 1];
    // SAFETY: `d_out` and `out` have a row for each token, `delta` a value for each of their heads.
    unsafe { device.launch("attention_delta", grid, (THREADS, 0), &arguments)? };

    let instance = Instance::of(OPERATION, heads)?;
    let inputs = [
        qkv.q.values.argument(),
        qkv.k.values.argument(),
        qkv.v.values.argument(),
        d_out.values.argument(),
        saved.lse.argument(),
        delta.argument(),
        schedule.sequences.argument(),
    ];
    let strides = [
        number(qkv.q.stride)?,
        number(qkv.k.stride)?,
        number(qkv.v.stride)?,
        number(d_out.stride)?,
    ];
    let last = [
        number(heads.query / heads.key_value)?,
        number(heads.dim)?,
        schedule.scale().into(),
    ];
    let kernel = match instance {
        Instance::Dim64 => "attention_backward_kv_64",
        Instance::Dim128 => "attention_backward_kv_128",
    };
    let outputs = [
        schedule.key_blocks.table.argument(),
        dk.values.argument(),
        dv.values.argument(),
    ];
    let out_strides = [number(dk.stride)?, number(dv.stride)?];
    let arguments = [&inputs[..], &outputs, &strides, &out_strides, &last].concat();
    let grid = [heads.key_value, schedule.key_blocks.count, 1];
    // Keys and values, two tiles of 64 queries and gradients, and of each query two numbers.
    let rows = 2 * instance.keys() + 4 * 64;
    let shared_bytes = instance.shared_bytes(rows) + 4 * 64 * size_of::<f32>();
    // SAFETY: all have a row for each token, and the tables name rows of these tokens only.
    unsafe { device.launch(kernel, grid, (THREADS, shared_bytes), &arguments)? };

    let (kernel, tile) = match instance {
        Instance::Dim64 => ("attention_backward_q_64", 64),
        Instance::Dim128 => ("attention_backward_q_128", 32),
    };
    let outputs = [schedule.query_blocks.table.argument(), dq.values.argument()];
    let arguments = [
        &inputs[..],
        &outputs,
        &strides,
        &[number(dq.stride)?],
        &last,
    ]
    .concat();
    let grid = [heads.query, schedule.query_blocks.count, 1];
    let numbers = 2 * QUERIES * size_of::<f32>();
    let shared_bytes = instance.shared_bytes(2 * QUERIES + 4 * tile) + numbers;
    // SAFETY: as above.
    unsafe { device.launch(kernel, grid, (THREADS, shared_bytes), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Qkv;
    use crate::cuda::testing::{assert_close, devices, narrowed, to_bf16, widened};
    use crate::matrix::Compute;
    use crate::reference;
    use crate::reference::testing::noise;
    use crate::stored::Stored;
    use crate::tensor::Tensor;

    fn heads(query: usize, key_value: usize, dim: usize) -> Heads {
        Heads {
            query,
            key_value,
            dim,
        }
    }

    /// q, k, v, d_out of a packed batch.
    fn inputs(tokens: usize, heads: Heads) -> [Tensor; 4] {
        let (wide, narrow) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let mut q = noise(tokens, wide, 1);
        q.data_mut().iter_mut().for_each(|value| *value *= 3.0);
        let [k, v] = [2, 3].map(|seed| noise(tokens, narrow, seed));
        [q, k, v, noise(tokens, wide, 4)]
    }

    /// out, lse, dq, dk, dv.
    fn reference_of(
        inputs: &[Tensor; 4],
        compute: Compute,
        sequences: &Sequences,
        heads: Heads,
    ) -> [Tensor; 5] {
        let stored = inputs.clone().map(|tensor| Stored::new(tensor, compute));
        let [q, k, v, d_out] = &stored;
        let qkv = Qkv { q, k, v };
        let (out, lse) = reference::attention(qkv, sequences, heads);
        let d_out = d_out.clone().into_tensor();
        let gradient = reference::attention_backward(&d_out, qkv, sequences, heads);
        [out, lse, gradient.q, gradient.k, gradient.v]
    }

    /// Rows with a few values between them.
    fn strided(device: &Device, tensor: &Tensor) -> (DeviceBuffer<bf16>, usize) {
        let stride = tensor.cols() + 8;
        let mut values = vec![bf16::NAN; tensor.rows() * stride];
        for (row, to) in values.chunks_mut(stride).enumerate() {
            to[..tensor.cols()].copy_from_slice(&to_bf16(tensor.row(row)));
        }
        (DeviceBuffer::from_slice(device, &values).unwrap(), stride)
    }

    fn rows((values, stride): &(DeviceBuffer<bf16>, usize)) -> Rows<'_> {
        let stride = *stride;
        Rows { values, stride }
    }

    fn rows_mut((values, stride): &mut (DeviceBuffer<bf16>, usize)) -> RowsMut<'_> {
        let stride = *stride;
        RowsMut { values, stride }
    }

    /// What `strided` was made of; what lies between the rows is untouched.
    fn dense((values, stride): &(DeviceBuffer<bf16>, usize), cols: usize) -> Vec<f32> {
        let values = values.to_vec().unwrap();
        let rows = values.chunks(*stride);
        rows.flat_map(|row| {
            assert!(row[cols..].iter().all(|value| value.is_nan()));
            widened(&row[..cols])
        })
        .collect()
    }

    const CASES: [(&[usize], Heads); 6] = [
        (
            &[1, 5, 3],
            Heads {
                query: 4,
                key_value: 4,
                dim: 8,
            },
        ),
        (
            &[130, 1],
            Heads {
                query: 3,
                key_value: 1,
                dim: 16,
            },
        ),
        (
            &[64, 65],
            Heads {
                query: 2,
                key_value: 2,
                dim: 64,
            },
        ),
        (
            &[70],
            Heads {
                query: 4,
                key_value: 1,
                dim: 24,
            },
        ),
        (
            &[33, 66],
            Heads {
                query: 2,
                key_value: 2,
                dim: 128,
            },
        ),
        (
            &[129],
            Heads {
                query: 1,
                key_value: 1,
                dim: 72,
            },
        ),
    ];

    #[test]
    fn attention_matches_reference_on_devices() {
        for (lengths, heads) in CASES {
            let sequences = Sequences::from_lengths(lengths).unwrap();
            let inputs = inputs(sequences.tokens(), heads);
            let exact = reference_of(&inputs, Compute::F32, &sequences, heads);
            let plain = reference_of(&inputs, Compute::Bf16, &sequences, heads);
            for device in devices() {
                let schedule = sequences.schedule(&device, heads).unwrap();
                let [q, k, v, d_out] = inputs.each_ref().map(|it| strided(&device, it));
                let qkv = Packed {
                    q: rows(&q),
                    k: rows(&k),
                    v: rows(&v),
                };
                let nothing = [0, 0, 2, 3, 3].map(|like: usize| {
                    let [rows, cols] = exact[like].shape();
                    strided(
                        &device,
                        &Tensor::from_vec(rows, cols, vec![f32::NAN; rows * cols]).unwrap(),
                    )
                });
                let [mut out, _, mut dq, mut dk, mut dv] = nothing;
                let mut lse = DeviceBuffer::stale(&device, exact[1].data().len()).unwrap();
                forward(qkv, &schedule, rows_mut(&mut out), &mut lse).unwrap();
                let saved = Saved {
                    out: rows(&out),
                    lse: &lse,
                };
                let gradients = Gradients {
                    dq: rows_mut(&mut dq),
                    dk: rows_mut(&mut dk),
                    dv: rows_mut(&mut dv),
                };
                backward(rows(&d_out), qkv, saved, &schedule, gradients).unwrap();
                let got = [
                    dense(&out, exact[0].cols()),
                    lse.to_vec().unwrap(),
                    dense(&dq, exact[2].cols()),
                    dense(&dk, exact[3].cols()),
                    dense(&dv, exact[4].cols()),
                ];
                for (index, name) in ["out", "lse", "dq", "dk", "dv"].into_iter().enumerate() {
                    let name = format!("{name} of {lengths:?}, {heads:?}");
                    let exact = exact[index].data();
                    // The log-sum-exp is not rounded.
                    let plain = match index {
                        1 => plain[index].data().to_vec(),
                        _ => narrowed(plain[index].data()),
                    };
                    assert_close(&name, &got[index], exact, &plain);
                }
            }
        }
    }

    /// Keys and values of sequences as prefilling sees them.
    struct Cached {
        caches: Caches,
        _values: [DeviceBuffer<bf16>; 2],
    }

    /// Sequences lie in reverse order, and a row apart.
    fn cached(
        device: &Device,
        sequences: &Sequences,
        [k, v]: [&Tensor; 2],
        heads: Heads,
    ) -> Cached {
        let mut order = Vec::new();
        let mut places = Vec::new();
        for range in sequences.ranges().collect::<Vec<_>>().into_iter().rev() {
            places.insert(0, [order.len(), range.len()]);
            order.extend(range.clone());
            order.push(range.start);
        }
        let [(k, stride), (v, _)] =
            [k, v].map(|it| strided(device, &it.gather_rows(&order).unwrap()));
        let of_sequence = |&[row, keys]: &[usize; 2]| CachePlace {
            k: &k,
            v: &v,
            first: row * stride,
            rows: keys,
        };
        let all: Vec<_> = places.iter().map(of_sequence).collect();
        // SAFETY: the buffers are kept beside the caches.
        let caches = unsafe { Caches::new(device, &all, stride, heads) }.unwrap();
        let _values = [k, v];
        Cached { caches, _values }
    }

    /// `out` of the given rows: exact, and of plain bf16.
    fn expected(
        inputs: &[Tensor; 4],
        sequences: &Sequences,
        heads: Heads,
        rows: &[usize],
    ) -> [Tensor; 2] {
        [Compute::F32, Compute::Bf16].map(|compute| {
            let stored = inputs.clone().map(|it| Stored::new(it, compute));
            let [q, k, v, _] = &stored;
            let (out, _) = reference::attention(Qkv { q, k, v }, sequences, heads);
            out.gather_rows(rows).unwrap()
        })
    }

    #[test]
    fn attention_behind_caches_matches_reference_on_devices() {
        for (lengths, new, heads) in [
            (&[70, 5, 200][..], &[3, 5, 130][..], heads(2, 1, 16)),
            (&[97], &[33], heads(3, 1, 128)),
        ] {
            let sequences = Sequences::from_lengths(lengths).unwrap();
            let inputs = inputs(sequences.tokens(), heads);
            let ranges = sequences.ranges().zip(new);
            let last: Vec<_> = ranges
                .flat_map(|(range, new)| range.end - new..range.end)
                .collect();
            let [exact, plain] = expected(&inputs, &sequences, heads, &last);
            let new = Sequences::from_lengths(new).unwrap();
            for device in devices() {
                let [q, k, v, _] = &inputs;
                let q = strided(&device, &q.gather_rows(&last).unwrap());
                let cached = cached(&device, &sequences, [k, v], heads);
                let schedule = Schedule::behind(&device, &new, lengths, heads).unwrap();
                let mut out = strided(&device, &exact);
                let mut lse = DeviceBuffer::stale(&device, last.len() * heads.query).unwrap();
                let (rows, to) = (rows(&q), rows_mut(&mut out));
                behind(rows, &cached.caches, &schedule, to, &mut lse).unwrap();
                let got = dense(&out, exact.cols());
                assert_close(
                    &format!("{lengths:?}, {heads:?}"),
                    &got,
                    exact.data(),
                    &narrowed(plain.data()),
                );
            }
        }
    }

    #[test]
    fn what_the_kernels_do_not_do_is_refused() {
        let device = &devices()[0];
        let one = Sequences::from_lengths(&[4]).unwrap();
        for refused in [
            heads(1, 1, 136),
            heads(1, 1, 12),
            heads(1, 1, 0),
            heads(3, 2, 8),
        ] {
            assert!(one.schedule(device, refused).is_err());
        }
        let heads = heads(2, 1, 8);
        assert!(Schedule::behind(device, &one, &[3], heads).is_err());
        assert!(Schedule::behind(device, &one, &[4, 4], heads).is_err());

        let buffer = |len| DeviceBuffer::<bf16>::zeros(device, len).unwrap();
        let (wide, narrow) = ((buffer(64), 16), (buffer(32), 8));
        let place = |first, rows| CachePlace {
            k: &narrow.0,
            v: &narrow.0,
            first,
            rows,
        };
        // SAFETY: the buffer lives until the end of the test.
        let caches = |first, rows, stride| unsafe {
            Caches::new(device, &[place(first, rows)], stride, heads)
        };
        assert!(caches(0, 5, 8).is_err(), "5 rows in a buffer of 4");
        assert!(caches(8, 4, 8).is_err(), "beyond the end");
        assert!(caches(4, 1, 8).is_err(), "not aligned");
        assert!(caches(0, 2, 12).is_err(), "not aligned");

        let run = |q: &(DeviceBuffer<bf16>, usize), schedule: &Schedule, lse: usize| {
            let (k, v) = (rows(&narrow), rows(&narrow));
            let mut out = (buffer(64), 16);
            let mut lse = DeviceBuffer::zeros(device, lse).unwrap();
            let qkv = Packed { q: rows(q), k, v };
            forward(qkv, schedule, rows_mut(&mut out), &mut lse)
        };
        let schedule = one.schedule(device, heads).unwrap();
        assert!(run(&wide, &schedule, 8).is_ok());
        assert!(run(&wide, &schedule, 7).is_err());
        assert!(run(&(buffer(48), 16), &schedule, 8).is_err());
        assert!(run(&(buffer(96), 20), &schedule, 8).is_err());
        let longer = Schedule::behind(device, &one, &[9], heads).unwrap();
        assert!(run(&wide, &longer, 8).is_err());
    }
}
