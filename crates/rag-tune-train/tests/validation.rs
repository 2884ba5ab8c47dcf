//! Validation during whole runs on a tiny model: it stops them, keeps the best, and disturbs nothing.

mod support;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_train::TrainError;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{
    KeptAdapter, LoraConfig, TrainConfig, ValidationConfig, ValidationMetric,
};
use rag_tune_train::event::Event;
use rag_tune_train::metrics::StepRecord;
use rag_tune_train::ranks::Alone;
use rag_tune_train::trainer::{Ending, Hooks, Start, TrainRequest, TrainSummary, train};
use rag_tune_train::validation::{
    Measured, Validate, Validation, ValidationLoss, ValidationRecord,
};
use support::{golden_model, rows, train_config};

const END: u32 = 2;

fn validation(every: usize) -> ValidationConfig {
    ValidationConfig {
        every,
        ..Default::default()
    }
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
        Ok(Measured {
            value: f64::from(bits % 1000) / 1000.0,
            ci95: None,
        })
    }

    fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        update(b"erratic");
    }
}

/// A value that only the adapter decides, and that falls first and rises later: how far the mean
/// `|B|`, which grows from zero, is from 0.05.
struct Turning;

impl Validate for Turning {
    fn metric(&self) -> &str {
        "turning"
    }

    fn rows(&self) -> usize {
        1
    }

    fn validate(&mut self, adapter: &Adapter) -> Result<Measured, Box<dyn Error + Send + Sync>> {
        let (mut sum, mut count) = (0.0, 0);
        for factors in adapter.layers.values() {
            let magnitudes = factors.b.data().iter().map(|value| f64::from(value.abs()));
            sum += magnitudes.sum::<f64>();
            count += factors.b.data().len();
        }
        Ok(Measured {
            value: (sum / count as f64 - 0.05).abs(),
            ci95: None,
        })
    }

    fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        update(b"turning");
    }
}

/// Fails, or measures what it is told.
struct Faulty(Option<f64>);

impl Validate for Faulty {
    fn metric(&self) -> &str {
        "loss"
    }

    fn rows(&self) -> usize {
        1
    }

    fn validate(&mut self, _: &Adapter) -> Result<Measured, Box<dyn Error + Send + Sync>> {
        let value = self.0.ok_or("the database is gone")?;
        Ok(Measured { value, ci95: None })
    }

    fn hash_into(&self, _: &mut dyn FnMut(&[u8])) {}
}

/// What a run is made with.
struct Setup<'a> {
    out: &'a Path,
    train: TrainConfig,
    dropout: f32,
    start: Start,
    /// The run dies as soon as this is said, as a kill does: with nothing tidied up.
    dies_at: Option<&'a dyn Fn(Event<'_>) -> bool>,
}

impl<'a> Setup<'a> {
    fn new(out: &'a Path, steps: usize) -> Self {
        Self {
            out,
            train: train_config(steps),
            dropout: 0.1,
            start: Start::Afresh,
            dies_at: None,
        }
    }

    /// `None` where it died.
    fn run(
        &self,
        model: &Llama,
        judge: Option<(&ValidationConfig, &mut dyn Validate)>,
    ) -> Option<Result<TrainSummary, TrainError>> {
        let set = TrainSet::new(&[rows(0..24)], END, &self.train, 1).unwrap();
        let lora = LoraConfig {
            rank: 8,
            alpha: 16.0,
            dropout: self.dropout,
            ..Default::default()
        };
        let request = TrainRequest {
            model,
            base: "tiny",
            set: &set,
            lora: &lora,
            train: &self.train,
            seed: 1,
            out: self.out,
            start: self.start,
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut observe = |event: Event<'_>| {
                let dies = self.dies_at.is_some_and(|dies_at| dies_at(event));
                assert!(!dies, "killed");
            };
            let mut hooks = Hooks {
                observe: &mut observe,
                stop: &AtomicBool::new(false),
                validation: judge.map(|(config, judge)| Validation { config, judge }),
            };
            train(&request, &mut hooks, &mut Alone)
        }));
        outcome.ok()
    }

    fn judged(
        &self,
        config: &ValidationConfig,
        mut judge: impl Validate,
    ) -> Option<Result<TrainSummary, TrainError>> {
        self.run(&golden_model("tiny_tied"), Some((config, &mut judge)))
    }
}

