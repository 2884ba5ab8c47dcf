//! `rag-tune compare`: whether evaluations of the same rows differ, and on which rows.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::score::{percent, remarks};
use crate::contrasts::Contrast;
use crate::evaluated::{Evaluated, Side, check_same_rows};
use crate::output::{Output, table};

/// Longest text of a flipped row, in characters; --html shows all of it.
const WIDTH: usize = 160;

/// Compare evaluations on the same rows: table, tests, and the rows that flipped
///
/// Each RUN is an evaluation folder, a run folder (its evaluation with the prompts that it was trained on), or a file
/// written by `rag-tune score --rows`. Several seeds of one side are joined by commas. Two runs are tested by McNemar's
/// exact test; with several seeds by a bootstrap over rows and seeds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune compare out/sql_zero_shot out/sql_rag1 --html compare.html
  rag-tune compare out/zero_1,out/zero_2 out/rag_1,out/rag_2      # two seeds a side")]
pub struct CompareArgs {
    /// Two or more sides
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<String>,
    /// Write everything, row by row, as one HTML file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the comparison as one JSON object, with all flipped rows
    #[arg(long)]
    json: bool,
    /// Flipped rows to print for each pair and direction
    #[arg(long, value_name = "N", default_value_t = 5)]
    flips: usize,
}

