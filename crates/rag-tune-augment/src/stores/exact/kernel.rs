//! Dot products of int8 codes: 64 rows of the store by up to six queries.
//!
//! There are three ways (AVX-512 VNNI, AVX2, plain Rust); they give the same integers, and the
//! processor decides at run time which is taken. Codes of rows lie as `[quads][64 rows][4]`, where
//! a quad is four neighbouring values of a vector: one register then holds a quad of 16 rows,
//! and each lane sums up one row, so that nothing has to be added across lanes in the end.

/// Rows that are multiplied together.
pub(super) const PANEL_ROWS: usize = 64;
/// Queries that are multiplied together: 6 x 64 sums fill 24 of the 32 vector registers.
pub(super) const GROUP_QUERIES: usize = 6;
/// Values that one instruction multiplies and adds up.
pub(super) const QUAD: usize = 4;
/// `vpdpbusd` multiplies unsigned by signed, so it sees queries raised by this.
pub(super) const QUERY_OFFSET: i32 = 128;

/// Products of a group of queries with a panel: `[queries][rows]`.
pub(super) type Products = [[i32; PANEL_ROWS]; GROUP_QUERIES];

/// A way to compute, which this processor has: made by [`Kernel::best`] and [`Kernel::available`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel(Way);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// Codes of 64 rows.
#[derive(Clone, Copy)]
pub(super) struct PanelCodes<'a> {
    /// `[quads][64][4]`
    pub codes: &'a [i8],
    /// [`offset`] of each row.
    pub offsets: &'a [i32; PANEL_ROWS],
    /// What a row's product is multiplied with to be its score.
    pub scales: &'a [f32; PANEL_ROWS],
}

/// What takes [`QUERY_OFFSET`] out of a row's product again.
pub(super) fn offset(row_codes: impl Iterator<Item = i8>) -> i32 {
    -QUERY_OFFSET * row_codes.map(i32::from).sum::<i32>()
}

/// Codes of one to six queries, as one kernel reads them: `[quads][queries]`, a quad in each word.
pub(super) struct QueryGroup {
    words: Vec<i32>,
    queries: usize,
    kernel: Kernel,
}

impl Kernel {
    /// The fastest that this processor has.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// All that this processor has, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut ways = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512vnni") {
                ways.push(Self(Way::Vnni));
            }
            if has!("avx2") {
                ways.push(Self(Way::Avx2));
            }
        }
        ways.push(Self(Way::Portable));
        ways
    }

    /// `products[query][row]` for the queries of the group; the rest of `products` is left as it is. Returns a
    /// set of bits, by position in the group: whether some row's `product * scale` is not below
    /// `least` for that query. Nearly always none is set.
    ///
    /// # Panics
    /// If panel and group are of different length, or the group was made for another kernel.
    pub fn multiply(
        self,
        panel: PanelCodes<'_>,
        group: &QueryGroup,
        least: &[f32; GROUP_QUERIES],
        products: &mut Products,
    ) -> u32 {
        let quads = group.words.len() / group.queries;
        assert_eq!(panel.codes.len(), quads * PANEL_ROWS * QUAD, "dimension");
        assert_eq!(group.kernel, self, "codes for this kernel");
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a kernel of this kind is only made where the processor has AVX-512 VNNI, and
            // the panel has 64 quads for each word of a query.
            Way::Vnni => unsafe { vnni::multiply(panel, group, least, products) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, with AVX2.
            Way::Avx2 => unsafe { avx2::multiply(panel, group, least, products) },
            Way::Portable => {
                portable_multiply(panel.codes, group, products);
                reaching(group.queries, products, panel.scales, least)
            }
        }
    }
}