fn kept_step(summary: &TrainSummary) -> usize {
    match summary.ending {
        Ending::Finished { kept_step, .. } => kept_step,
        Ending::Stopped => panic!("nobody stopped it"),
    }
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

/// The lines of `validation.jsonl`, without the durations.
fn validations(out: &Path) -> Vec<ValidationRecord> {
    let text = fs::read_to_string(out.join("validation.jsonl")).unwrap();
    let record = |line: &str| ValidationRecord {
        seconds: 0.0,
        ..serde_json::from_str(line).unwrap()
    };
    text.lines().map(record).collect()
}

#[test]
fn validation_loss_is_the_training_loss_of_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden_model("tiny_tied");
    let mut setup = Setup::new(folder.path(), 1);
    setup.train.batch_size = Some(24);
    setup.dropout = 0.0;
    setup.run(&model, None).unwrap().unwrap();
    let line = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let trained: StepRecord = serde_json::from_str(&line).unwrap();

    let mut judge = ValidationLoss::new(&model, &rows(0..24), END, &setup.train).unwrap();
    let fresh = Adapter::new(model.config(), LoraConfig::default().settings(), 1);
    let value = judge.validate(&fresh).unwrap().value;
    assert!(
        (value - trained.loss).abs() < 1e-6,
        "{value} {}",
        trained.loss
    );
    assert_eq!(judge.rows(), 24);
}

#[test]
fn judging_does_not_disturb_training() {
    let (plain, judged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = golden_model("tiny_tied");
    Setup::new(plain.path(), 7)
        .run(&model, None)
        .unwrap()
        .unwrap();
    assert!(!plain.path().join("validation.jsonl").exists());

    let setup = Setup::new(judged.path(), 7);
    let mut judge = ValidationLoss::new(&model, &rows(30..40), END, &setup.train).unwrap();
    let config = ValidationConfig {
        keep: KeptAdapter::Last,
        ..validation(2)
    };
    let summary = setup
        .run(&model, Some((&config, &mut judge)))
        .unwrap()
        .unwrap();
    assert!(weights(plain.path()) == weights(judged.path()));
    assert_eq!((summary.steps, kept_step(&summary)), (7, 7));
    let steps: Vec<usize> = validations(judged.path())
        .iter()
        .map(|it| it.step)
        .collect();
    assert_eq!(steps, [2, 4, 6, 7], "the last step is judged too");
}

#[test]
fn a_run_without_improvement_stops_and_ends_with_its_best_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let config = ValidationConfig {
        patience: 3,
        ..validation(2)
    };
    let told = std::cell::RefCell::new(Vec::new());
    let listen = |event: Event<'_>| {
        if let Event::StoppedEarly { step, best } = event {
            told.borrow_mut().push((step, best));
        }
        false
    };
    let mut setup = Setup::new(folder.path(), 500);
    setup.dies_at = Some(&listen);
    let summary = setup.judged(&config, Erratic).unwrap().unwrap();

    let records = validations(folder.path());
    let best = summary.best.unwrap();
    let lowest = records.iter().map(|it| it.value).fold(1.0, f32::min);
    assert_eq!(best.value, lowest);
    assert_eq!(summary.steps, best.step + 6, "three validations later");
    assert!(summary.steps < 500 && records.len() == summary.steps / 2);
    assert_eq!(*told.borrow(), [(summary.steps, best)]);
    assert_eq!(kept_step(&summary), best.step);
    let checkpoint = |step: usize| folder.path().join(format!("checkpoints/step-{step:06}"));
    assert!(weights(folder.path()) == weights(&checkpoint(best.step)));
    assert!(weights(folder.path()) != weights(&checkpoint(summary.steps)));

    // It is finished: resuming takes no further step.
    let resumed = Setup {
        start: Start::Resume,
        ..Setup::new(folder.path(), 500)
    };
    let again = resumed.judged(&config, Erratic).unwrap().unwrap();
    assert_eq!((again.steps, again.last), (summary.steps, None));
    assert_eq!(again.best, summary.best);
}

