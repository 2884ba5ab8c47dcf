//! `bench chart`: how speed grows with threads, tokens and sequence length.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_report::LineChart;
use serde::Deserialize;

use crate::error::InputError;
use crate::output::Output;

/// Lines of figures, and where the charts go.
#[derive(Debug, Args)]
pub struct ChartsArgs {
    /// Lines that `bench train|forward --json` printed, each with two keys more: `sweep` (threads, tokens or seq: what
    /// was varied) and `program`
    #[arg(value_name = "JSONL")]
    figures: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What was varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sweep {
    Threads,
    Tokens,
    Seq,
}

/// What a chart needs of a line.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Point {
    sweep: Sweep,
    program: String,
    model: String,
    work: String,
    compute: String,
    threads: usize,
    batch: usize,
    seq: usize,
    tokens_per_s: f64,
}

impl Sweep {
    const ALL: [Self; 3] = [Self::Threads, Self::Tokens, Self::Seq];

    fn file(self) -> &'static str {
        match self {
            Self::Threads => "threads.svg",
            Self::Tokens => "tokens.svg",
            Self::Seq => "sequence_length.svg",
        }
    }

    fn x_title(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Tokens => "tokens in a step",
            Self::Seq => "tokens in a row",
        }
    }

    fn x(self, point: &Point) -> f64 {
        let x = match self {
            Self::Threads => point.threads,
            Self::Tokens => point.batch * point.seq,
            Self::Seq => point.seq,
        };
        x as f64
    }

    /// What stayed the same.
    fn fixed(self, points: &[&Point]) -> String {
        let first = points[0];
        match self {
            Self::Threads => format!("{} rows of {} tokens", first.batch, first.seq),
            Self::Tokens => format!("rows of {} tokens, {} threads", first.seq, first.threads),
            Self::Seq => format!(
                "{} tokens in a step, {} threads",
                first.batch * first.seq,
                first.threads
            ),
        }
    }

    /// The chart of the points of this sweep; none where there are none.
    fn chart(self, points: &[Point]) -> Option<LineChart> {
        let points: Vec<&Point> = points.iter().filter(|point| point.sweep == self).collect();
        if points.is_empty() {
            return None;
        }
        let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for point in &points {
            let name = format!("{} {}, {}", point.program, point.compute, point.work);
            let place = (self.x(point), point.tokens_per_s);
            match lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, places)) => places.push(place),
                None => lines.push((name, vec![place])),
            }
        }
        Some(LineChart {
            title: format!("Speed by {}", self.x_title()),
            subtitle: [
                "LoRA on q, k, v, o, loss on every token; train: full steps, forward: up to the loss"
                    .to_owned(),
                format!("{}, {}", points[0].model, self.fixed(&points)),
            ],
            x_title: self.x_title().to_owned(),
            y_title: "tokens a second".to_owned(),
            lines,
        })
    }
}

/// Draws a chart for each quantity that was varied.
///
/// # Errors
/// When the lines cannot be read, or a chart cannot be written.
pub fn charts(args: &ChartsArgs, out: &mut Output) -> anyhow::Result<()> {
    let path = args.figures.display();
    let text =
        std::fs::read_to_string(&args.figures).with_context(|| format!("cannot read `{path}`"))?;
    let points: Result<Vec<Point>, _> = text
        .lines()
        .enumerate()
        .map(|(at, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("`{path}` line {} is no figure", at + 1))
        })
        .collect();
    let points = points?;
    if points.is_empty() {
        let hint = "scripts/bench-cpu.sh --charts writes one";
        return Err(InputError::new(format!("`{path}` has no lines"), hint).into());
    }
    let folder = args.out.display();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{folder}`"))?;
    for sweep in Sweep::ALL {
        if let Some(chart) = sweep.chart(&points) {
            let file = args.out.join(sweep.file());
            chart.save_svg(&file)?;
            out.data(&format!("{}\n", file.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_program_and_its_work() {
        let point = |program: &str, threads: usize, tokens_per_s: f64| Point {
            sweep: Sweep::Threads,
            program: program.to_owned(),
            model: "tiny".to_owned(),
            work: "train".to_owned(),
            compute: "bf16".to_owned(),
            threads,
            batch: 8,
            seq: 256,
            tokens_per_s,
        };
        let points = [
            point("rag-tune", 1, 250.0),
            point("PyTorch", 1, 160.0),
            point("rag-tune", 2, 500.0),
        ];
        let chart = Sweep::Threads.chart(&points).unwrap();
        assert_eq!(chart.lines[0].0, "rag-tune bf16, train");
        assert_eq!(chart.lines[0].1, [(1.0, 250.0), (2.0, 500.0)]);
        assert_eq!(chart.lines[1].1, [(1.0, 160.0)]);
        assert_eq!(chart.subtitle[1], "tiny, 8 rows of 256 tokens");
        assert!(Sweep::Seq.chart(&points).is_none());
    }
}
