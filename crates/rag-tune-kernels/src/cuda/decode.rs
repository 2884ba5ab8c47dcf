//! A step of decoding on a device: one new token for each of some sequences. Launches kernels/rope_push.cu and
//! kernels/attention_decode.cu.
//!
//! What changes from step to step (tokens, positions, where caches lie, which block works on what) is written into tables on the device
//! beforehand, and nothing else depends on it: a step can be recorded, and done again with other rows. For that, tables have rows and
//! blocks to spare, so that few shapes serve for all.

mod shape;

use std::marker::PhantomData;

use half::bf16;

pub use self::shape::DecodeShape;
use self::shape::schedule;
use super::attention::{Instance, MOST_BLOCKS, narrowed, scale};
use super::buffer::DeviceBuffer;
use super::device::{Device, count};
use super::driver::Argument;
use super::ids::Ids;
use super::matrix;
use super::tensor::DeviceTensor;
use crate::attention::{Cache, Heads};
use crate::error::{KernelError, check_shape};
use crate::matrix::{Compute, Matrix};
use crate::rope::RopeTable;
use crate::sequences::Positions;
use crate::stored::Stored;
use crate::tensor::{Tensor, two_places};

const THREADS: usize = 128;
/// Query heads of a block: the rows of a product.
const BLOCK_HEADS: usize = 16;
/// Threads that turn a head, and write it.
const PUSH_THREADS: usize = 64;

const OPERATION: &str = "attention_decode";

/// What a step's kernels read besides weights.
#[derive(Debug)]
pub struct DecodeTables {
    heads: Heads,
    layers: usize,
    shape: DecodeShape,
    ids: Ids,
    positions: Positions,
    /// What all positions are below.
    most_positions: usize,
    /// `[layers, rows, 2]`: of keys and of values.
    addresses: DeviceBuffer<u64>,
    /// `[rows, 2]`: number of parts, first part.
    rows: DeviceBuffer<i32>,
    /// `[blocks, 4]`: row, part, first key, end of the keys.
    blocks: DeviceBuffer<i32>,
    /// The caches of rows that only fill up: one position of keys, and of values.
    nowhere: DeviceBuffer<bf16>,
}

/// One step: its rows' caches are nobody else's meanwhile.
#[derive(Debug)]
pub struct DecodeStep<'a> {
    tables: &'a DecodeTables,
    of: PhantomData<&'a mut Cache>,
}

impl DecodeTables {
    /// For a model with a `vocab` of so many tokens, and caches of up to `most_positions` tokens in each of its `layers`.
    ///
    /// # Errors
    /// [`KernelError`] if there are no kernels for such heads or so many rows, or memory is not enough.
    pub fn new(
        device: &Device,
        heads: Heads,
        layers: usize,
        [vocab, most_positions]: [usize; 2],
        shape: DecodeShape,
    ) -> Result<Self, KernelError> {
        Instance::of(OPERATION, heads)?;
        if shape.blocks > MOST_BLOCKS {
            let problem = format!("{shape:?}: a grid has at most {MOST_BLOCKS} blocks");
            let operation = OPERATION;
            return Err(KernelError::Value { operation, problem });
        }
        let none = vec![0; shape.rows];
        let positions = Positions::from(none.clone());
        positions.on(device, most_positions)?;
        let width = heads.key_value * heads.dim;
        Ok(Self {
            heads,
            layers,
            shape,
            ids: Ids::new(device, OPERATION, &none, vocab)?,
            positions,
            most_positions,
            addresses: DeviceBuffer::stale(device, layers * shape.rows * 2)?,
            rows: DeviceBuffer::stale(device, shape.rows * 2)?,
            blocks: DeviceBuffer::stale(device, shape.blocks * 4)?,
            nowhere: DeviceBuffer::zeros(device, 2 * width)?,
        })
    }