#[test]
fn higher_is_better_where_the_task_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let config = ValidationConfig {
        metric: ValidationMetric::Task,
        ..validation(1)
    };
    let setup = Setup::new(folder.path(), 8);
    let best = setup
        .judged(&config, Erratic)
        .unwrap()
        .unwrap()
        .best
        .unwrap();
    let records = validations(folder.path());
    let highest = records.iter().map(|it| it.value).fold(0.0, f32::max);
    assert_eq!(best.value, highest);
    assert_eq!(records.iter().rfind(|it| it.best).unwrap().step, best.step);
}

/// Killed at every step, in turn after it, while it is judged, and just after that.
#[test]
fn a_resumed_run_stops_at_the_same_step_with_the_same_bytes() {
    let config = ValidationConfig {
        patience: 2,
        ..validation(2)
    };
    let whole = tempfile::tempdir().unwrap();
    let expected = Setup::new(whole.path(), 30).judged(&config, Turning);
    let expected = expected.unwrap().unwrap();
    assert!(
        expected.best.is_some_and(|best| best.step > 2) && expected.steps < 30,
        "it improves and stops early: {expected:?}"
    );

    for step in 3..=expected.steps {
        let dies_at = |event: Event<'_>| match (step % 4, event) {
            (1 | 3, Event::Step(record)) => record.step == step,
            (0, Event::Validating { step: judged }) => judged == step,
            (2, Event::Validated(record)) => record.step == step,
            _ => false,
        };
        let cut = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(cut.path(), 30);
        setup.dies_at = Some(&dies_at);
        assert!(setup.judged(&config, Turning).is_none(), "killed at {step}");
        setup.dies_at = None;
        setup.start = Start::Resume;
        let summary = setup.judged(&config, Turning).unwrap().unwrap();
        assert_eq!(
            (summary.steps, summary.best),
            (expected.steps, expected.best)
        );
        assert!(
            weights(whole.path()) == weights(cut.path()),
            "killed at {step}"
        );
        assert_eq!(validations(whole.path()), validations(cut.path()));
    }
}

#[test]
fn a_run_is_not_resumed_with_another_validation() {
    let folder = tempfile::tempdir().unwrap();
    Setup::new(folder.path(), 6)
        .judged(&validation(2), Erratic)
        .unwrap()
        .unwrap();
    let resumed = Setup {
        start: Start::Resume,
        ..Setup::new(folder.path(), 6)
    };
    let error = resumed
        .judged(&validation(3), Erratic)
        .unwrap()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`validation.every` was 2 and is 3"),
        "{error}"
    );
    let error = resumed
        .judged(&validation(2), Faulty(None))
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().contains("what validation looks at"),
        "{error}"
    );
}

#[test]
fn a_validation_that_fails_stops_the_run_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), 6);
    let error = setup
        .judged(&validation(3), Faulty(None))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.to_string(), "the validation after step 3 failed");
    assert_eq!(error.source().unwrap().to_string(), "the database is gone");
    let nan = setup.judged(&validation(3), Faulty(Some(f64::NAN)));
    let error = nan.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the validation after step 3 gave a loss of NaN"
    );
    assert!(error.hint().unwrap().contains("train.learning_rate"));
    assert!(!folder.path().join("adapter_model.safetensors").exists());
}
