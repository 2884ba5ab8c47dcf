//! A comparison as the document behind the HTML report.

use rag_tune_eval::{Answer, ScoreReport};
use rag_tune_report::{
    Bar, BarChart, ComparedAnswer, ComparedRow, ComparedRun, Comparison, MetricValue, PairTest,
};
use serde_json::{Value, json};

use crate::contrasts::Contrast;
use crate::evaluated::{Evaluated, Side};

/// The document; each seed of a side is a run of its own.
pub fn page(sides: &[Side], contrasts: &[Contrast]) -> Comparison {
    let evaluated: Vec<&Evaluated> = sides.iter().flat_map(|side| &side.evaluations).collect();
    let report = &evaluated[0].report;
    let mut notes: Vec<String> = Vec::new();
    for note in evaluated
        .iter()
        .flat_map(|evaluated| &evaluated.report.notes)
    {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let labels: Vec<&str> = sides.iter().map(|side| side.label.as_str()).collect();
    notes.extend(
        contrasts
            .iter()
            .filter(|contrast| contrast.is_within_noise())
            .map(|contrast| {
                let (first, second) = (labels[contrast.first], labels[contrast.second]);
                format!("{first} and {second}: {}", contrast.verdict(first, second))
            }),
    );
    Comparison {
        title: format!(
            "{} and {}",
            labels[..labels.len() - 1].join(", "),
            labels[labels.len() - 1]
        ),
        synthetic: is_synthetic(sides),
        metric: report.metric.clone(),
        runs: evaluated.iter().map(|evaluated| run(evaluated)).collect(),
        tests: contrasts
            .iter()
            .map(|contrast| test(&labels, contrast))
            .collect(),
        test_method: test_method(contrasts),
        rows: (0..evaluated[0].answers.len())
            .map(|row| compared_row(&evaluated, row))
            .collect(),
        charts: charts(sides, &notes),
        notes,
    }
}

fn run(evaluated: &Evaluated) -> ComparedRun {
    let report = &evaluated.report;
    let classes = report.classes.iter().map(|(name, class)| MetricValue {
        name: name.clone(),
        value: Some(class.accuracy),
        ci95: class.ci95.into(),
    });
    ComparedRun {
        label: evaluated.label.clone(),
        facts: facts(report),
        correct: report.correct,
        total: report.total,
        metrics: names(report).map(|name| metric(report, name)).collect(),
        classes: classes.collect(),
    }
}

/// The names of the metrics, the main one first.
fn names(report: &ScoreReport) -> impl Iterator<Item = &String> {
    let others = report.metrics.keys().filter(|name| **name != report.metric);
    [&report.metric].into_iter().chain(others)
}

fn metric(report: &ScoreReport, name: &str) -> MetricValue {
    MetricValue {
        name: name.to_owned(),
        value: report.metrics.get(name).copied().flatten(),
        ci95: report
            .intervals
            .get(name)
            .map_or([0.0, 1.0], |&interval| interval.into()),
    }
}

fn facts(report: &ScoreReport) -> Vec<(String, String)> {
    let Some(run) = &report.run else {
        return Vec::new();
    };
    let adapter = run.adapter.as_ref();
    let adapter = adapter.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    [
        ("model", run.base.clone()),
        ("adapter", adapter),
        ("examples in the prompt", run.examples.to_string()),
        ("selector", run.selector.clone()),
        ("data", format!("{}, {}", run.data, run.split)),
        ("seed", run.seed.to_string()),
        ("rag-tune", run.rag_tune_version.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn test(labels: &[&str], contrast: &Contrast) -> PairTest {
    let difference = &contrast.difference;
    PairTest {
        first: labels[contrast.first].to_owned(),
        second: labels[contrast.second].to_owned(),
        only_first: difference.only_first.round() as usize,
        only_second: difference.only_second.round() as usize,
        difference: difference.difference,
        difference_ci95: difference.ci95.into(),
        p_value: contrast.adjusted_p_value,
        verdict: contrast.verdict(labels[contrast.first], labels[contrast.second]),
    }
}

/// Each kind of test that was made; sides with one seed and sides with several may stand together.
fn test_method(contrasts: &[Contrast]) -> String {
    let mut methods: Vec<String> = Vec::new();
    for contrast in contrasts {
        let method = contrast.test(contrasts.len());
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods.join("; ")
}

fn compared_row(evaluated: &[&Evaluated], row: usize) -> ComparedRow {
    let answers = || evaluated.iter().map(|evaluated| &evaluated.answers[row]);
    let first = &evaluated[0].answers[row];
    let gold_result = answers().find_map(|answer| answer.score.gold_result.as_ref());
    ComparedRow {
        index: first.score.index,
        gold: first.gold.clone(),
        gold_result: json!(gold_result),
        class: first.score.class.clone(),
        answers: answers()
            .zip(evaluated)
            .map(|(answer, evaluated)| compared_answer(answer, &evaluated.report))
            .collect(),
    }
}

fn compared_answer(answer: &Answer, report: &ScoreReport) -> ComparedAnswer {
    let score = &answer.score;
    let metrics = names(report).map(|name| (name.clone(), json!(score.metrics.get(name))));
    ComparedAnswer {
        prompt: answer.inference_prompt.clone(),
        examples: answer.examples.clone(),
        prediction: answer.prediction.clone(),
        correct: score.correct,
        status: match json!(score.status) {
            Value::String(status) => status,
            other => other.to_string(),
        },
        detail: score.detail.clone(),
        result: json!(score.result),
        metrics: metrics.collect(),
    }
}

/// Accuracy of each side on all rows, and below it by class where rows have classes.
fn charts(sides: &[Side], notes: &[String]) -> Vec<BarChart> {
    let answers = &sides[0].first().answers;
    // The report has them from easy to hard.
    let classes: Vec<&str> = sides[0]
        .first()
        .report
        .classes
        .keys()
        .map(String::as_str)
        .collect();
    let all = (String::new(), (0..answers.len()).collect());
    let of_class = |class: &&str| {
        let rows = (0..answers.len())
            .filter(|&row| answers[row].score.class.as_deref() == Some(class))
            .collect::<Vec<_>>();
        (format!("{class}, n = {}", rows.len()), rows)
    };
    let mut charts = vec![chart(sides, "Accuracy", vec![all], notes)];
    if !classes.is_empty() {
        let groups = classes.iter().map(of_class).collect();
        charts.push(chart(sides, "Accuracy by class of row", groups, &[]));
    }
    charts
}

/// A group of bars for each named set of rows.
fn chart(
    sides: &[Side],
    title: &str,
    groups: Vec<(String, Vec<usize>)>,
    notes: &[String],
) -> BarChart {
    let report = &sides[0].first().report;
    let mut bars = Vec::new();
    for (group, (_, rows)) in groups.iter().enumerate() {
        for (series, side) in sides.iter().enumerate() {
            let pooled = side.outcomes.of_rows(rows).pooled();
            bars.push(Bar {
                group,
                series,
                value: pooled.accuracy,
                ci95: pooled.ci95.into(),
                published: None,
            });
        }
    }
    BarChart {
        title: title.to_owned(),
        subtitle: [
            asked(report),
            format!(
                "{} on {} rows; whiskers: 95 % intervals",
                report.metric.replace('_', " "),
                sides[0].outcomes.rows()
            ),
        ],
        synthetic: is_synthetic(sides),
        groups: groups.into_iter().map(|(name, _)| name).collect(),
        series: sides.iter().map(|side| side.label.clone()).collect(),
        bars,
        notes: notes.to_vec(),
        ..BarChart::default()
    }
}

/// The model and the data, as far as they are known.
fn asked(report: &ScoreReport) -> String {
    report.run.as_ref().map_or_else(
        || report.task.clone(),
        |run| format!("{} on {}, {} split", run.base, run.data, run.split),
    )
}

fn is_synthetic(sides: &[Side]) -> bool {
    let mut evaluated = sides.iter().flat_map(|side| &side.evaluations);
    evaluated.any(|evaluated| evaluated.report.synthetic)
}
