//! Several ranks, as threads over TCP, train what one process trains: to the bit, in f32.

mod rank_threads;
mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rag_tune_model::config::{Compute, Quantization};
use rag_tune_model::lora::Adapter;
use rag_tune_train::TrainError;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{OptimizerKind, ValidationConfig};
use rag_tune_train::ranks::{Alone, Collective, RankError};
use rag_tune_train::trainer::{Ending, Hooks, Start, TrainRequest, TrainSummary, train};
use rag_tune_train::validation::{Measured, Validate, Validation};
use rank_threads::on_ranks;
use support::{TinyRun, adapter_bytes, timeless_metrics};
use tempfile::tempdir;

/// Steps of four to six micro-batches, dropout included.
fn tiny(steps: usize) -> TinyRun {
    TinyRun::new(steps).with(|train| train.tokens_per_micro_batch = 20)
}

/// Names and bytes of everything that a run has left, the metrics without their times.
fn left_by(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut left = BTreeMap::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(out).unwrap().to_owned();
                left.insert(name, fs::read(path).unwrap());
            }
        }
    }
    let metrics = timeless_metrics(out).join("\n").into_bytes();
    left.insert("metrics.jsonl".into(), metrics);
    left
}

#[track_caller]
fn assert_same(out: &Path, expected: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let left = left_by(out);
    assert!(left.keys().eq(expected.keys()), "{what}: {:?}", left.keys());
    for (name, bytes) in &left {
        assert!(
            *bytes == expected[name],
            "{what}: {} differs",
            name.display()
        );
    }
}

/// The folder of a rank: only rank 0 may write, so the others get one that is not there.
fn folder_of(ranks: &dyn Collective, out: &Path) -> PathBuf {
    match ranks.world().rank {
        0 => out.to_owned(),
        rank => out.join(format!("rank-{rank}")),
    }
}

fn trained_by(run: &TinyRun, size: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let out = tempdir().unwrap();
    on_ranks(size, |ranks| {
        let folder = folder_of(ranks, out.path());
        run.run_as(ranks, &folder, Start::Afresh).ok();
    });
    left_by(out.path())
}

#[test]
fn any_number_of_ranks_leaves_the_same_bytes_as_one_process() {
    let run = tiny(6);
    let alone = tempdir().unwrap();
    let told = run.run(alone.path(), Start::Afresh).ok();
    assert!(told.records.iter().all(|step| step.micro_batches >= 4));
    let expected = left_by(alone.path());
    // Seven ranks are more than a step has micro-batches.
    for size in [2, 3, 7] {
        let left = trained_by(&run, size);
        assert!(left.keys().eq(expected.keys()), "{:?}", left.keys());
        for (name, bytes) in &left {
            assert!(*bytes == expected[name], "{size} ranks: {}", name.display());
        }
    }
}

/// What has tensors, sums and state of its own; in bf16 where this processor can.
#[test]
fn dora_and_8_bit_state_are_the_same_on_ranks() {
    let mut run = tiny(3).with(|train| train.optimizer = OptimizerKind::AdamW8bit);
    let folder = "../../tests/fixtures/golden/tiny_tied";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    run.model = support::load(&folder, Quantization::Int8, Compute::Auto);
    run.lora.use_dora = true;
    run.lora.rank = 128;
    let alone = tempdir().unwrap();
    run.run(alone.path(), Start::Afresh).ok();
    assert!(trained_by(&run, 2) == left_by(alone.path()));
}

