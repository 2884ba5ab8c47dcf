//! What is known of every cell, as `results.json` and for tables and charts.

use std::collections::BTreeMap;

use anyhow::Context;
use rag_tune_eval::statistics::{Difference, Interval, Outcomes, PooledAccuracy};
use serde::Serialize;

use super::cell::{Cell, Prompts, Step, Task};
use super::execute::Outcome;
use super::figures::{Figure, Grid, Wanted, cells, grid, with_seed};
use super::plan::{Plan, Verdict};
use super::published;
use super::recipe::Recipe;
use super::records::{self, Record};
use crate::contrasts::{Contrast, p_value};
use crate::evaluated::Evaluated;
use crate::files::write_atomically;

/// `results.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// The base model.
    pub model: String,
    /// Whether any figure is of made-up data.
    pub synthetic: bool,
    /// What the published figures are of.
    pub published_source: &'static str,
    /// Every cell with a result, and every one that was asked for and has none.
    pub cells: Vec<CellResult>,
    /// The figures, with seeds pooled.
    pub figures: Vec<FigureResult>,
    /// Predicted and taken seconds of all finished steps.
    pub predictions: Vec<StepTime>,
}

/// A cell.
#[derive(Debug, Clone, Serialize)]
pub struct CellResult {
    /// Its name, which its files have too.
    pub name: String,
    /// Letters of the figures that show it.
    pub figures: Vec<&'static str>,
    /// The task.
    pub task: &'static str,
    /// Prompts that the adapter was trained with; none for the untrained model.
    pub adapter: Option<String>,
    /// Prompts that it was asked with.
    pub prompts: String,
    /// Seed.
    pub seed: u64,
    /// What the original experiment got.
    pub published: Option<f64>,
    /// The scores; none where there are none.
    pub scores: Option<CellScores>,
    /// Why there are none.
    pub left_out: Option<String>,
    /// Predicted seconds of training, if it is this cell's own, and evaluation.
    pub predicted_s: Option<f64>,
    /// What they took.
    pub taken_s: Option<f64>,
    /// The cell itself.
    #[serde(skip)]
    pub cell: Cell,
}

/// What is kept of a cell's `scores.json`.
#[derive(Debug, Clone, Serialize)]
pub struct CellScores {
    /// The main metric.
    pub metric: String,
    /// Rows.
    pub n: usize,
    /// Rows that are right.
    pub correct: usize,
    /// By the main metric.
    pub accuracy: f64,
    /// Its 95 % interval.
    pub ci95: Interval,
    /// All metrics.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Their 95 % intervals.
    pub intervals: BTreeMap<String, Interval>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Whether the data was made up.
    pub synthetic: bool,
    /// For each row, whether it is right.
    #[serde(skip)]
    pub rows: Vec<bool>,
}

/// A figure.
#[derive(Debug, Clone, Serialize)]
pub struct FigureResult {
    /// Its letter.
    pub figure: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// Its bars, as far as there are results.
    pub bars: Vec<BarResult>,
    /// The differences that it is about.
    pub comparisons: Vec<ComparisonResult>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Groups and series.
    #[serde(skip)]
    pub grid: Grid,
}

/// A bar: a cell over its seeds.
#[derive(Debug, Clone, Serialize)]
pub struct BarResult {
    /// Below the bar.
    pub group: String,
    /// In the legend.
    pub series: String,
    /// Accuracy over the seeds that are done.
    #[serde(flatten)]
    pub pooled: PooledAccuracy,
    /// Rows.
    pub n: usize,
    /// The seeds that are done.
    pub seed_values: Vec<u64>,
    /// What the original experiment got.
    pub published: Option<f64>,
    /// Index into the grid's bars.
    #[serde(skip)]
    pub bar: usize,
    /// By seed and row.
    #[serde(skip)]
    pub outcomes: Outcomes,
}

/// Two bars of a figure.
#[derive(Debug, Clone, Serialize)]
pub struct ComparisonResult {
    /// What both bars are of; empty where nothing else is in the figure.
    pub of: String,
    /// The first bar.
    pub first: String,
    /// The second bar.
    pub second: String,
    /// The second against the first.
    #[serde(flatten)]
    pub difference: Difference,
    /// `p_value`, adjusted for the number of comparisons of the figure (Holm).
    pub adjusted_p_value: f64,
    /// Whether the bars cannot be told apart.
    pub within_noise: bool,
}

/// A step's prediction and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct StepTime {
    /// The step.
    pub step: String,
    /// Predicted before it was started.
    pub predicted_s: f64,
    /// Taken, as if it had had the whole machine.
    pub taken_s: f64,
}

/// Which cells were asked for, and what came of them.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Configs and folders.
    pub recipe: &'a Recipe,
    /// Asked for in this call.
    pub plan: &'a Plan,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// All seeds.
    pub seeds: &'a [u64],
}

