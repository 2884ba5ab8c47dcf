//! How fast the exact store finds the nearest of many vectors, beside what the machine could do at best.
//!
//! ```sh
//! cargo run --release -p rag-tune-augment --example store_bench -- FOLDER [ROWS] [REPEATS] [VECTORS]
//! ```
//!
//! FOLDER gets a store of random unit vectors of 384 dimensions (1,000,000 unless told), the queries
//! (`queries.f32`) and what was found (`found.i32`), which `scripts/bench_store.py` checks with other libraries.
//! Rates are given by the clock, and by a second of a processor's time, which says more where other programs run beside it.
//! VECTORS is a file of f32 vectors of the same dimension, such as a store's or a vector cache's `vectors.f32`:
//! each is looked up among the others by both ways, which must agree on real vectors too.
#![allow(
    clippy::print_stdout,
    reason = "a program that reports on its standard output"
)]

mod peak;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rag_tune_augment::AugmentError;
use rag_tune_augment::embed::Embeddings;
use rag_tune_augment::select::Example;
use rag_tune_augment::stores::{ExactStore, FirstPass, Store, StoreIdentity};
use rayon::prelude::*;

const DIMENSION: usize = 384;
const QUERIES: usize = 4096;
const NEAREST: usize = 8;
/// Rows that are looked up among all rows, to say how long it would take for all of them.
const PART_OF_ALL: usize = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: store_bench FOLDER [ROWS] [REPEATS] [VECTORS]")?,
    );
    let rows: usize = arguments
        .next()
        .map_or(Ok(1_000_000), |rows| rows.parse())?;
    let repeats: usize = arguments.next().map_or(Ok(3), |repeats| repeats.parse())?;

    if let Some(file) = arguments.next() {
        compare_ways(Path::new(&file))?;
    }

    println!("threads: {}", rayon::current_num_threads());
    let peaks = peak::Peaks::measure();
    println!("{peaks}");

    let started = Instant::now();
    let store = store(&folder.join("store"), rows)?;
    println!(
        "store of {rows} x {DIMENSION} made or opened in {:.2} s",
        started.elapsed().as_secs_f64()
    );
    let queries = random_unit_vectors(1 << 40, QUERIES);
    let one = Embeddings::new(DIMENSION, queries.row(0).to_vec());
    let part = store.vectors(&(0..rows.min(PART_OF_ALL)).collect::<Vec<_>>())?;

    // Codes first: so its memory is told before the f32 pass has touched all vectors.
    let mut found = Vec::new();
    let mut times = [[Time::LONGEST; 3]; 2];
    let mut stores = [Some(store), None];
    for repeat in 0..repeats {
        for pass in 0..2 {
            if stores[pass].is_none() {
                stores[pass] = Some(self::store(&folder.join("store"), rows)?.without_codes());
            }
            let store = stores[pass].as_ref().ok_or("opened above")?;
            let (time_of_one, _) = best_of(20, || store.nearest(&one, NEAREST, &|_, _| true))?;
            let before = store.rescored();
            let (time_of_many, picks) =
                best_of(1, || store.nearest(&queries, NEAREST, &|_, _| true))?;
            let rescored = (store.rescored() - before) as f64 / QUERIES as f64;
            // Each row among all others, as a data set is augmented with itself.
            let (time_of_part, _) = best_of(1, || {
                store.nearest(&part, NEAREST, &|query, row| query != row)
            })?;
            for (best, time) in
                times[pass]
                    .iter_mut()
                    .zip([time_of_one, time_of_many, time_of_part])
            {
                *best = best.min(time);
            }
            let name = ["int8 then f32", "f32"][pass];
            println!(
                "round {repeat}, {name}: one {:.2} ms, {QUERIES} {:.3} s, part {:.3} s, \
                 {rescored:.0} scores per query computed again; {}",
                time_of_one.clock * 1e3,
                time_of_many.clock,
                time_of_part.clock,
                memory()?,
            );
            found.push(picks);
        }
    }
    for (pass, name) in ["int8 then f32", "f32"].into_iter().enumerate() {
        report(name, rows, times[pass], &peaks, pass == 0);
    }
    let agree = found
        .iter()
        .flat_map(|picks| picks.iter().zip(&found[0]).map(|(a, b)| a[0] == b[0]));
    let (same, all) = agree.fold((0, 0), |(same, all), equal| {
        (same + usize::from(equal), all + 1)
    });
    println!("first picks that agree, with every bit of their score: {same} of {all}");
    save(&folder, &queries, &found[0])
}

/// Looks up each of a file's vectors among the others.
fn compare_ways(file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let values = std::fs::read(file)?;
    let values = values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes));
    let vectors = Embeddings::new(DIMENSION, values.collect());
    let mut found = Vec::new();
    for first_pass in [FirstPass::Int8, FirstPass::F32] {
        let store = ExactStore::with_first_pass(vectors.clone(), first_pass);
        let (time, picks) = best_of(1, || {
            store.nearest(&vectors, NEAREST, &|query, row| query != row)
        })?;
        println!(
            "{} vectors of `{}`, {first_pass:?}: {:.3} s, {:.0} scores per query computed again",
            vectors.len(),
            file.display(),
            time.clock,
            store.rescored() as f64 / vectors.len() as f64,
        );
        found.push(picks);
    }
    let same = found[0]
        .iter()
        .zip(&found[1])
        .filter(|(a, b)| a == b)
        .count();
    println!(
        "all {NEAREST} picks agree, with every bit of their scores, for {same} of {}",
        vectors.len()
    );
    Ok(())
}