    /// Begins a step that puts `ids` behind the sequences in `caches`, a row of one cache a layer each, which count it from now on. If the
    /// step is not done, they are of no more use.
    ///
    /// # Errors
    /// [`KernelError`] if rows do not fit the tables, an id or a position is beyond its limit, or memory is not enough.
    pub fn begin<'a>(
        &'a mut self,
        ids: &[u32],
        caches: &'a mut [&mut [Cache]],
    ) -> Result<DecodeStep<'a>, KernelError> {
        check_shape(OPERATION, "ids", &[ids.len()], &[caches.len()])?;
        let keys = self.keys(caches)?;
        let (rows, blocks) = schedule(&keys, self.shape);
        let padded = |numbers: Vec<u32>| {
            let spare = self.shape.rows - numbers.len();
            [numbers, vec![0; spare]].concat()
        };
        let nowhere = [0, self.nowhere.len() / 2].map(|at| self.nowhere.at(at));
        let mut addresses = vec![nowhere; self.layers * self.shape.rows];
        let ids = padded(ids.to_vec());
        let positions = padded(keys.iter().map(|keys| *keys as u32 - 1).collect());
        self.ids.rewrite(OPERATION, &ids)?;
        self.positions.rewrite(positions)?;
        for (row, caches) in caches.iter_mut().enumerate() {
            for (layer, cache) in caches.iter_mut().enumerate() {
                let cache = cache.on_a_device_mut();
                let cache = cache.ok_or_else(|| two_places(OPERATION))?;
                addresses[layer * self.shape.rows + row] = cache.extend()?;
            }
        }
        self.addresses.write(0, addresses.as_flattened())?;
        let narrow = |table: &[usize]| narrowed(OPERATION, table);
        self.rows.write(0, &narrow(rows.as_flattened())?)?;
        self.blocks.write(0, &narrow(blocks.as_flattened())?)?;
        let (tables, of) = (&*self, PhantomData);
        Ok(DecodeStep { tables, of })
    }

    /// The keys of each row with the new token's, if the rows fit.
    fn keys(&self, caches: &[&mut [Cache]]) -> Result<Vec<usize>, KernelError> {
        let operation = OPERATION;
        let device = self.addresses.device();
        let mut keys = Vec::with_capacity(caches.len());
        for caches in caches {
            check_shape(
                operation,
                "caches of a row",
                &[caches.len()],
                &[self.layers],
            )?;
            let first = caches.first().map_or(0, Cache::positions);
            for cache in caches.iter() {
                let expected = [self.heads.key_value, self.heads.dim];
                check_shape(operation, "cache", &cache.shape(), &expected)?;
                if cache.positions() != first || cache.device() != Some(device) {
                    let problem = "a row's caches are not alike, or elsewhere".to_owned();
                    return Err(KernelError::Value { operation, problem });
                }
            }
            keys.push(first + 1);
        }
        let shape = DecodeShape::of(&keys);
        if shape != self.shape {
            let problem = format!("rows of {shape:?} in tables of {:?}", self.shape);
            return Err(KernelError::Value { operation, problem });
        }
        Ok(keys)
    }
}