impl Results {
    /// Reads what is done, in this call or an earlier one with the same settings.
    ///
    /// # Errors
    /// When a file is damaged.
    pub fn collect(call: Call<'_>) -> anyhow::Result<Self> {
        let recipe = call.recipe;
        let all = cells(&Figure::ALL, &Task::ALL, call.seeds);
        let mut results = Vec::new();
        let mut predictions: BTreeMap<Step, StepTime> = BTreeMap::new();
        for wanted in all {
            let left_out = call.left_out(&wanted.cell);
            let step = Step::Evaluate(wanted.cell);
            let is_done = left_out.is_none() && records::is_done(recipe, &step)?;
            if !is_done && left_out.is_none() {
                continue; // not asked for, and not there either
            }
            let mut result = CellResult::new(&wanted, left_out);
            if is_done {
                result.add_scores(recipe, &mut predictions)?;
            }
            results.push(result);
        }
        let any = Step::augment(Task::Sql, Prompts::ZeroShot, 0);
        let model = recipe.resolve(&any)?.run.model.base;
        let scores = || results.iter().filter_map(|result| result.scores.as_ref());
        let embedder = recipe.embedder_label()?;
        let figure = |figure| FigureResult::new(figure, &embedder, call.seeds, &results);
        Ok(Self {
            model,
            synthetic: scores().any(|scores| scores.synthetic),
            published_source: published::SOURCE,
            figures: Figure::ALL.into_iter().map(figure).collect(),
            cells: results,
            predictions: predictions.into_values().collect(),
        })
    }

    /// Writes `results.json`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, recipe: &Recipe) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("results are plain data")?;
        write_atomically(&recipe.folder.path().join("results.json"), &(text + "\n"))
    }
}

impl Call<'_> {
    /// Why a cell that was asked for has no result; none if it has one, or was not asked for.
    fn left_out(&self, cell: &Cell) -> Option<String> {
        let planned = self
            .plan
            .cells
            .iter()
            .find(|cells| cells.wanted.cell == *cell)?;
        let failed = planned
            .steps
            .iter()
            .find_map(|step| Some((step, self.outcome.failed.get(step)?)));
        if let Some((step, tail)) = failed {
            let log = self.recipe.folder.log(step);
            return Some(format!("failed; {} ends with:\n{tail}", log.display()));
        }
        if let Some(reason) = self.outcome.left.get(cell) {
            return Some(reason.to_string());
        }
        match &planned.verdict {
            Verdict::Left(reason) => Some(reason.to_string()),
            Verdict::Done | Verdict::Chosen => None,
        }
    }
}

impl CellResult {
    fn new(wanted: &Wanted, left_out: Option<String>) -> Self {
        let cell = wanted.cell;
        let letters = wanted.figures.iter().map(|figure| figure.letter());
        let of_figures = |figure: &Figure| grid(*figure, "", cell.seed).bars;
        let mut bars = wanted.figures.iter().flat_map(of_figures);
        Self {
            name: cell.to_string(),
            figures: letters.collect(),
            task: cell.task.name(),
            adapter: cell.adapter.map(|prompts| prompts.to_string()),
            prompts: cell.prompts.to_string(),
            seed: cell.seed,
            published: bars.find_map(|bar| bar.published.filter(|_| bar.cell == cell)),
            scores: None,
            left_out,
            predicted_s: None,
            taken_s: None,
            cell,
        }
    }

    fn add_scores(
        &mut self,
        recipe: &Recipe,
        predictions: &mut BTreeMap<Step, StepTime>,
    ) -> anyhow::Result<()> {
        let folder = recipe.folder.evaluation(&self.cell);
        let evaluated = Evaluated::from_folder(&folder)?;
        let rows = evaluated.correct();
        let report = evaluated.report;
        self.scores = Some(CellScores {
            metric: report.metric,
            n: report.total,
            correct: report.correct,
            accuracy: report.accuracy,
            ci95: report.ci95,
            metrics: report.metrics,
            intervals: report.intervals,
            notes: report.notes,
            synthetic: report.synthetic,
            rows,
        });
        let is_own = self.cell.adapter == Some(self.cell.prompts);
        for step in Step::Evaluate(self.cell).with_needs() {
            let Some(record) = Record::load(recipe, &step)? else {
                continue;
            };
            predictions.entry(step).or_insert_with(|| StepTime {
                step: step.to_string(),
                predicted_s: record.predicted_s,
                taken_s: record.taken_s,
            });
            let counts = match step {
                Step::Augment { .. } => false,
                Step::Train { prompts, .. } => is_own && prompts == self.cell.prompts,
                Step::Evaluate(cell) => cell == self.cell,
            };
            if counts {
                *self.predicted_s.get_or_insert(0.0) += record.predicted_s;
                *self.taken_s.get_or_insert(0.0) += record.taken_s;
            }
        }
        Ok(())
    }
}

impl FigureResult {
    fn new(figure: Figure, embedder: &str, seeds: &[u64], cells: &[CellResult]) -> Self {
        let grid = grid(figure, embedder, seeds[0]);
        let bars: Vec<BarResult> = (0..grid.bars.len())
            .filter_map(|bar| BarResult::new(&grid, bar, seeds, cells))
            .collect();
        let comparisons = ComparisonResult::all(&grid, &bars);
        Self {
            figure: figure.letter(),
            title: figure.title(),
            comparisons,
            notes: if bars.is_empty() {
                Vec::new()
            } else {
                grid.notes.clone()
            },
            bars,
            grid,
        }
    }
}