#[test]
fn all_ranks_know_the_same_losses() {
    let out = tempdir().unwrap();
    let losses = on_ranks(3, |ranks| {
        let folder = folder_of(ranks, out.path());
        let told = tiny(3).run_as(ranks, &folder, Start::Afresh).ok();
        let losses = told.records.iter().map(|step| (step.loss, step.grad_norm));
        losses.collect::<Vec<_>>()
    });
    assert!(losses[0] == losses[1] && losses[0] == losses[2]);
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let run = tiny(12);
    let whole = tempdir().unwrap();
    run.run(whole.path(), Start::Afresh).ok();
    let expected = left_by(whole.path());
    let cut = tempdir().unwrap();
    run.killed_after(7, cut.path(), Start::Afresh);
    // Only rank 0 sees the folder, and is asked to go on.
    let told = on_ranks(3, |ranks| {
        let folder = folder_of(ranks, cut.path());
        let start = match ranks.world().rank {
            0 => Start::Resume,
            _ => Start::Afresh,
        };
        run.run_as(ranks, &folder, start).ok().records[0].step
    });
    assert_eq!(told, [6, 6, 6], "the checkpoint was step 5's");
    assert_same(cut.path(), &expected, "resumed by three");
}

#[test]
fn a_lost_rank_is_named_and_its_last_step_stays() {
    let run = tiny(12);
    let whole = tempdir().unwrap();
    run.run(whole.path(), Start::Afresh).ok();
    let expected = left_by(whole.path());
    let out = tempdir().unwrap();
    let errors = on_ranks(3, |ranks| {
        let folder = folder_of(ranks, out.path());
        match ranks.world().rank {
            1 => {
                run.killed_as(ranks, 7, &folder);
                None
            }
            _ => Some(run.run_as(ranks, &folder, Start::Afresh).error()),
        }
    });
    let Some(TrainError::RankLost { step, path, source }) = &errors[0] else {
        panic!("{errors:?}")
    };
    let lost = "rank 1 is lost: it has ended before the run";
    assert_eq!((*step, source.to_string().as_str()), (7, lost));
    assert!(path.ends_with("checkpoints/step-000007") && path.join("manifest.json").exists());
    // What rank 0 has noticed, rank 2 is told.
    assert_eq!(errors[2].as_ref().unwrap().to_string(), lost);
    assert!(
        errors[0]
            .as_ref()
            .unwrap()
            .hint()
            .unwrap()
            .contains("--resume")
    );

    let told = run.run(out.path(), Start::Resume).ok();
    assert_eq!(told.resumed, Some(7));
    assert_same(out.path(), &expected, "resumed by one");
}

#[test]
fn a_rank_with_other_settings_is_named_with_what_differs() {
    let out = tempdir().unwrap();
    let errors = on_ranks(3, |ranks| {
        let rate = if ranks.world().rank == 2 { 0.25 } else { 2e-2 };
        let run = tiny(3).with(|train| train.learning_rate = rate);
        let folder = folder_of(ranks, out.path());
        run.run_as(ranks, &folder, Start::Afresh)
            .error()
            .to_string()
    });
    let expected = "rank 2 trains another run than rank 0: \
                    `train.learning_rate` is 0.25 there and 0.02 on rank 0";
    assert_eq!(errors, [expected; 3]);
    assert!(
        fs::read_dir(out.path()).unwrap().next().is_none(),
        "nothing was begun"
    );
}

#[test]
fn a_signal_to_any_rank_stops_all_with_a_checkpoint() {
    let out = tempdir().unwrap();
    let endings = on_ranks(2, |ranks| {
        let folder = folder_of(ranks, out.path());
        let told = match ranks.world().rank {
            1 => tiny(6).stopped_as(ranks, &folder),
            _ => tiny(6).run_as(ranks, &folder, Start::Afresh),
        };
        let summary = told.result.unwrap().unwrap();
        (summary.steps, summary.ending)
    });
    assert_eq!(endings, [(1, Ending::Stopped), (1, Ending::Stopped)]);
    assert!(
        out.path()
            .join("checkpoints/step-000001/manifest.json")
            .exists()
    );
}