fn report(name: &str, rows: usize, [one, many, part]: [Time; 3], peaks: &peak::Peaks, coded: bool) {
    let operations = |queries: usize| 2.0 * (rows * queries * DIMENSION) as f64;
    let (bytes, peak) = if coded {
        (rows * (DIMENSION + 16), peaks.int8)
    } else {
        (rows * DIMENSION * 4, peaks.f32)
    };
    let bytes_per_s = bytes as f64 / one.clock;
    println!("best, {name}:");
    println!(
        "  one query: {:.2} ms, {:.1} GB/s ({:.0} % of reading at best)",
        one.clock * 1e3,
        bytes_per_s / 1e9,
        100.0 * bytes_per_s / peaks.read
    );
    for (what, queries, time) in [
        ("queries", QUERIES, many),
        ("rows among all", rows.min(PART_OF_ALL), part),
    ] {
        let rate = operations(queries) / time.clock;
        let rate_of_core = operations(queries) / time.processor;
        println!(
            "  {queries} {what}: {:.3} s, {:.0} GOP/s ({:.0} % of the best), {:.0} a core ({:.0} %)",
            time.clock,
            rate / 1e9,
            100.0 * rate / peak.clock,
            rate_of_core / 1e9,
            100.0 * rate_of_core / peak.core,
        );
    }
    let all = part.clock * rows as f64 / rows.min(PART_OF_ALL) as f64;
    println!(
        "  all among all, from the {} before: {all:.0} s",
        rows.min(PART_OF_ALL)
    );
}

/// Seconds.
#[derive(Clone, Copy)]
pub struct Time {
    /// On the clock.
    pub clock: f64,
    /// That processors gave to this process, of all threads.
    pub processor: f64,
}

impl Time {
    const LONGEST: Self = Self {
        clock: f64::INFINITY,
        processor: f64::INFINITY,
    };

    /// How long `act` takes.
    pub fn of(act: impl FnOnce()) -> Self {
        let (clock, processor) = (Instant::now(), processor_seconds());
        act();
        Self {
            clock: clock.elapsed().as_secs_f64(),
            processor: processor_seconds() - processor,
        }
    }

    /// The shorter of each.
    pub fn min(self, other: Self) -> Self {
        Self {
            clock: self.clock.min(other.clock),
            processor: self.processor.min(other.processor),
        }
    }
}

/// What Linux counts for each thread, in nanoseconds; NaN elsewhere.
fn processor_seconds() -> f64 {
    let of_thread = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    std::fs::read_dir("/proc/self/task").map_or(f64::NAN, |threads| {
        threads
            .filter_map(|thread| of_thread(thread.ok()?))
            .sum::<f64>()
            / 1e9
    })
}

/// The shortest time, and the last result.
fn best_of(
    repeats: usize,
    act: impl Fn() -> Result<Vec<Vec<Example>>, AugmentError>,
) -> Result<(Time, Vec<Vec<Example>>), AugmentError> {
    let (mut best, mut result) = (Time::LONGEST, Ok(Vec::new()));
    for _ in 0..repeats {
        best = best.min(Time::of(|| result = act()));
    }
    Ok((best, result?))
}

fn store(folder: &Path, rows: usize) -> Result<ExactStore, AugmentError> {
    let identity = StoreIdentity {
        embedder: "random unit vectors".into(),
        texts: "none".into(),
        rows,
    };
    ExactStore::open(folder, &identity, |push| {
        for start in (0..rows).step_by(8192) {
            push(&random_unit_vectors(start, rows.min(start + 8192) - start))?;
        }
        Ok(())
    })
}

/// Vectors `start..start + count` of an endless list.
fn random_unit_vectors(start: usize, count: usize) -> Embeddings {
    let mut values = vec![0.0; count * DIMENSION];
    values
        .par_chunks_mut(DIMENSION)
        .enumerate()
        .for_each(|(row, vector)| {
            let mut state =
                ((start + row) as u64).wrapping_mul(0xd134_2543_de82_ef95) ^ 0x2545_f491_4f6c_dd1d;
            // Sums of four uniform numbers are near enough to the normal distribution, whose vectors
            // point everywhere alike.
            vector.fill_with(|| (0..4).map(|_| uniform(&mut state)).sum());
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|value| *value /= length);
        });
    Embeddings::new(DIMENSION, values)
}

/// From -0.5 to 0.5 (splitmix64: Steele, Lea and Flood 2014).
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / 16_777_216.0 - 0.5
}

/// Memory of this process: of its own, and of mapped files.
fn memory() -> std::io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let megabytes =
        |name| field(name).map_or("?".into(), |kib| format!("{:.0} MB", kib * 1024.0 / 1e6));
    let [own, mapped, peak] = ["RssAnon:", "RssFile:", "VmHWM:"].map(megabytes);
    Ok(format!("memory {own} + mapped {mapped}, peak {peak}"))
}

fn save(
    folder: &Path,
    queries: &Embeddings,
    found: &[Vec<Example>],
) -> Result<(), Box<dyn std::error::Error>> {
    let queries: Vec<u8> = queries
        .values()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    std::fs::write(folder.join("queries.f32"), queries)?;
    let rows = found
        .iter()
        .flatten()
        .map(|example| i32::try_from(example.row));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<u8> = rows.into_iter().flat_map(i32::to_le_bytes).collect();
    std::fs::write(folder.join("found.i32"), rows)?;
    Ok(())
}