impl BarResult {
    fn new(grid: &Grid, index: usize, seeds: &[u64], cells: &[CellResult]) -> Option<Self> {
        let bar = &grid.bars[index];
        let mut seed_values: Vec<u64> = Vec::new();
        let mut rows: Vec<Vec<bool>> = Vec::new();
        for &seed in seeds {
            let cell = with_seed(&bar.cell, seed, seeds);
            let result = cells.iter().find(|result| result.cell == cell);
            let Some(scores) = result.and_then(|result| result.scores.as_ref()) else {
                continue;
            };
            let fits = rows
                .first()
                .is_none_or(|first| first.len() == scores.rows.len());
            if !seed_values.contains(&cell.seed) && fits {
                seed_values.push(cell.seed);
                rows.push(scores.rows.clone());
            }
        }
        if rows.is_empty() {
            return None;
        }
        let outcomes = Outcomes::new(rows);
        Some(Self {
            group: grid.groups[bar.group].clone(),
            series: grid.series[bar.series].clone(),
            pooled: outcomes.pooled(),
            n: outcomes.rows(),
            seed_values,
            published: bar.published,
            bar: index,
            outcomes,
        })
    }
}

impl ComparisonResult {
    /// The comparisons of the figure, as far as both bars are there and are of the same rows.
    fn all(grid: &Grid, bars: &[BarResult]) -> Vec<Self> {
        let place = |index: usize| bars.iter().position(|bar| bar.bar == index);
        let pairs: Vec<(usize, usize)> = grid
            .comparisons
            .iter()
            .filter_map(|&(first, second)| Some((place(first)?, place(second)?)))
            .filter(|&(first, second)| bars[first].n == bars[second].n)
            .collect();
        let outcomes: Vec<&Outcomes> = bars.iter().map(|bar| &bar.outcomes).collect();
        Contrast::of(&outcomes, &pairs)
            .iter()
            .map(|contrast| Self::new(grid, bars, contrast))
            .collect()
    }

    fn new(grid: &Grid, bars: &[BarResult], contrast: &Contrast) -> Self {
        let (first, second) = (&bars[contrast.first], &bars[contrast.second]);
        let bar = |result: &BarResult| &grid.bars[result.bar];
        // Named by what they differ in.
        let (of, first_name, second_name) = if bar(first).group == bar(second).group {
            let of = if grid.groups.len() > 1 {
                &first.group
            } else {
                ""
            };
            (of, &first.series, &second.series)
        } else {
            let of = if grid.series.len() > 1 {
                &first.series
            } else {
                ""
            };
            (of, &first.group, &second.group)
        };
        Self {
            of: of.to_owned(),
            first: first_name.clone(),
            second: second_name.clone(),
            difference: contrast.difference,
            adjusted_p_value: contrast.adjusted_p_value,
            within_noise: contrast.is_within_noise(),
        }
    }

    /// Both bars, with `between` between them.
    pub fn label(&self, between: &str) -> String {
        let of = match self.of.as_str() {
            "" => String::new(),
            of => format!("{of}: "),
        };
        format!("{of}{}{between}{}", self.first, self.second)
    }

    /// A warning where the difference is within noise.
    pub fn warning(&self) -> Option<String> {
        self.within_noise.then(|| {
            format!(
                "Within noise ({}): {}.",
                p_value(self.adjusted_p_value),
                self.label(" and ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(grid: &Grid, bar: usize, rows: Vec<bool>) -> BarResult {
        let outcomes = Outcomes::new(vec![rows]);
        BarResult {
            group: grid.groups[grid.bars[bar].group].clone(),
            series: grid.series[grid.bars[bar].series].clone(),
            pooled: outcomes.pooled(),
            n: outcomes.rows(),
            seed_values: vec![42],
            published: None,
            bar,
            outcomes,
        }
    }

    #[test]
    fn a_chart_warns_only_of_differences_within_noise() {
        let grid = grid(Figure::D, "MiniLM", 42);
        let none = vec![false; 40];
        let all = vec![true; 40];
        let mut one = none.clone();
        one[0] = true;
        let warning = |second: &[bool]| {
            let bars = [bar(&grid, 0, none.clone()), bar(&grid, 1, second.to_vec())];
            ComparisonResult::all(&grid, &bars)[0].warning()
        };
        assert_eq!(
            warning(&one).unwrap(),
            "Within noise (p = 1.00): same database allowed and only other databases."
        );
        assert_eq!(warning(&all), None);
    }

    #[test]
    fn bars_of_other_rows_or_without_results_are_not_compared() {
        let grid = grid(Figure::D, "MiniLM", 42);
        let bars = [bar(&grid, 0, vec![true; 3]), bar(&grid, 1, vec![true; 4])];
        assert!(ComparisonResult::all(&grid, &bars).is_empty());
        assert!(ComparisonResult::all(&grid, &bars[..1]).is_empty());
    }
}