#[test]
fn an_adapter_that_has_drifted_stops_the_run() {
    /// As a processor that rounds otherwise, only worse: a bit of every value is another one.
    struct Inexact<'a>(&'a mut dyn Collective);

    impl Collective for Inexact<'_> {
        fn world(&self) -> rag_tune_train::ranks::World {
            self.0.world()
        }
        fn collect(&mut self, from: usize, bytes: &mut Vec<u8>) -> Result<(), RankError> {
            self.0.collect(from, bytes)
        }
        fn collect_values(&mut self, from: usize, values: &mut [f32]) -> Result<(), RankError> {
            self.0.collect_values(from, values)
        }
        fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), RankError> {
            self.0.broadcast(bytes)
        }
        fn broadcast_values(&mut self, values: &mut [f32]) -> Result<(), RankError> {
            self.0.broadcast_values(values)?;
            for value in values {
                *value = f32::from_bits(value.to_bits() ^ 1 << 20);
            }
            Ok(())
        }
        fn give_up(&mut self, why: &RankError) {
            self.0.give_up(why);
        }
    }

    let out = tempdir().unwrap();
    let errors = on_ranks(2, |ranks| {
        let folder = folder_of(ranks, out.path());
        let told = match ranks.world().rank {
            1 => tiny(3).run_as(&mut Inexact(ranks), &folder, Start::Afresh),
            _ => tiny(3).run_as(ranks, &folder, Start::Afresh),
        };
        match told.error() {
            TrainError::RankLost { source, .. } => source.to_string(),
            error => error.to_string(),
        }
    });
    let expected = "rank 1 has another adapter than rank 0 after step 1";
    assert_eq!(errors, [expected; 2]);
}

/// A value that only the adapter decides, and that goes up and down as training goes on.
struct Erratic;

impl Validate for Erratic {
    fn metric(&self) -> &str {
        "erratic"
    }

    fn rows(&self) -> usize {
        1
    }

    fn validate(&mut self, adapter: &Adapter) -> Result<Measured, Box<dyn Error + Send + Sync>> {
        let tensors = adapter
            .layers
            .values()
            .flat_map(|factors| factors.tensors());
        let values = tensors.flat_map(|(_, tensor)| tensor.data());
        let bits = values.fold(0_u32, |sum, value| {
            sum.wrapping_mul(31).wrapping_add(value.to_bits())
        });
        let value = f64::from(bits % 1000) / 1000.0;
        Ok(Measured { value, ci95: None })
    }

    fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        update(b"erratic");
    }
}

/// Up to 60 steps, judged by rank 0 after every second one.
fn judged_as(ranks: &mut dyn Collective, out: &Path) -> TrainSummary {
    let run = tiny(60);
    let config = ValidationConfig {
        every: 2,
        patience: 3,
        ..Default::default()
    };
    let set = TrainSet::new(std::slice::from_ref(&run.rows), 2, &run.train, run.seed).unwrap();
    let request = TrainRequest {
        model: &run.model,
        base: "tiny",
        set: &set,
        lora: &run.lora,
        train: &run.train,
        seed: run.seed,
        out,
        start: Start::Afresh,
    };
    let mut judge = Erratic;
    let validation = Validation {
        config: &config,
        judge: &mut judge,
    };
    let mut hooks = Hooks {
        observe: &mut |_| (),
        stop: &AtomicBool::new(false),
        validation: ranks.world().is_first().then_some(validation),
    };
    train(&request, &mut hooks, ranks).unwrap()
}

#[test]
fn rank_0_judges_for_all() {
    let alone = tempdir().unwrap();
    let expected = judged_as(&mut Alone, alone.path());
    assert!(expected.steps < 60, "it was stopped early");
    let out = tempdir().unwrap();
    let summaries = on_ranks(2, |ranks| {
        let folder = folder_of(ranks, out.path());
        judged_as(ranks, &folder)
    });
    for summary in &summaries {
        assert_eq!(
            (summary.steps, summary.best),
            (expected.steps, expected.best)
        );
        let kept = |summary: &TrainSummary| match summary.ending {
            Ending::Finished { kept_step, .. } => kept_step,
            Ending::Stopped => panic!("nobody stopped it"),
        };
        assert_eq!(kept(summary), kept(&expected));
    }
    assert!(adapter_bytes(alone.path()) == adapter_bytes(out.path()));
}