impl QueryGroup {
    /// Takes the codes of one to six queries, each of the same length.
    pub fn new(kernel: Kernel, queries: &[&[i8]]) -> Self {
        assert!((1..=GROUP_QUERIES).contains(&queries.len()), "a group");
        let quads = queries[0].len().div_ceil(QUAD);
        let flip = match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Way::Vnni => 0x80, // adds 128 and makes it unsigned
            _ => 0,
        };
        let word = |(quad, query): (usize, &[i8])| {
            let bytes = std::array::from_fn(|at| {
                let code = query.get(quad * QUAD + at).copied().unwrap_or(0);
                code as u8 ^ flip
            });
            i32::from_le_bytes(bytes)
        };
        let order = (0..quads).flat_map(|quad| queries.iter().map(move |&query| (quad, query)));
        Self {
            words: order.map(word).collect(),
            queries: queries.len(),
            kernel,
        }
    }
}

fn portable_multiply(codes: &[i8], group: &QueryGroup, products: &mut Products) {
    products[..group.queries].fill([0; PANEL_ROWS]);
    let panels = codes.chunks_exact(PANEL_ROWS * QUAD);
    for (rows, words) in panels.zip(group.words.chunks_exact(group.queries)) {
        for (word, sums) in words.iter().zip(&mut *products) {
            let query = word.to_le_bytes().map(|byte| i32::from(byte as i8));
            for (sum, row) in sums.iter_mut().zip(rows.as_chunks::<QUAD>().0) {
                for at in 0..QUAD {
                    *sum += query[at] * i32::from(row[at]);
                }
            }
        }
    }
}

