//! Run folders for tests.

use std::path::Path;

/// An evaluation of 568 rows, to be written as `scores.json`.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) adapter: &'static str,
    pub(crate) examples: usize,
    pub(crate) correct: usize,
    pub(crate) metric: &'static str,
    pub(crate) synthetic: bool,
}

impl Sample {
    pub(crate) fn new(adapter: &'static str, examples: usize, correct: usize) -> Self {
        let name = format!("sql_{adapter}");
        Self {
            name,
            adapter,
            examples,
            correct,
            metric: "execution",
            synthetic: false,
        }
    }

    /// Writes `folder/scores.json`.
    pub(crate) fn write(&self, folder: &Path) {
        let accuracy = self.correct as f64 / 568.0;
        let half = 1.96 * (accuracy * (1.0 - accuracy) / 568.0).sqrt();
        let adapter = (self.adapter != "none").then(|| format!("out/{}", self.name));
        let prompt = if self.examples == 0 {
            "zero_shot"
        } else {
            "rag"
        };
        let scores = serde_json::json!({
            "task": "sql", "metric": self.metric, "correct": self.correct, "total": 568,
            "accuracy": accuracy, "ci95": [accuracy - half, accuracy + half],
            "metrics": {"execution": accuracy, "execution_strict": accuracy - 0.01},
            "run": {
                "name": self.name, "arm": {"adapter": self.adapter, "prompt": prompt},
                "adapter": adapter, "base": "HuggingFaceTB/SmolLM2-135M-Instruct",
                "examples": self.examples, "selector": "semantic",
                "data": "samlhuillier/sql-create-context-spider-intersect",
                "split": "validation", "synthetic": self.synthetic, "rag_tune_version": "0.1.0",
            },
        });
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("scores.json"), scores.to_string()).unwrap();
    }
}

/// Writes the 2x2 and the untrained model as two runs below `folder`, with loss curves, and gives
/// the runs' folders.
pub(crate) fn write_experiment(folder: &Path, synthetic: bool) -> Vec<std::path::PathBuf> {
    let cells = [
        ("zero_shot", "none", 0, 20),
        ("zero_shot", "none", 1, 42),
        ("zero_shot", "zero_shot", 0, 209),
        ("zero_shot", "zero_shot", 1, 181),
        ("rag1", "rag", 0, 170),
        ("rag1", "rag", 1, 233),
    ];
    for (run, adapter, examples, correct) in cells {
        let sample = Sample {
            synthetic,
            ..Sample::new(adapter, examples, correct)
        };
        sample.write(
            &folder
                .join(run)
                .join("eval")
                .join(format!("{adapter}-{examples}")),
        );
    }
    for (run, floor) in [("zero_shot", 0.25), ("rag1", 0.2)] {
        // A decay with a ripple that no one could mistake for noise of the generator.
        let line = |step: i32| {
            let ripple = 0.08 * f64::from(step * 7919 % 97) / 97.0;
            let loss = floor + 1.8 * (-f64::from(step) / 30.0).exp() + ripple;
            format!("{{\"step\":{step},\"loss\":{loss}}}\n")
        };
        let lines: String = (1..=248).map(line).collect();
        std::fs::write(folder.join(run).join("metrics.jsonl"), lines).unwrap();
    }
    ["zero_shot", "rag1"].map(|run| folder.join(run)).to_vec()
}