impl DecodeStep<'_> {
    /// The new tokens' rows of an embedding `[vocab, hidden]`: `[rows, hidden]`, of which the last may only fill up.
    ///
    /// # Errors
    /// [`KernelError`] if the embedding is elsewhere or too small.
    pub fn embed(&self, embedding: &Matrix) -> Result<Tensor, KernelError> {
        let shape = embedding.shape();
        let there = embedding.on_device().ok_or_else(|| two_places(OPERATION))?;
        check_shape(OPERATION, "vocab", &[shape[0]], &[self.tables.ids.below()])?;
        matrix::gather(there, shape, &self.tables.ids)
    }

    /// Of the new tokens.
    pub fn positions(&self) -> &Positions {
        &self.tables.positions
    }

    /// Turns queries and keys by their positions, writes keys and values behind the others of a layer, and attends to all of them.
    ///
    /// # Shapes
    /// `q`: `[rows, query heads * dim]`, `k`, `v`: `[rows, key/value heads * dim]`; returns the shape of `q`
    ///
    /// # Errors
    /// [`KernelError`] if shapes do not fit, or the device fails.
    pub fn attend(
        &self,
        layer: usize,
        rope: &RopeTable,
        [q, k]: [&Tensor; 2],
        v: &Stored,
    ) -> Result<Stored, KernelError> {
        let DecodeTables { heads, shape, .. } = self.tables;
        if layer >= self.tables.layers {
            let problem = format!("layer {layer} of {}", self.tables.layers);
            let operation = OPERATION;
            return Err(KernelError::Value { operation, problem });
        }
        let [wide, narrow] = [heads.query, heads.key_value].map(|heads_of| heads_of * heads.dim);
        self.check("q", q.shape(), q.device(), wide)?;
        self.check("k", k.shape(), k.device(), narrow)?;
        let elsewhere = || two_places(OPERATION);
        let v_there = v.device_tensor().ok_or_else(elsewhere)?;
        self.check("v", v.shape(), Some(v_there.device()), narrow)?;
        let [q, k] = [q, k].map(|it| it.on_device().ok_or_else(elsewhere)?.f32());
        let stale = || DeviceBuffer::<bf16>::stale(self.device(), shape.rows * wide);
        let (mut turned, mut out) = (stale()?, stale()?);
        self.push(
            layer,
            rope,
            [q?.buffer(), k?.buffer()],
            v_there,
            &mut turned,
        )?;
        self.attend_from(layer, &turned, &mut out)?;
        let out = Tensor::from_device(shape.rows, wide, out);
        Ok(Stored::new(out, Compute::Bf16))
    }

    fn device(&self) -> &Device {
        self.tables.rows.device()
    }

    /// That it is all rows, here.
    fn check(
        &self,
        name: &'static str,
        shape: [usize; 2],
        device: Option<&Device>,
        width: usize,
    ) -> Result<(), KernelError> {
        check_shape(OPERATION, name, &shape, &[self.tables.shape.rows, width])?;
        match device == Some(self.device()) {
            true => Ok(()),
            false => Err(two_places(OPERATION)),
        }
    }

    /// Where the table of a layer begins.
    fn addresses(&self, layer: usize) -> Argument {
        let at = layer * self.tables.shape.rows * 2;
        Argument::address(self.tables.addresses.at(at))
    }

    fn push(
        &self,
        layer: usize,
        rope: &RopeTable,
        [q, k]: [&DeviceBuffer<f32>; 2],
        v: &DeviceTensor,
        turned: &mut DeviceBuffer<bf16>,
    ) -> Result<(), KernelError> {
        let DecodeTables { heads, shape, .. } = self.tables;
        let (table, positions) = rope.there(self.device(), &self.tables.positions)?;
        let expected = [heads.dim, self.tables.most_positions];
        check_shape(OPERATION, "rope", &table.shape(), &expected)?;
        let [cos, sin] = table.arguments();
        let (kernel, v) = match v {
            DeviceTensor::F32(v) => ("rope_push_f32", v.argument()),
            DeviceTensor::Bf16(v) => ("rope_push_bf16", v.argument()),
        };
        let arguments = [
            q.argument(),
            k.argument(),
            v,
            cos,
            sin,
            positions.buffer().argument(),
            self.addresses(layer),
            turned.argument(),
            count(OPERATION, heads.query)?,
            count(OPERATION, heads.key_value)?,
            count(OPERATION, heads.dim / 2)?,
        ];
        let grid = [heads.query + 2 * heads.key_value, shape.rows, 1];
        // SAFETY: queries, keys and values have all rows, and the table all positions; each row has an address behind which there is room up
        // to its position: `begin` has made it, and nobody else has these caches.
        unsafe {
            self.device()
                .launch(kernel, grid, (PUSH_THREADS, 0), &arguments)
        }
    }

    fn attend_from(
        &self,
        layer: usize,
        q: &DeviceBuffer<bf16>,
        out: &mut DeviceBuffer<bf16>,
    ) -> Result<(), KernelError> {
        let DecodeTables {
            heads,
            shape,
            rows,
            blocks,
            ..
        } = self.tables;
        let (heads, device) = (*heads, self.device());
        // `[parts, query heads, dim + 2]` of rows that have several: none where there is a block a row.
        let has_parts = shape.blocks > shape.rows;
        let parts = if has_parts { shape.blocks } else { 0 };
        let parts = DeviceBuffer::<f32>::stale(device, parts * heads.query * (heads.dim + 2))?;
        let number = |value| count(OPERATION, value);
        let group = heads.query / heads.key_value;
        let kernel = match Instance::of(OPERATION, heads)? {
            Instance::Dim64 => "attention_decode_64",
            Instance::Dim128 => "attention_decode_128",
        };
        let [wide, narrow] = [heads.query, heads.key_value].map(|heads_of| heads_of * heads.dim);
        let arguments = [
            q.argument(),
            self.addresses(layer),
            rows.argument(),
            blocks.argument(),
            out.argument(),
            parts.argument(),
            number(wide)?,
            number(narrow)?,
            number(wide)?,
            number(heads.query)?,
            number(group)?,
            number(heads.dim)?,
            scale(heads).into(),
        ];
        let tiles = heads.key_value * group.div_ceil(BLOCK_HEADS);
        let grid = [tiles, shape.blocks, 1];
        // SAFETY: `q` and `out` have all rows, each has an address with its keys behind it, and `parts` a place for each part of a row
        // that has several, as there are no more than blocks.
        unsafe { device.launch(kernel, grid, (THREADS, 0), &arguments)? };
        if !has_parts {
            return Ok(());
        }
        let arguments = [
            parts.argument(),
            rows.argument(),
            out.argument(),
            number(wide)?,
            number(heads.dim)?,
            scale(heads).into(),
        ];
        let grid = [heads.query, shape.rows, 1];
        // SAFETY: as above.
        unsafe { device.launch("attention_decode_join", grid, (THREADS, 0), &arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Qkv;
    use crate::cuda::testing::{assert_close, devices, narrowed as rounded, widened};
    use crate::reference;
    use crate::reference::testing::noise;
    use crate::rope::frequencies;
    use crate::sequences::Sequences;

    fn heads(query: usize, key_value: usize, dim: usize) -> Heads {
        Heads {
            query,
            key_value,
            dim,
        }
    }

    const LIMITS: [usize; 2] = [7, 2000];

    fn table(heads: Heads) -> RopeTable {
        RopeTable::new(LIMITS[1], &frequencies(heads.dim, 1e4))
    }

    /// Queries and keys turned, values as they are.
    fn turned([q, k, v]: &[Tensor; 3], positions: &Positions, heads: Heads) -> [Tensor; 3] {
        let turn = |it| reference::rope(it, positions, &frequencies(heads.dim, 1e4));
        [turn(q), turn(k), v.clone()]
    }

    fn there(device: &Device, tensor: &Tensor) -> Stored {
        Stored::new(tensor.to_device(device).unwrap(), Compute::Bf16)
    }

    /// q, k, v of a packed batch.
    fn inputs(tokens: usize, heads: Heads) -> [Tensor; 3] {
        let (wide, narrow) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let mut q = noise(tokens, wide, 1);
        q.data_mut().iter_mut().for_each(|value| *value *= 3.0);
        let [k, v] = [2, 3].map(|seed| noise(tokens, narrow, seed));
        [q, k, v]
    }

    /// The last token of each of some packed sequences, behind the others in caches: what it attends to.
    fn decoded(
        device: &Device,
        inputs: &[Tensor; 3],
        sequences: &Sequences,
        heads: Heads,
    ) -> Tensor {
        let [_, k, v] = turned(inputs, &sequences.positions(), heads).map(|it| there(device, &it));
        let ranges: Vec<_> = sequences.ranges().collect();
        let caches = ranges.iter().map(|range| {
            let mut cache = Cache::on_device(heads, device);
            cache.push(&k, &v, range.start..range.end - 1).unwrap();
            // A layer that nothing is written to, and the one that counts.
            [cache.clone(), cache]
        });
        let mut caches: Vec<_> = caches.collect();
        let mut caches: Vec<&mut [Cache]> = caches.iter_mut().map(|it| &mut it[..]).collect();
        let keys: Vec<usize> = ranges.iter().map(ExactSizeIterator::len).collect();
        let shape = DecodeShape::of(&keys);
        let mut last: Vec<_> = ranges.iter().map(|range| range.end - 1).collect();
        // Rows that only fill up hold whatever there is.
        last.resize(shape.rows(), 0);
        let new = inputs.each_ref();
        let [q, k, v] = new.map(|it| it.gather_rows(&last).unwrap().to_device(device).unwrap());
        let v = Stored::new(v.to_operand().unwrap().into_owned(), Compute::Bf16);
        let mut tables = DecodeTables::new(device, heads, 2, LIMITS, shape).unwrap();
        let step = tables.begin(&vec![3; keys.len()], &mut caches).unwrap();
        let out = step.attend(1, &table(heads), [&q, &k], &v);
        let out = out.unwrap().into_tensor();
        let rows: Vec<_> = (0..keys.len()).collect();
        out.to_host().unwrap().gather_rows(&rows).unwrap()
    }

    /// One to four parts, groups below and above 16 heads; a row alone has the bits that it has beside others.
    #[test]
    fn attention_decode_matches_reference_on_devices() {
        for (lengths, heads) in [
            (&[1, 5, 64, 65, 300][..], heads(6, 2, 8)),
            (&[1000, 17, 257], heads(4, 1, 64)),
            (&[130], heads(20, 1, 72)),
            (&[40, 513], heads(3, 3, 128)),
        ] {
            let sequences = Sequences::from_lengths(lengths).unwrap();
            let inputs = inputs(sequences.tokens(), heads);
            let last: Vec<_> = sequences.ranges().map(|range| range.end - 1).collect();
            let [exact, plain] = [Compute::F32, Compute::Bf16].map(|compute| {
                let inputs = turned(&inputs, &sequences.positions(), heads);
                let stored = inputs.map(|it| Stored::new(it, compute));
                let [q, k, v] = &stored;
                let (out, _) = reference::attention(Qkv { q, k, v }, &sequences, heads);
                out.gather_rows(&last).unwrap()
            });
            for device in devices() {
                let got = decoded(&device, &inputs, &sequences, heads);
                assert_close(
                    &format!("{lengths:?}, {heads:?}"),
                    got.data(),
                    exact.data(),
                    &rounded(plain.data()),
                );
                for (row, range) in sequences.ranges().enumerate() {
                    let tokens: Vec<_> = range.collect();
                    let alone = inputs.each_ref().map(|it| it.gather_rows(&tokens).unwrap());
                    let sequence = Sequences::from_lengths(&[tokens.len()]).unwrap();
                    let alone = decoded(&device, &alone, &sequence, heads);
                    assert_eq!(alone.data(), got.row(row));
                }
            }
        }
    }

    /// A cache holds what [`Cache::push`] puts into it, also where it grows and where another shares its beginning.
    #[test]
    fn rope_push_matches_reference_on_devices() {
        let heads = heads(2, 1, 24);
        for device in devices() {
            for before in [0, 3, 256] {
                let inputs = inputs(before + 1, heads);
                let positions = Positions::from((0..=before as u32).collect::<Vec<_>>());
                let expected = turned(&inputs, &positions, heads);
                let [_, k, v] = expected.each_ref().map(|it| there(&device, it));
                let mut pushed = Cache::on_device(heads, &device);
                pushed.push(&k, &v, 0..before).unwrap();
                let mut caches = [pushed.clone()];
                let beginning = pushed.clone();
                pushed.push(&k, &v, before..before + 1).unwrap();
                let new = inputs.map(|it| it.gather_rows(&[before]).unwrap());
                let [q, k, v] = new.map(|it| it.to_device(&device).unwrap());
                let shape = DecodeShape::of(&[before + 1]);
                let mut tables = DecodeTables::new(&device, heads, 1, LIMITS, shape).unwrap();
                let mut rows: [&mut [Cache]; 1] = [&mut caches];
                let step = tables.begin(&[0], &mut rows).unwrap();
                let v = Stored::new(v, Compute::Bf16);
                step.attend(0, &table(heads), [&q, &k], &v).unwrap();
                let [cache] = &mut caches;
                assert_eq!(cache.positions(), before + 1);
                let got = values(cache);
                for ((got, pushed), exact) in
                    got.iter().zip(&values(&mut pushed)).zip(&expected[1..])
                {
                    assert_close("cache", got, exact.data(), pushed);
                }
                assert_eq!(beginning.positions(), before);
            }
        }
    }

    /// Keys and values that a cache counts.
    fn values(cache: &mut Cache) -> [Vec<f32>; 2] {
        let counted = cache.positions() * cache.shape().iter().product::<usize>();
        let place = cache.on_a_device_mut().unwrap().place().unwrap();
        [place.k, place.v].map(|buffer| widened(&buffer.to_vec().unwrap()[..counted]))
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let device = &devices()[0];
        let tables = |heads, shape| DecodeTables::new(device, heads, 1, [7, 4], shape);
        for refused in [heads(1, 1, 136), heads(1, 1, 12), heads(3, 2, 8)] {
            assert!(tables(refused, DecodeShape::of(&[1])).is_err());
        }
        let heads = heads(2, 1, 8);
        assert!(tables(heads, DecodeShape::of(&vec![1; 70_000])).is_err());
        let mut tables = tables(heads, DecodeShape::of(&[1])).unwrap();
        let mut begin = |ids: &[u32], rows: &mut [&mut [Cache]]| {
            let begun = tables.begin(ids, rows);
            begun.map(|_| ()).map_err(|error| error.to_string())
        };
        let empty = || Cache::on_device(heads, device);
        assert!(begin(&[6], &mut [&mut [empty()]]).is_ok());
        let beyond = begin(&[7], &mut [&mut [empty()]]).unwrap_err();
        assert_eq!(beyond, "attention_decode: row 7 of 7");
        assert!(begin(&[6, 6], &mut [&mut [empty()]]).is_err());
        assert!(begin(&[6], &mut [&mut [empty(), empty()]]).is_err());
        assert!(begin(&[6, 6], &mut [&mut [empty()], &mut [empty()]]).is_err());
        assert!(begin(&[6], &mut [&mut [Cache::new(heads, Compute::Bf16)]]).is_err());
        let [_, k, v] = inputs(4, heads).map(|it| there(device, &it));
        let mut full = empty();
        full.push(&k, &v, 0..4).unwrap();
        assert!(
            begin(&[6], &mut [&mut [full]]).is_err(),
            "beyond the positions"
        );
    }
}