/// Runs the command.
pub fn compare(args: &CompareArgs, out: &mut Output) -> anyhow::Result<()> {
    let sides = args
        .runs
        .iter()
        .map(|runs| side(runs).with_context(|| format!("cannot compare `{runs}`")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for other in &sides[1..] {
        check_same_rows(sides[0].first(), other.first())?;
    }
    let contrasts = Contrast::all(&sides);
    let text = if args.json {
        format!("{}\n", as_json(&sides, &contrasts))
    } else {
        as_text(&sides, &contrasts, args.flips)
    };
    if let Some(file) = &args.html {
        crate::comparison_page::page(&sides, &contrasts).save_html(file)?;
        out.note(&format!("wrote {}", file.display()));
    }
    out.data(&text)?;
    Ok(())
}

fn side(runs: &str) -> anyhow::Result<Side> {
    // A path may hold a comma; then it is there as it is.
    let paths: Vec<&str> = if Path::new(runs).exists() {
        vec![runs]
    } else {
        runs.split(',').collect()
    };
    Side::new(
        paths
            .into_iter()
            .map(|path| Evaluated::open(Path::new(path)))
            .collect::<anyhow::Result<_>>()?,
    )
}

fn as_text(sides: &[Side], contrasts: &[Contrast], flips: usize) -> String {
    let mut text = summary(sides);
    for contrast in contrasts {
        text.push('\n');
        text += &of_pair(sides, contrast, contrasts.len());
        text += &flipped(sides, contrast, flips);
    }
    let reports = sides.iter().flat_map(|side| &side.evaluations);
    let remarks = remarks(reports.map(|evaluated| &evaluated.report));
    if !remarks.is_empty() {
        text = format!("{text}\n{remarks}");
    }
    text
}

fn summary(sides: &[Side]) -> String {
    let several_seeds = sides.iter().any(|side| side.evaluations.len() > 1);
    let first = &sides[0].first().report;
    let others: Vec<&String> = first
        .metrics
        .keys()
        .filter(|name| **name != first.metric)
        .collect();
    let mut header = vec!["", "rows", first.metric.as_str(), "95 % interval"];
    if several_seeds {
        header.extend(["seeds", "deviation"]);
    }
    header.extend(others.iter().map(|name| name.as_str()));
    let row = |side: &Side| {
        let pooled = side.outcomes.pooled();
        let mut row = vec![
            side.label.clone(),
            side.outcomes.rows().to_string(),
            percent(pooled.accuracy),
            format!("{} to {}", percent(pooled.ci95.lo), percent(pooled.ci95.hi)),
        ];
        if several_seeds {
            let deviation = pooled.seed_deviation;
            row.push(pooled.seeds.to_string());
            row.push(deviation.map_or_else(|| "-".to_owned(), percent));
        }
        row.extend(
            others
                .iter()
                .map(|name| mean_metric(side, name).map_or_else(|| "-".to_owned(), percent)),
        );
        row
    };
    table(&header, &sides.iter().map(row).collect::<Vec<_>>())
}

/// A metric of a side, the mean over its seeds.
pub fn mean_metric(side: &Side, name: &str) -> Option<f64> {
    let values: Option<Vec<f64>> = side
        .evaluations
        .iter()
        .map(|evaluated| evaluated.report.metrics.get(name).copied().flatten())
        .collect();
    let values = values?;
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

fn of_pair(sides: &[Side], contrast: &Contrast, contrasts: usize) -> String {
    let (first, second) = (&sides[contrast.first].label, &sides[contrast.second].label);
    let difference = &contrast.difference;
    let effect = match (difference.odds_ratio(), difference.cohens_g()) {
        (Some(odds), Some(g)) => format!("; odds {odds:.2}, Cohen's g {g:.2}"),
        _ => String::new(),
    };
    format!(
        "{second} against {first}\n  difference {:+.1} points, 95 % interval {:+.1} to {:+.1}\n  \
         right only in {second}: {}, only in {first}: {}{effect}\n  {}\n  {}\n",
        100.0 * difference.difference,
        100.0 * difference.ci95.lo,
        100.0 * difference.ci95.hi,
        count(difference.only_second),
        count(difference.only_first),
        contrast.test(contrasts),
        contrast.verdict(first, second),
    )
}

/// A number of rows; a mean over seeds need not be whole.
fn count(rows: f64) -> String {
    if rows.fract() == 0.0 {
        format!("{rows:.0}")
    } else {
        format!("{rows:.1}")
    }
}

/// Rows that one side has right and the other has not; of several seeds, by the first of each.
fn flips<'a>(sides: &'a [Side], right: usize, wrong: usize) -> impl Iterator<Item = usize> + 'a {
    let [right, wrong] = [right, wrong].map(|side| &sides[side].outcomes.seeds()[0]);
    (0..right.len()).filter(|&row| right[row] && !wrong[row])
}

fn flipped(sides: &[Side], contrast: &Contrast, limit: usize) -> String {
    let mut text = String::new();
    for (right, wrong) in [
        (contrast.second, contrast.first),
        (contrast.first, contrast.second),
    ] {
        let rows: Vec<usize> = flips(sides, right, wrong).collect();
        if rows.is_empty() || limit == 0 {
            continue;
        }
        text += &format!("  right only in {}: {}\n", sides[right].label, rows.len());
        for &row in rows.iter().take(limit) {
            let [of_right, of_wrong] = [right, wrong].map(|side| &sides[side].first().answers[row]);
            let detail = of_wrong.score.detail.as_ref();
            let detail =
                detail.map_or_else(String::new, |detail| format!("  [{}]", shorten(detail)));
            text += &format!(
                "    row {}\n      gold   {}\n      right  {}\n      wrong  {}{detail}\n",
                of_right.score.index,
                shorten(&of_right.gold),
                shorten(&of_right.prediction),
                shorten(&of_wrong.prediction),
            );
        }
        if rows.len() > limit {
            text += &format!("    and {} more\n", rows.len() - limit);
        }
    }
    text
}

/// The text in one line, cut where it is long, without control characters: a model wrote it.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn as_json(sides: &[Side], contrasts: &[Contrast]) -> Value {
    let side = |side: &Side| {
        let pooled = side.outcomes.pooled();
        let report = &side.first().report;
        let metrics = report.metrics.keys();
        let metrics: serde_json::Map<String, Value> = metrics
            .map(|name| (name.clone(), json!(mean_metric(side, name))))
            .collect();
        json!({
            "label": side.label, "rows": side.outcomes.rows(), "metric": report.metric,
            "accuracy": pooled.accuracy, "ci95": pooled.ci95, "seeds": pooled.seeds,
            "seed_deviation": pooled.seed_deviation, "metrics": metrics,
        })
    };
    let index = |row: usize| sides[0].first().answers[row].score.index;
    let contrast = |contrast: &Contrast| {
        let difference = &contrast.difference;
        let rows = |right, wrong| flips(sides, right, wrong).map(index).collect::<Vec<_>>();
        json!({
            "first": sides[contrast.first].label, "second": sides[contrast.second].label,
            "difference": difference.difference, "ci95": difference.ci95,
            "test": difference.test, "p_value": difference.p_value,
            "adjusted_p_value": contrast.adjusted_p_value,
            "within_noise": contrast.is_within_noise(),
            "only_first": difference.only_first, "only_second": difference.only_second,
            "odds_ratio": difference.odds_ratio().filter(|odds| odds.is_finite()),
            "cohens_g": difference.cohens_g(),
            "rows_only_first": rows(contrast.first, contrast.second),
            "rows_only_second": rows(contrast.second, contrast.first),
        })
    };
    json!({
        "sides": sides.iter().map(side).collect::<Vec<_>>(),
        "differences": contrasts.iter().map(contrast).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_model_cannot_write_on_the_terminal() {
        assert_eq!(shorten("SELECT\n\t1 \u{1b}[31mred"), "SELECT 1 [31mred");
        assert_eq!(shorten(&"é".repeat(200)).chars().count(), WIDTH + 1);
    }
}
