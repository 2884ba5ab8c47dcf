//! How often something is done, and how long each time takes.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::Context;
use clap::Args;

/// How often the work is done, and on how many threads.
#[derive(Debug, Args)]
pub struct TimingArgs {
    /// Times that are counted; their median is told
    #[arg(long, value_name = "N", default_value = "5")]
    pub steps: NonZeroUsize,
    /// Times before them that are not: fresh memory and cold caches
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warmup: usize,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl TimingArgs {
    /// Settles how many threads the program has. Must come before any other work.
    ///
    /// # Errors
    /// When the system refuses the threads.
    pub fn set_threads(&self) -> anyhow::Result<()> {
        let Some(threads) = self.threads else {
            return Ok(());
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
        pool.build_global()
            .with_context(|| format!("cannot start {threads} threads"))
    }

    /// Does `work` so many times; how long the counted ones took, and what they returned.
    ///
    /// # Errors
    /// The first that `work` returns.
    pub fn time<T>(
        &self,
        mut work: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<(Laps, Vec<T>)> {
        for _ in 0..self.warmup {
            work()?;
        }
        let mut laps = Laps::start();
        let mut results = Vec::new();
        for _ in 0..self.steps.get() {
            results.push(work()?);
            laps.lap();
        }
        Ok((laps, results))
    }
}

/// Times of repeated work.
#[derive(Debug)]
pub struct Laps {
    last: Instant,
    seconds: Vec<f64>,
    /// At the start and after each lap, where the system tells.
    cpu_seconds: Vec<Option<f64>>,
}

impl Laps {
    /// The first lap begins.
    pub fn start() -> Self {
        Self {
            last: Instant::now(),
            seconds: Vec::new(),
            cpu_seconds: vec![cpu_seconds()],
        }
    }

    /// A lap ends, and the next one begins.
    pub fn lap(&mut self) {
        let now = Instant::now();
        self.seconds.push((now - self.last).as_secs_f64());
        self.cpu_seconds.push(cpu_seconds());
        self.last = now;
    }

    /// The first `count` laps do not count.
    pub fn forget(&mut self, count: usize) {
        self.seconds.drain(..count);
        self.cpu_seconds.drain(..count);
    }

    /// Seconds of each lap.
    pub fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    /// Seconds of a lap.
    pub fn step_s(&self) -> f64 {
        median(self.seconds.clone())
    }

    /// Seconds that all cores together worked in a lap: what to compare on a machine that has other work.
    pub fn cpu_s(&self) -> Option<f64> {
        let (first, last) = (*self.cpu_seconds.first()?, *self.cpu_seconds.last()?);
        Some((last? - first?) / self.seconds.len() as f64)
    }
}

/// The value in the middle; the mean of both where there are two.
///
/// # Panics
/// If there are no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len().is_multiple_of(2) {
        true => (values[middle - 1] + values[middle]) / 2.0,
        false => values[middle],
    }
}

/// Seconds that the processor has worked for the process so far, where the system tells.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may have spaces. Then come the state, and the times as the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    // Linux counts 100 ticks a second for programs, whatever its own clock.
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn warmup_is_not_counted() {
        let timing = TimingArgs {
            steps: NonZeroUsize::new(3).unwrap(),
            warmup: 2,
            threads: None,
            json: false,
        };
        let mut calls = 0;
        let (laps, results) = timing
            .time(|| {
                calls += 1;
                Ok(calls)
            })
            .unwrap();
        assert_eq!(results, [3, 4, 5]);
        assert_eq!((laps.seconds.len(), laps.cpu_seconds.len()), (3, 4));
    }

    #[test]
    fn forgotten_laps_leave_the_clock_where_they_ended() {
        let mut laps = Laps::start();
        laps.seconds = vec![9.0, 1.0, 1.0];
        laps.cpu_seconds = vec![Some(0.0), Some(18.0), Some(20.0), Some(22.0)];
        laps.forget(1);
        assert_eq!((laps.step_s(), laps.cpu_s()), (1.0, Some(2.0)));
    }
}
