//! What the tests of whole runs share: a run on a tiny model, and what it told.

// Each test file uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{Compute, ModelConfig, Quantization};
use rag_tune_model::llama::Llama;
use rag_tune_model::tokenizer::EncodedRow;
use rag_tune_train::TrainError;
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::{LoraConfig, TrainConfig};
use rag_tune_train::event::Event;
use rag_tune_train::metrics::StepRecord;
use rag_tune_train::ranks::{Alone, Collective};
use rag_tune_train::trainer::{Hooks, Start, TrainRequest, TrainSummary, train};

/// The tiny model of the golden fixtures: `tiny_tied` or `tiny_untied`.
pub fn golden_model(name: &str) -> Llama {
    // The tests may run on a machine with a GPU and another path to the sources (scripts/gpu-check.sh).
    let sources = std::env::var_os("RAG_TUNE_SOURCES").map(PathBuf::from);
    let sources = sources.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let model = sources.join("tests/fixtures/golden").join(name);
    load(&model, Quantization::Int8, Compute::F32)
}

pub fn load(path: &Path, quantization: Quantization, compute: Compute) -> Llama {
    let config = ModelConfig {
        quantization,
        compute,
        ..Default::default()
    };
    Llama::load(&Checkpoint::open(path).unwrap(), &config, &mut |_, _| ()).unwrap()
}

/// Everything that a test may want to change in a run.
pub struct TinyRun {
    pub model: Llama,
    pub rows: Vec<EncodedRow>,
    pub lora: LoraConfig,
    pub train: TrainConfig,
    pub seed: u64,
}

/// What a run told, and how it ended.
pub struct Told {
    pub records: Vec<StepRecord>,
    /// Step of the checkpoint that it went on from.
    pub resumed: Option<usize>,
    /// Checkpoints that it could not use, and why.
    pub refused: Vec<(PathBuf, String)>,
    /// Tokens of a pass at most, each time that a device's memory was not enough for more.
    pub bounds: Vec<usize>,
    /// Why gradients on devices were summed in host memory.
    pub through_host: Option<String>,
    /// `None` where it was killed.
    pub result: Option<Result<TrainSummary, TrainError>>,
}

impl Told {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(matches!(self.result, Some(Ok(_))), "{:?}", self.result);
        self
    }

    #[track_caller]
    pub fn error(self) -> TrainError {
        self.result.expect("it was not killed").unwrap_err()
    }
}

enum End {
    None,
    Kill(usize),
    Stop,
}

impl TinyRun {
    /// `steps` steps with dropout, a checkpoint every five.
    pub fn new(steps: usize) -> Self {
        Self {
            model: golden_model("tiny_tied"),
            rows: rows(0..24),
            lora: LoraConfig {
                rank: 8,
                alpha: 16.0,
                dropout: 0.1,
                ..Default::default()
            },
            train: train_config(steps),
            seed: 1,
        }
    }

    /// With a change to `[train]`.
    pub fn with(mut self, change: impl FnOnce(&mut TrainConfig)) -> Self {
        change(&mut self.train);
        self
    }

    /// Runs to the end.
    pub fn run(&self, out: &Path, start: Start) -> Told {
        self.tell(out, start, End::None, &mut Alone)
    }

    /// As one rank of several.
    pub fn run_as(&self, ranks: &mut dyn Collective, out: &Path, start: Start) -> Told {
        self.tell(out, start, End::None, ranks)
    }

    /// As a kill does: in the middle of a run, with nothing tidied up.
    pub fn killed_after(&self, step: usize, out: &Path, start: Start) -> Told {
        self.tell(out, start, End::Kill(step), &mut Alone)
    }

    /// As [`TinyRun::killed_after`], one rank of several.
    pub fn killed_as(&self, ranks: &mut dyn Collective, step: usize, out: &Path) -> Told {
        self.tell(out, Start::Afresh, End::Kill(step), ranks)
    }

    /// As a signal does, at once: one step is done.
    pub fn stopped(&self, out: &Path, start: Start) -> Told {
        self.tell(out, start, End::Stop, &mut Alone)
    }

    /// As [`TinyRun::stopped`], one rank of several.
    pub fn stopped_as(&self, ranks: &mut dyn Collective, out: &Path) -> Told {
        self.tell(out, Start::Afresh, End::Stop, ranks)
    }

    fn tell(&self, out: &Path, start: Start, end: End, ranks: &mut dyn Collective) -> Told {
        let set = TrainSet::new(std::slice::from_ref(&self.rows), 2, &self.train, self.seed);
        let request = TrainRequest {
            model: &self.model,
            base: "tiny",
            set: &set.unwrap(),
            lora: &self.lora,
            train: &self.train,
            seed: self.seed,
            out,
            start,
        };
        let (mut records, mut refused, mut resumed) = (Vec::<StepRecord>::new(), Vec::new(), None);
        let (mut bounds, mut through_host) = (Vec::new(), None);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut observe = |event: Event<'_>| match event {
                Event::Resumed { step } => resumed = Some(step),
                Event::CheckpointRefused { path, reason } => {
                    refused.push((path.to_owned(), reason.to_owned()));
                }
                Event::Divided { tokens, .. } => bounds.push(tokens),
                Event::SumsThroughHost { why } => through_host = Some(why.to_owned()),
                Event::Step(record) => {
                    records.push(record.clone());
                    assert!(
                        !matches!(end, End::Kill(step) if step == record.step),
                        "killed"
                    );
                }
                _ => {}
            };
            let mut hooks = Hooks {
                observe: &mut observe,
                stop: &AtomicBool::new(matches!(end, End::Stop)),
                validation: None,
            };
            train(&request, &mut hooks, ranks)
        }));
        Told {
            records,
            resumed,
            refused,
            bounds,
            through_host,
            result: result.ok(),
        }
    }
}

/// `steps` steps of eight short rows, a checkpoint every five.
pub fn train_config(steps: usize) -> TrainConfig {
    TrainConfig {
        learning_rate: 2e-2,
        tokens_per_micro_batch: 40,
        max_length: 20,
        batch_size: Some(8),
        warmup_steps: Some(2),
        max_steps: Some(steps),
        checkpoint_every: 5,
        ..Default::default()
    }
}

/// The answer repeats the prompt's last token three times.
pub fn rows(indices: Range<usize>) -> Vec<EncodedRow> {
    let row = |index: usize| {
        let last = (index * 13 % 80 + 4) as u32;
        let mut ids: Vec<u32> = (0..3 + index % 4)
            .map(|at| ((index * 7 + at * 3) % 90 + 3) as u32)
            .collect();
        let prompt_len = ids.len() + 1;
        ids.extend([last; 4]);
        EncodedRow { ids, prompt_len }
    };
    indices.map(row).collect()
}

/// The adapter that a finished run left.
#[track_caller]
pub fn adapter_bytes(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter_model.safetensors")).unwrap()
}

/// `metrics.jsonl` without what is measured: times and what follows from them, and memory.
#[track_caller]
pub fn timeless_metrics(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        let times = [
            "seconds",
            "tokens_per_s",
            "supervised_tokens_per_s",
            "peak_share",
        ];
        for time in times {
            fields.remove(time).unwrap();
        }
        fields.remove("peak_rss_bytes"); // not every system tells it
        line.to_string()
    };
    text.lines().map(timeless).collect()
}
