//! Evaluations, arranged as the experiment is: a group for each kind of prompt, in each group a
//! bar for each adapter.

use crate::runs::{AdapterKind, Evaluation, Run};

/// The bars of one adapter, or of the model without one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series<'a> {
    pub(crate) kind: AdapterKind,
    pub(crate) label: String,
    /// At most one for each number of examples.
    pub(crate) evaluations: Vec<&'a Evaluation>,
}

impl<'a> Series<'a> {
    /// The evaluation with this number of examples in the prompt.
    pub(crate) fn with_examples(&self, examples: usize) -> Option<&'a Evaluation> {
        self.evaluations
            .iter()
            .copied()
            .find(|e| e.scores.run.examples == examples)
    }

    /// Whether `evaluation` is of the same adapter; without adapters, of the same model.
    fn is_of_same_adapter(&self, evaluation: &Evaluation) -> bool {
        let (ours, theirs) = (&self.evaluations[0].scores.run, &evaluation.scores.run);
        ours.adapter == theirs.adapter
            && ours.base == theirs.base
            && (ours.adapter.is_some() || ours.arm == theirs.arm)
    }
}

/// All evaluations of a chart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arms<'a> {
    /// Numbers of examples that prompts have, ascending.
    pub(crate) prompts: Vec<usize>,
    /// No adapter first, then zero-shot adapters, then RAG adapters.
    pub(crate) series: Vec<Series<'a>>,
}

impl<'a> Arms<'a> {
    pub(crate) fn of(runs: &'a [Run]) -> Self {
        let mut series: Vec<Series> = Vec::new();
        for evaluation in runs.iter().flat_map(|run| &run.evaluations) {
            let run = &evaluation.scores.run;
            let place = series.iter_mut().find(|series| {
                series.is_of_same_adapter(evaluation)
                    && series.with_examples(run.examples).is_none()
            });
            match place {
                Some(series) => series.evaluations.push(evaluation),
                None => series.push(Series {
                    kind: run.arm.adapter,
                    label: String::new(),
                    evaluations: vec![evaluation],
                }),
            }
        }
        series.sort_by_key(|series| series.kind);
        label(&mut series);

        let mut prompts: Vec<usize> = series
            .iter()
            .flat_map(|series| &series.evaluations)
            .map(|evaluation| evaluation.scores.run.examples)
            .collect();
        prompts.sort_unstable();
        prompts.dedup();
        Self { prompts, series }
    }

    pub(crate) fn evaluations(&self) -> impl Iterator<Item = &'a Evaluation> {
        self.series
            .iter()
            .flat_map(|series| series.evaluations.iter().copied())
    }
}

/// Names each series by its kind, and by its run and evaluation as far as that is not unique.
fn label(series: &mut [Series]) {
    let run = |series: &Series| series.evaluations[0].scores.run.name.clone();
    let of_kind = |series: &Series| series.kind.label().to_owned();
    let of_run = |series: &Series| format!("{}, {}", of_kind(series), run(series));
    let of_evaluation = |series: &Series| {
        let folder = series.evaluations[0]
            .path
            .parent()
            .and_then(|folder| folder.file_name());
        let folder = folder.unwrap_or_default().to_string_lossy();
        format!("{}/{folder}", of_run(series))
    };
    let namings: [&dyn Fn(&Series) -> String; 3] = [&of_kind, &of_run, &of_evaluation];
    for i in 0..series.len() {
        let is_unique = |naming: &&&dyn Fn(&Series) -> String| {
            let name = naming(&series[i]);
            series.iter().filter(|other| naming(other) == name).count() == 1
        };
        let naming = namings.iter().find(is_unique).unwrap_or(&namings[2]);
        series[i].label = naming(&series[i]);
    }
}

/// What a prompt with this number of retrieved examples is called.
pub(crate) fn prompt_label(examples: usize) -> String {
    match examples {
        0 => "zero-shot prompt".to_owned(),
        1 => "RAG prompt, 1 example".to_owned(),
        n => format!("RAG prompt, {n} examples"),
    }
}

/// The last part of a hub id or path, which is what people call it.
pub(crate) fn short_name(id: &str) -> &str {
    let name = id.trim_end_matches('/').rsplit('/').next().unwrap_or(id);
    name.strip_suffix(".gguf").unwrap_or(name)
}

/// `0.368` as `36.8 %`.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::read_runs;
    use crate::samples::{Sample, write_experiment};

    #[test]
    fn the_two_by_two_has_a_series_for_each_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let runs = read_runs(&write_experiment(folder.path(), false)).unwrap();
        let arms = Arms::of(&runs);
        assert_eq!(arms.prompts, [0, 1]);
        let labels: Vec<_> = arms
            .series
            .iter()
            .map(|series| series.label.as_str())
            .collect();
        assert_eq!(labels, ["no adapter", "zero-shot adapter", "RAG adapter"]);
        assert!(
            arms.series
                .iter()
                .all(|series| series.evaluations.len() == 2)
        );
        let rag = arms.series[2].with_examples(1).unwrap();
        assert_eq!(rag.scores.correct, 233);
    }

    #[test]
    fn series_of_one_kind_are_told_apart_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|name| folder.path().join(name))
            .collect();
        for (path, name) in paths.iter().zip(["short", "long", "long"]) {
            Sample {
                name: name.to_owned(),
                ..Sample::new("rag", 1, 9)
            }
            .write(path);
        }
        let runs = read_runs(&paths).unwrap();
        let arms = Arms::of(&runs);
        let labels: Vec<_> = arms
            .series
            .iter()
            .map(|series| series.label.as_str())
            .collect();
        assert_eq!(
            labels,
            [
                "RAG adapter, short",
                "RAG adapter, long/b",
                "RAG adapter, long/c"
            ]
        );
    }

    #[test]
    fn names_are_short() {
        assert_eq!(
            short_name("HuggingFaceTB/SmolLM2-135M-Instruct"),
            "SmolLM2-135M-Instruct"
        );
        assert_eq!(short_name("models/tiny.gguf"), "tiny");
        assert_eq!(short_name("data/spider/"), "spider");
    }
}
