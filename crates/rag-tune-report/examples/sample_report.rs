//! A report of made-up answers, to look at and to test in a browser.
//!
//! usage: cargo run -p rag-tune-report --example sample_report -- FILE [ROWS]
//!
//! Six runs answer ROWS questions (1,319 unless said); the same call writes the same file. The first rows are hostile:
//! what must be shown as text, and what must not grow the page. `scripts/browser-test.sh` relies on them.

use std::error::Error;
use std::path::Path;

use rag_tune_report::{
    Bar, BarChart, ComparedAnswer, ComparedRow, ComparedRun, Comparison, MetricValue, PairTest,
};
use serde_json::{Value, json};

const TABLES: [(&str, [&str; 3]); 6] = [
    ("singer", ["name", "country", "age"]),
    ("airport", ["city", "code", "elevation"]),
    ("employee", ["name", "department", "salary"]),
    ("orders", ["customer", "status", "amount"]),
    ("stadium", ["location", "owner", "capacity"]),
    ("film", ["title", "director", "year"]),
];
const CLASSES: [&str; 4] = ["easy", "medium", "hard", "extra"];
/// Label, examples in the prompt, and how many of a hundred answers are right.
const RUNS: [(&str, usize, u64); 6] = [
    ("untuned, 0 examples", 0, 18),
    ("untuned, 1 example", 1, 31),
    ("zero-shot adapter, 0 examples", 0, 55),
    ("zero-shot adapter, 1 example", 1, 57),
    ("RAG adapter, 0 examples", 0, 44),
    ("RAG adapter, 1 example", 1, 63),
];
const HOSTILE: [&str; 4] = [
    "</script><img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>",
    "<!-- <script> \u{2028}\u{2029} {{data}} &lt;b&gt; \u{0} \u{202e}reversed",
    "<svg onload=alert(1)> javascript:alert(1) '\"><iframe srcdoc='<p>x'></iframe>",
    "__proto__ constructor toString ${alert(1)} `x`",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments
        .first()
        .ok_or("usage: sample_report FILE [ROWS]")?;
    let rows = arguments.get(1).map_or(Ok(1319), |rows| rows.parse())?;
    sample(rows).save_html(Path::new(file))?;
    Ok(())
}

fn sample(count: usize) -> Comparison {
    let rows: Vec<ComparedRow> = (0..count).map(row).collect();
    let runs: Vec<ComparedRun> = (0..RUNS.len())
        .map(|run| compared_run(run, &rows))
        .collect();
    Comparison {
        title: "Six made-up runs on made-up questions".to_owned(),
        notes: vec![
            "zero-shot adapter with 0 and 1 examples: the difference is within noise.".to_owned(),
            "The answers are written by a generator: the figures say nothing about any model."
                .to_owned(),
        ],
        synthetic: true,
        metric: "execution".to_owned(),
        charts: vec![chart(&runs), class_chart(&runs)],
        tests: tests(&rows),
        test_method: "McNemar's exact test on the rows that flipped, of neighbours in the list of runs; p values are not adjusted."
            .to_owned(),
        runs,
        rows,
    }
}

