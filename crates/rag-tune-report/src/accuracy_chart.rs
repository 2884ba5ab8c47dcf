//! Accuracy by arm: which bars stand for which evaluations.

use crate::arms::{Arms, prompt_label, short_name};
use crate::bar_chart::{Bar, BarChart};
use crate::runs::{AdapterKind, Scores};

/// A group for each kind of prompt, a series for each adapter, `notes` below.
pub(crate) fn accuracy_chart(arms: &Arms, notes: &[String]) -> BarChart {
    let scores = || arms.evaluations().map(|evaluation| &evaluation.scores);
    let is_baseline = |kind| kind == AdapterKind::None;
    let groups = arms.prompts.iter();
    BarChart {
        title: "Accuracy by adapter and prompt".to_owned(),
        subtitle: subtitle(&scores().collect::<Vec<_>>()),
        synthetic: scores().any(|scores| scores.run.synthetic),
        groups: groups
            .map(|&examples| prompt_label(examples).replace(", ", "\n"))
            .collect(),
        series: arms
            .series
            .iter()
            .map(|series| series.label.clone())
            .collect(),
        // They come first.
        baselines: arms
            .series
            .iter()
            .filter(|series| is_baseline(series.kind))
            .count(),
        bars: bars(arms),
        notes: notes.to_vec(),
    }
}

fn bars(arms: &Arms) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (group, &examples) in arms.prompts.iter().enumerate() {
        for (i, series) in arms.series.iter().enumerate() {
            if let Some(evaluation) = series.with_examples(examples) {
                bars.push(Bar {
                    group,
                    series: i,
                    value: evaluation.scores.accuracy,
                    ci95: evaluation.scores.ci95,
                    published: None,
                });
            }
        }
    }
    bars
}

fn subtitle(scores: &[&Scores]) -> [String; 2] {
    let scores = || scores.iter().copied();
    let metric = scores().next().map_or("", |scores| scores.metric.as_str());
    let data = format!(
        "{} on {}, {} split, n = {}",
        enumerate(scores().map(|scores| short_name(&scores.run.base))),
        enumerate(scores().map(|scores| short_name(&scores.run.data))),
        enumerate(scores().map(|scores| scores.run.split.as_str())),
        row_counts(scores()),
    );
    let metric = format!("{}; whiskers: 95 % intervals", metric_description(metric));
    [data, metric]
}

/// The metric in words.
fn metric_description(metric: &str) -> &str {
    match metric {
        "execution" => "execution accuracy, lenient: DISTINCT is ignored, as is usual in the field",
        other => other,
    }
}

/// Different names, once each.
fn enumerate<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut different: Vec<&str> = Vec::new();
    for name in names {
        if !different.contains(&name) {
            different.push(name);
        }
    }
    different.join(" and ")
}

/// `568`, or `40 to 568` where evaluations have different numbers of rows.
fn row_counts<'a>(scores: impl Iterator<Item = &'a Scores>) -> String {
    let counts: Vec<usize> = scores.map(|scores| scores.total).collect();
    let (fewest, most) = (counts.iter().min(), counts.iter().max());
    match (fewest, most) {
        (Some(fewest), Some(most)) if fewest != most => format!("{fewest} to {most}"),
        _ => most.map_or_else(String::new, usize::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::read_runs;
    use crate::samples::{Sample, write_experiment};

    /// The texts of an SVG, in drawing order.
    fn texts(svg: &str) -> Vec<String> {
        svg.split("<text").skip(1).filter_map(text_of).collect()
    }

    fn text_of(element: &str) -> Option<String> {
        let (_, text) = element.split_once('>')?;
        let (text, _) = text.split_once("</text")?;
        Some(text.trim().to_owned())
    }

    fn svg(synthetic: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        let runs = read_runs(&write_experiment(folder.path(), synthetic)).unwrap();
        accuracy_chart(&Arms::of(&runs), &[]).svg().unwrap()
    }

    #[test]
    fn every_value_is_written_on_the_chart() {
        insta::assert_snapshot!(texts(&svg(false)).join("\n"));
    }

    #[test]
    fn synthetic_data_is_labelled() {
        assert!(svg(true).contains("synthetic data"));
        assert!(!svg(false).contains("synthetic data"));
    }

    #[test]
    fn a_bar_and_a_whisker_stand_for_each_evaluation() {
        let svg = svg(false);
        let in_color = |color: &str| svg.matches(&format!("fill=\"{color}\"")).count();
        // Two bars and a legend entry each.
        for color in ["#999999", "#0072B2", "#D55E00"] {
            assert_eq!(in_color(color), 3, "{color}");
        }
    }

    #[test]
    fn different_numbers_of_rows_are_told() {
        let folder = tempfile::tempdir().unwrap();
        Sample::new("rag", 1, 9).write(folder.path());
        let runs = read_runs(&[folder.path().to_owned()]).unwrap();
        let scores = &runs[0].evaluations[0].scores;
        let fewer = Scores {
            total: 40,
            ..scores.clone()
        };
        assert_eq!(row_counts([scores, scores].into_iter()), "568");
        assert_eq!(row_counts([scores, &fewer].into_iter()), "40 to 568");
    }
}
