//! Several ranks, each with a device of its own, train what one device trains: each sums over its own micro-batches, and one sum over the ranks follows.
//!
//! Emulated devices have no NCCL, so that sum goes through host memory and TCP here.

mod rank_threads;
mod support;

use std::path::{Path, PathBuf};

use rag_tune_kernels::cuda::Device;
use rag_tune_train::TrainError;
use rag_tune_train::config::OptimizerKind;
use rag_tune_train::ranks::{Collective, RankError, World};
use rag_tune_train::trainer::Start;
use rank_threads::on_ranks;
use support::{TinyRun, Told};
use tempfile::tempdir;

/// Steps of four to six micro-batches, dropout included, on a device of its own.
fn on_a_device(steps: usize) -> TinyRun {
    let mut run = TinyRun::new(steps).with(|train| train.tokens_per_micro_batch = 20);
    run.model = run
        .model
        .into_device(&Device::emulated(0).unwrap())
        .unwrap();
    run
}

/// Only rank 0 may write, so the others get a folder that is not there.
fn folder_of(ranks: &dyn Collective, out: &Path) -> PathBuf {
    match ranks.world().rank {
        0 => out.to_owned(),
        rank => out.join(format!("rank-{rank}")),
    }
}

/// Loss and norm of each step.
fn figures(told: &Told) -> Vec<[f64; 2]> {
    let records = told.records.iter();
    records.map(|step| [step.loss, step.grad_norm]).collect()
}

/// That ranks do the same update to the bit is checked after every step of any run: another adapter on one of them would end it.
#[test]
fn ranks_on_devices_learn_what_one_does() {
    let alone = tempdir().unwrap();
    let told = on_a_device(3).run(alone.path(), Start::Afresh).ok();
    assert!(told.records.iter().all(|step| step.micro_batches >= 4));
    assert_eq!(told.through_host, None, "one process sums nothing");
    let expected = figures(&told);
    for size in [2, 3] {
        let out = tempdir().unwrap();
        let told = on_ranks(size, |ranks| {
            let folder = folder_of(ranks, out.path());
            on_a_device(3).run_as(ranks, &folder, Start::Afresh).ok()
        });
        let figures: Vec<_> = told.iter().map(figures).collect();
        assert!(
            figures.iter().all(|it| *it == figures[0]),
            "all ranks know the same: {figures:?}"
        );
        for (step, (got, expected)) in figures[0].iter().zip(&expected).enumerate() {
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    (got - expected).abs() < 0.01 * expected,
                    "{size} ranks, step {}: {got}, {expected}",
                    step + 1
                );
            }
        }
        let why = told[0].through_host.as_deref();
        assert!(why.is_some_and(|why| why.contains("no library")), "{why:?}");
    }
}

/// Adapter and gradient are in host memory then; each rank still sums its own.
#[test]
fn ranks_whose_update_is_the_hosts_sum_too() {
    let run = |steps| on_a_device(steps).with(|it| it.optimizer = OptimizerKind::AdamW8bit);
    let alone = tempdir().unwrap();
    let expected = figures(&run(2).run(alone.path(), Start::Afresh).ok());
    let out = tempdir().unwrap();
    let told = on_ranks(2, |ranks| {
        let folder = folder_of(ranks, out.path());
        run(2).run_as(ranks, &folder, Start::Afresh).ok()
    });
    for (got, expected) in figures(&told[1]).iter().zip(&expected) {
        assert!(
            (got[0] - expected[0]).abs() < 0.01 * expected[0],
            "{got:?}, {expected:?}"
        );
    }
    let why = told[0].through_host.as_deref();
    assert_eq!(
        why,
        Some("`train.optimizer` keeps its state in host memory")
    );
}

/// What happens to a rank in the sum of a step.
enum Mishap {
    /// It is lost.
    Dies,
    /// Its part and those of the others are finite, and their sum is not.
    Overflows,
}

/// A rank to which something happens in its second sum.
struct Second<'a> {
    ranks: &'a mut dyn Collective,
    mishap: Mishap,
    sums: usize,
}