/// A number that looks random, and is the same for the same row and purpose.
fn dice(row: usize, purpose: u64, sides: u64) -> u64 {
    let mut x = (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03);
    for _ in 0..3 {
        x ^= x >> 32;
        x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    (x ^ (x >> 32)) % sides
}

fn row(index: usize) -> ComparedRow {
    let (table, columns) = TABLES[dice(index, 1, 6) as usize];
    let column = |purpose| columns[dice(index, purpose, 3) as usize];
    let limit = 1 + dice(index, 2, 40);
    let gold = match dice(index, 3, 3) {
        0 => format!(
            "SELECT count(*) FROM {table} WHERE {} > {limit}",
            columns[2]
        ),
        1 => format!(
            "SELECT {}, count(*) FROM {table} GROUP BY {} ORDER BY count(*) DESC LIMIT {limit}",
            columns[1], columns[1]
        ),
        _ => format!(
            "SELECT {}, {} FROM {table} WHERE {} > (SELECT avg({}) FROM {table})",
            column(4),
            columns[1],
            columns[2],
            columns[2]
        ),
    };
    let gold_result = result(index, 0);
    let answers = (0..RUNS.len()).map(|run| answer(index, run, &gold, &gold_result));
    ComparedRow {
        index,
        answers: answers.collect(),
        class: Some(CLASSES[dice(index, 5, 4) as usize].to_owned()),
        gold_result,
        gold,
    }
}

/// A result; another `variant` differs in some cells and rows.
fn result(index: usize, variant: u64) -> Value {
    let count = 1 + dice(index, 6, 7) as usize + variant as usize;
    let rows: Vec<Value> = (0..count)
        .map(|i| {
            let differs = variant > 0 && i % 2 == 0;
            json!([
                format!("name {i}"),
                dice(index, i as u64, 1000) + u64::from(differs),
                null
            ])
        })
        .collect();
    let total_rows = if count == 7 { 70 } else { count };
    json!({"columns": ["name", "count(*)", "note"], "rows": rows, "total_rows": total_rows})
}

fn answer(index: usize, run: usize, gold: &str, gold_result: &Value) -> ComparedAnswer {
    let (_, examples, accuracy) = RUNS[run];
    // Half of the luck is the row's, so that runs agree more than by chance.
    let luck = (dice(index, 7, 100) + dice(index, 10 + run as u64, 100)) / 2;
    let (status, mut prediction, result) = match 100 - accuracy {
        wrong if luck >= wrong => (
            "correct",
            gold.replace("SELECT", "select"),
            gold_result.clone(),
        ),
        wrong if luck + 8 >= wrong => (
            "prediction_error",
            gold.replace("FROM", "FORM"),
            Value::Null,
        ),
        wrong if luck + 10 >= wrong => ("timeout", format!("{gold}, {gold}"), Value::Null),
        _ => (
            "wrong",
            gold.replace("count(*)", "count(DISTINCT name)")
                .replace('>', ">="),
            result(index, 1),
        ),
    };
    let mut detail = match status {
        "prediction_error" => Some("near \"FORM\": syntax error".to_owned()),
        "timeout" => Some("more than 10,000,000 steps".to_owned()),
        _ => None,
    };
    if status != "correct" && index < HOSTILE.len() {
        prediction = HOSTILE[index].to_owned();
        detail = Some(HOSTILE[index].to_owned());
    } else if status != "correct" && index == HOSTILE.len() {
        prediction = "count (*) , ".repeat(5_000);
    }
    let share = if status == "correct" { 1.0 } else { 0.0 };
    ComparedAnswer {
        prompt: Some(prompt(index, examples)),
        examples: (0..examples)
            .map(|i| json!({"row": dice(index, 8 + i as u64, 7000), "score": 0.5 + dice(index, 9, 4000) as f64 / 1e4}))
            .collect(),
        prediction,
        correct: status == "correct",
        status: status.to_owned(),
        detail,
        result,
        metrics: vec![
            ("execution".to_owned(), json!(share)),
            ("components".to_owned(), json!([3.0 + 2.0 * share, 5.0])),
        ],
    }
}

fn prompt(index: usize, examples: usize) -> String {
    let schema: String = TABLES
        .iter()
        .map(|(table, columns)| format!("CREATE TABLE {table} ({})\n", columns.join(" TEXT, ")))
        .collect();
    let example = "Example question: how many are there?\nExample SQL: SELECT count(*) FROM film\n"
        .repeat(examples);
    let (table, columns) = TABLES[dice(index, 1, 6) as usize];
    format!(
        "Write the SQL query that answers the question.\n{schema}{example}Question {index}: which {} has each {table}?\nSQL:",
        columns[1]
    )
}

fn compared_run(run: usize, rows: &[ComparedRow]) -> ComparedRun {
    let (label, examples, _) = RUNS[run];
    let figure = |name: &str, of: &dyn Fn(&ComparedRow) -> bool| {
        let all: Vec<_> = rows.iter().filter(|row| of(row)).collect();
        let right = all.iter().filter(|row| row.answers[run].correct).count();
        let value = right as f64 / all.len().max(1) as f64;
        let half = 1.96 * (value * (1.0 - value) / all.len().max(1) as f64).sqrt();
        MetricValue {
            name: name.to_owned(),
            value: (!all.is_empty()).then_some(value),
            ci95: [(value - half).max(0.0), (value + half).min(1.0)],
        }
    };
    let fact = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ComparedRun {
        label: label.to_owned(),
        facts: vec![
            fact("model", "none: made up"),
            fact("examples in the prompt", &examples.to_string()),
            fact("seed", "0"),
        ],
        correct: rows.iter().filter(|row| row.answers[run].correct).count(),
        total: rows.len(),
        metrics: vec![
            figure("execution", &|_| true),
            figure("exact_set_match", &|row| row.index % 3 > 0),
        ],
        classes: CLASSES
            .iter()
            .map(|class| figure(class, &|row| row.class.as_deref() == Some(class)))
            .collect(),
    }
}

/// Neighbours in the list of runs.
fn tests(rows: &[ComparedRow]) -> Vec<PairTest> {
    let pairs = (0..RUNS.len() - 1).map(|first| (first, first + 1));
    pairs
        .map(|(first, second)| {
            let only = |a: usize, b: usize| {
                let flipped =
                    |row: &&ComparedRow| row.answers[a].correct && !row.answers[b].correct;
                rows.iter().filter(flipped).count()
            };
            let (only_first, only_second) = (only(first, second), only(second, first));
            let total = rows.len().max(1) as f64;
            let difference = (only_second as f64 - only_first as f64) / total;
            let spread = ((only_first + only_second) as f64).sqrt();
            let p_value = mcnemar(only_first, only_second);
            let is_noise = p_value > 0.05;
            PairTest {
                first: RUNS[first].0.to_owned(),
                second: RUNS[second].0.to_owned(),
                only_first,
                only_second,
                difference,
                difference_ci95: [
                    difference - 1.96 * spread / total,
                    difference + 1.96 * spread / total,
                ],
                p_value,
                verdict: if is_noise {
                    "within noise"
                } else {
                    "beyond noise"
                }
                .to_owned(),
            }
        })
        .collect()
}

/// The exact two-sided p value: flips are tosses of a fair coin.
fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let flips = only_first + only_second;
    // ln of the chance of exactly k heads, from one k to the next.
    let mut ln_chance = flips as f64 * 0.5_f64.ln();
    let mut tail = 0.0;
    for k in 0..=only_first.min(only_second) {
        tail += ln_chance.exp();
        ln_chance += ((flips - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

fn bar(group: usize, series: usize, figure: &MetricValue) -> Bar {
    Bar {
        group,
        series,
        value: figure.value.unwrap_or(0.0),
        ci95: figure.ci95,
        published: None,
    }
}

fn chart(runs: &[ComparedRun]) -> BarChart {
    let bars = runs
        .iter()
        .enumerate()
        .map(|(i, run)| bar(i % 2, i / 2, &run.metrics[0]));
    BarChart {
        title: "Accuracy by adapter and prompt".to_owned(),
        subtitle: [
            "made-up answers".to_owned(),
            "execution; whiskers: 95 % intervals".to_owned(),
        ],
        synthetic: true,
        groups: vec!["0 examples".to_owned(), "1 example".to_owned()],
        series: ["untuned", "zero-shot adapter", "RAG adapter"]
            .map(str::to_owned)
            .to_vec(),
        baselines: 1,
        bars: bars.collect(),
        notes: vec!["zero-shot adapter with 0 and 1 examples: within noise".to_owned()],
    }
}

fn class_chart(runs: &[ComparedRun]) -> BarChart {
    let bars = runs.iter().enumerate().flat_map(|(series, run)| {
        let classes = run.classes.iter().enumerate();
        classes.map(move |(group, figure)| bar(group, series, figure))
    });
    BarChart {
        title: "Accuracy by class".to_owned(),
        subtitle: [
            "made-up answers".to_owned(),
            "execution; whiskers: 95 % intervals".to_owned(),
        ],
        synthetic: true,
        groups: CLASSES.map(str::to_owned).to_vec(),
        series: runs.iter().map(|run| run.label.clone()).collect(),
        baselines: 2,
        bars: bars.collect(),
        notes: Vec::new(),
    }
}