/// What [`Kernel::multiply`] returns. Plain Rust, which a caller may compile for wider registers.
#[inline(always)]
fn reaching(
    queries: usize,
    products: &Products,
    scales: &[f32; PANEL_ROWS],
    least: &[f32; GROUP_QUERIES],
) -> u32 {
    let mut reached = 0;
    for query in 0..queries {
        let mut below = true;
        for (&product, scale) in products[query].iter().zip(scales) {
            below &= product as f32 * scale < least[query];
        }
        reached |= u32::from(!below) << query;
    }
    reached
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::{
        __m512i, _CMP_NLT_UQ, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_storeu_si512,
    };

    use super::{GROUP_QUERIES, PANEL_ROWS, PanelCodes, Products, QUAD, QueryGroup};

    /// # Safety
    /// The processor must have AVX-512 VNNI; `panel.codes` must hold 256 codes for each word that a
    /// query of the group has.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub unsafe fn multiply(
        panel: PanelCodes<'_>,
        group: &QueryGroup,
        least: &[f32; GROUP_QUERIES],
        products: &mut Products,
    ) -> u32 {
        let words = &group.words;
        // SAFETY: the caller's promise.
        unsafe {
            match group.queries {
                1 => tile::<1>(panel, words, least, products),
                2 => tile::<2>(panel, words, least, products),
                3 => tile::<3>(panel, words, least, products),
                4 => tile::<4>(panel, words, least, products),
                5 => tile::<5>(panel, words, least, products),
                _ => tile::<GROUP_QUERIES>(panel, words, least, products),
            }
        }
    }

    /// # Safety
    /// As [`multiply`], with `QUERIES` queries.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn tile<const QUERIES: usize>(
        panel: PanelCodes<'_>,
        words: &[i32],
        least: &[f32; GROUP_QUERIES],
        products: &mut Products,
    ) -> u32 {
        let (offsets, scales) = (panel.offsets.as_ptr(), panel.scales.as_ptr());
        // SAFETY: 4 x 16 offsets are the 64 of the panel.
        let offsets: [__m512i; 4] = std::array::from_fn(|lane| unsafe {
            _mm512_loadu_si512(offsets.add(lane * 16).cast())
        });
        let mut sums = [offsets; QUERIES];
        let mut codes = panel.codes.as_ptr();
        for words in words.as_chunks::<QUERIES>().0 {
            // SAFETY: by the caller's promise there are as many blocks of 256 codes as quads.
            let rows: [__m512i; 4] = std::array::from_fn(|lane| unsafe {
                _mm512_loadu_si512(codes.add(lane * 64).cast())
            });
            // SAFETY: at most one past the end.
            codes = unsafe { codes.add(PANEL_ROWS * QUAD) };
            for (sums, &word) in sums.iter_mut().zip(words) {
                let query = _mm512_set1_epi32(word);
                for (sum, rows) in sums.iter_mut().zip(rows) {
                    *sum = _mm512_dpbusd_epi32(*sum, query, rows);
                }
            }
        }
        // Every sum goes to memory first: where a loop only stores some, the compiler keeps all of them
        // in memory from the start, and multiplies at a third of the speed.
        for (sums, products) in sums.iter().zip(&mut *products) {
            for (lane, sum) in sums.iter().enumerate() {
                // SAFETY: 4 x 16 sums are the 64 of a query.
                unsafe { _mm512_storeu_si512(products.as_mut_ptr().add(lane * 16).cast(), *sum) };
            }
        }
        let mut reached = 0;
        for query in 0..QUERIES {
            let least = _mm512_set1_ps(least[query]);
            let mut rows = 0;
            for lane in 0..4 {
                // SAFETY: 4 x 16 products and scales are the 64 of a query and of the panel.
                let (product, scale) = unsafe {
                    (
                        _mm512_loadu_si512(products[query].as_ptr().add(lane * 16).cast()),
                        _mm512_loadu_ps(scales.add(lane * 16)),
                    )
                };
                let score = _mm512_mul_ps(_mm512_cvtepi32_ps(product), scale);
                // "Not less than", so that NaN, of which nothing is known, counts.
                rows |= _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(score, least);
            }
            reached |= u32::from(rows != 0) << query;
        }
        reached
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm_set1_epi32, _mm256_add_epi32, _mm256_cvtepi8_epi16,
        _mm256_hadd_epi32, _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_setzero_si256,
        _mm256_storeu_si256,
    };

    use super::{GROUP_QUERIES, PANEL_ROWS, PanelCodes, Products, QUAD, QueryGroup, reaching};

    /// Rows of a tile: their codes fill four registers once they are widened to 16 bits.
    const TILE_ROWS: usize = 16;

    /// # Safety
    /// The processor must have AVX2; `panel.codes` must hold 256 for each word that a query of the group has.
    #[target_feature(enable = "avx2")]
    pub unsafe fn multiply(
        panel: PanelCodes<'_>,
        group: &QueryGroup,
        least: &[f32; GROUP_QUERIES],
        products: &mut Products,
    ) -> u32 {
        for first_row in (0..PANEL_ROWS).step_by(TILE_ROWS) {
            for (query, products) in products[..group.queries].iter_mut().enumerate() {
                // SAFETY: the caller's promise; `first_row` leaves 16 rows.
                unsafe { tile(panel.codes, group, query, first_row, products) };
            }
        }
        reaching(group.queries, products, panel.scales, least)
    }

    /// # Safety
    /// As [`multiply`]; rows `first_row..first_row + 16` must be in the panel.
    #[target_feature(enable = "avx2")]
    unsafe fn tile(
        codes: &[i8],
        group: &QueryGroup,
        query: usize,
        first_row: usize,
        products: &mut [i32; PANEL_ROWS],
    ) {
        // Four rows each, two sums a row: of the first and of the second half of a quad.
        let mut sums = [_mm256_setzero_si256(); 4];
        for (quad, words) in group.words.chunks_exact(group.queries).enumerate() {
            let query = _mm256_cvtepi8_epi16(_mm_set1_epi32(words[query]));
            let at = (quad * PANEL_ROWS + first_row) * QUAD;
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 16 codes of rows that the caller vouches for.
                let rows = unsafe { load_16(&codes[at + lane * 16..]) };
                // At most 2 * 127 * 127 a sum: nothing saturates.
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(rows), query));
            }
        }
        for (half, pair) in sums.as_chunks::<2>().0.iter().enumerate() {
            let out = &mut products[first_row + half * 8..][..8];
            // SAFETY: eight sums into eight places.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), joined(pair[0], pair[1])) };
        }
    }

    /// # Safety
    /// `codes` must hold at least 16.
    #[target_feature(enable = "avx2")]
    unsafe fn load_16(codes: &[i8]) -> __m128i {
        debug_assert!(codes.len() >= 16, "a quad of four rows");
        // SAFETY: the caller's promise.
        unsafe { _mm_loadu_si128(codes.as_ptr().cast()) }
    }

    /// Adds neighbours, and puts the eight sums in the order of the rows.
    #[target_feature(enable = "avx2")]
    fn joined(first: __m256i, second: __m256i) -> __m256i {
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(first, second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: `sum_i query[i] * row[i]`.
    fn plain(query: &[i8], row: &[i8]) -> i32 {
        query
            .iter()
            .zip(row)
            .map(|(&a, &b)| i32::from(a) * i32::from(b))
            .sum()
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_plain_products(
            dimension in 1usize..150, queries in 1usize..=GROUP_QUERIES, seed: u64,
        ) {
            let mut state = seed;
            let mut code = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Often the extremes, where narrow sums would overflow.
                match state >> 61 { 0 => -127, 1 => 127, _ => ((state >> 32) % 255) as i32 as i16 as i8 }
            };
            let mut vector = || -> Vec<i8> { (0..dimension).map(|_| code().max(-127)).collect() };
            let rows: Vec<_> = (0..PANEL_ROWS).map(|_| vector()).collect();
            let queries: Vec<_> = (0..queries).map(|_| vector()).collect();
            let mut codes = vec![0; dimension.div_ceil(QUAD) * PANEL_ROWS * QUAD];
            for (row, vector) in rows.iter().enumerate() {
                for (at, &code) in vector.iter().enumerate() {
                    codes[(at / QUAD * PANEL_ROWS + row) * QUAD + at % QUAD] = code;
                }
            }
            let offsets = std::array::from_fn(|row| offset(rows[row].iter().copied()));
            let scales: [f32; PANEL_ROWS] = std::array::from_fn(|row| 0.01 * row as f32);
            let panel = PanelCodes {
                codes: &codes,
                offsets: &offsets,
                scales: &scales,
            };
            let slices: Vec<&[i8]> = queries.iter().map(Vec::as_slice).collect();
            let expected: Vec<Vec<_>> = queries
                .iter()
                .map(|query| rows.iter().map(|row| plain(query, row)).collect())
                .collect();
            // From every second query on, the largest score is just not reached.
            let mut least = [f32::NAN; GROUP_QUERIES];
            for (query, products) in expected.iter().enumerate() {
                let scores = products.iter().zip(&scales).map(|(&a, b)| a as f32 * b);
                let largest = scores.fold(f32::NEG_INFINITY, f32::max);
                least[query] = if query % 2 == 0 { largest } else { largest.next_up() };
            }
            for kernel in Kernel::available() {
                let group = QueryGroup::new(kernel, &slices);
                let mut products = [[7; PANEL_ROWS]; GROUP_QUERIES];
                let reached = kernel.multiply(panel, &group, &least, &mut products);
                prop_assert_eq!(reached, 0b01_0101 & ((1 << queries.len()) - 1), "{:?}", kernel);
                // Below everything: now all products are given.
                let all = kernel.multiply(panel, &group, &[f32::NEG_INFINITY; 6], &mut products);
                prop_assert_eq!(all, (1 << queries.len()) - 1);
                for (found, expected) in products.iter().zip(&expected) {
                    prop_assert_eq!(&found[..], &expected[..], "{:?}", kernel);
                }
                let unknown = kernel.multiply(panel, &group, &[f32::NAN; 6], &mut products);
                prop_assert_eq!(unknown, all);
            }
        }
    }
}