impl<'a> Second<'a> {
    fn sum(ranks: &'a mut dyn Collective, mishap: Mishap) -> Self {
        let sums = 0;
        Self {
            ranks,
            mishap,
            sums,
        }
    }
}

impl Collective for Second<'_> {
    fn world(&self) -> World {
        self.ranks.world()
    }
    fn collect(&mut self, from: usize, bytes: &mut Vec<u8>) -> Result<(), RankError> {
        self.ranks.collect(from, bytes)
    }
    fn collect_values(&mut self, from: usize, values: &mut [f32]) -> Result<(), RankError> {
        self.ranks.collect_values(from, values)
    }
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), RankError> {
        self.ranks.broadcast(bytes)
    }
    fn broadcast_values(&mut self, values: &mut [f32]) -> Result<(), RankError> {
        self.ranks.broadcast_values(values)
    }
    fn sum_values(&mut self, values: &mut [f32]) -> Result<(), RankError> {
        self.sums += 1;
        match self.mishap {
            Mishap::Dies if self.sums == 2 => panic!("lost"),
            Mishap::Overflows if self.sums == 2 => values[0] = f32::MAX,
            _ => {}
        }
        self.ranks.sum_values(values)
    }
    fn failure(&self) -> Option<RankError> {
        self.ranks.failure()
    }
    fn give_up(&mut self, why: &RankError) {
        self.ranks.give_up(why);
    }
}

#[test]
fn a_rank_that_is_lost_in_a_sum_leaves_the_step_before() {
    let out = tempdir().unwrap();
    let errors = on_ranks(3, |ranks| {
        let folder = folder_of(ranks, out.path());
        let run = on_a_device(3);
        if ranks.world().rank == 1 {
            let told = run.run_as(
                &mut Second::sum(ranks, Mishap::Dies),
                &folder,
                Start::Afresh,
            );
            assert!(told.result.is_none(), "it has died");
            return None;
        }
        Some(run.run_as(ranks, &folder, Start::Afresh).error())
    });
    let lost = "rank 1 is lost: it has ended before the run";
    let Some(TrainError::RankLost { step, path, source }) = &errors[0] else {
        panic!("{errors:?}")
    };
    assert_eq!((*step, source.to_string().as_str()), (1, lost));
    assert!(path.join("manifest.json").exists());
    assert_eq!(errors[2].as_ref().unwrap().to_string(), lost);
    // One device goes on from there.
    let told = on_a_device(3).run(out.path(), Start::Resume).ok();
    assert_eq!((told.resumed, told.records.len()), (Some(1), 2));
}

#[test]
fn a_sum_that_is_not_finite_is_skipped_by_all() {
    let out = tempdir().unwrap();
    let told = on_ranks(2, |ranks| {
        let folder = folder_of(ranks, out.path());
        let mut ranks = Second::sum(ranks, Mishap::Overflows);
        on_a_device(3)
            .run_as(&mut ranks, &folder, Start::Afresh)
            .ok()
    });
    for told in told {
        let done: Vec<usize> = told.records.iter().map(|step| step.step).collect();
        let skipped = told.result.unwrap().unwrap().skipped_steps;
        assert_eq!((done, skipped), (vec![1, 3], 1));
    }
}

#[test]
fn ranks_on_other_kinds_of_places_do_not_train_together() {
    let out = tempdir().unwrap();
    let errors = on_ranks(2, |ranks| {
        let folder = folder_of(ranks, out.path());
        let run = match ranks.world().rank {
            0 => on_a_device(2),
            _ => TinyRun::new(2).with(|train| train.tokens_per_micro_batch = 20),
        };
        run.run_as(ranks, &folder, Start::Afresh).error()
    });
    let said = errors[0].to_string();
    assert!(
        said.starts_with("rank 1 runs on the CPU, and rank 0 on "),
        "{said}"
    );
    assert_eq!(errors[1].to_string(), said);
    assert!(errors[1].hint().unwrap().contains("a GPU"));
}
