//! What the plan is made from: which steps are done, which cannot be done, what the others will take.

use std::collections::BTreeMap;

use super::cell::{Step, Task};
use super::corrections::Corrections;
use super::estimator::{Estimate, Estimator};
use super::execute::Limits;
use super::figures::Wanted;
use super::plan::{Knowledge, Plan, PlannedCell, Verdict};
use super::recipe::Recipe;
use super::records::{self, Progress, Record};
use crate::forecast::{duration, gib};
use crate::output::{Output, table};

/// Changed settings that are named where a step is done again.
const SHOWN_CHANGES: usize = 3;

/// What is known of all steps of the wanted cells.
pub struct Facts<'a> {
    recipe: &'a Recipe,
    done: BTreeMap<Step, bool>,
    estimates: BTreeMap<Step, Result<Estimate, String>>,
    demo_errors: &'a BTreeMap<Task, String>,
    corrections: Corrections,
}

impl<'a> Facts<'a> {
    /// Looks at records, and predicts what is not done. `corrections` learn from what is.
    ///
    /// # Errors
    /// When a record is damaged, or a config is wrong. Missing data or models are obstacles of their steps.
    pub fn gather(
        recipe: &'a Recipe,
        estimator: &Estimator<'_>,
        wanted: &[Wanted],
        demo_errors: &'a BTreeMap<Task, String>,
        corrections: &mut Corrections,
        out: &Output,
    ) -> anyhow::Result<Self> {
        let steps: Vec<Step> = wanted
            .iter()
            .flat_map(|wanted| Step::Evaluate(wanted.cell).with_needs())
            .collect();
        let mut done = BTreeMap::new();
        for step in steps {
            if done.contains_key(&step) {
                continue;
            }
            done.insert(step, records::is_done(recipe, &step)?);
            let record = Record::load(recipe, &step)?;
            if let Some(record) = record.filter(|record| record.progress == Progress::Done) {
                corrections.learn(&step, record.predicted_s, record.taken_s);
            }
        }
        let mut facts = Self {
            recipe,
            done,
            estimates: BTreeMap::new(),
            demo_errors,
            corrections: corrections.clone(),
        };
        let open: Vec<Step> = facts
            .done
            .iter()
            .filter(|(step, is_done)| !**is_done && facts.early_obstacle(step).is_none())
            .map(|(step, _)| *step)
            .collect();
        let progress = out.progress();
        progress.start("predicting", open.len() as u64);
        for step in open {
            let estimate = estimator.estimate(&step);
            let estimate = estimate.map_err(|error| format!("{error:#}"));
            facts.estimates.insert(step, estimate);
            progress.advance(1);
        }
        progress.finish();
        Ok(facts)
    }

    /// What shows without looking at data and models.
    fn early_obstacle(&self, step: &Step) -> Option<String> {
        let demo = self.demo_errors.get(&step.task()).cloned();
        demo.or_else(|| self.recipe.obstacle(step))
    }

    /// The prediction; nothing where there is none.
    pub fn estimate(&self, step: &Step) -> Estimate {
        let none = Estimate {
            seconds: 0.0,
            bytes: 0,
        };
        self.estimates
            .get(step)
            .and_then(|estimate| estimate.clone().ok())
            .unwrap_or(none)
    }

    /// Results that no longer count, and what changed.
    pub fn notes(&self, plan: &Plan) -> Vec<String> {
        let mut notes = Vec::new();
        for step in plan.steps() {
            let record = Record::load(self.recipe, &step).ok().flatten();
            let identity = self.recipe.identity(&step).ok();
            if let (Some(record), Some(identity)) = (record, identity) {
                let changes = records::changes(&record.config, &identity);
                if !changes.is_empty() {
                    let more = changes.len().saturating_sub(SHOWN_CHANGES);
                    let shown = changes.iter().take(SHOWN_CHANGES).cloned();
                    let more = (more > 0).then(|| format!("and {more} more"));
                    let text: Vec<String> = shown.chain(more).collect();
                    notes.push(format!("{step} is done again: {}", text.join(", ")));
                }
            }
        }
        for cell in &plan.cells {
            if let Verdict::Left(reason) = &cell.verdict {
                notes.push(format!("{} is left out: {reason}", cell.wanted.cell));
            }
        }
        let total = duration(plan.seconds());
        let steps = plan.steps().len();
        notes.push(format!("{steps} steps to run, about {total} by prediction"));
        notes
    }

    /// The plan for people.
    pub fn shown(&self, plan: &Plan, limits: &Limits) -> String {
        let rows: Vec<Vec<String>> = plan.cells.iter().map(|cell| self.row(cell)).collect();
        let header = ["cell", "figures", "adds", "memory", "plan"];
        let mut text = table(&header, &rows);
        let chosen = plan.chosen().count();
        text += &format!(
            "\n{chosen} of {} cells would be run, {} at a time: about {} by prediction\n",
            plan.cells.len(),
            limits.jobs,
            duration(plan.seconds())
        );
        for note in self.notes(plan) {
            if note.contains("is done again") {
                text += &format!("{note}\n");
            }
        }
        text += &format!(
            "measured speeds and lengths are kept in {}\n",
            self.recipe.folder.measurements().display()
        );
        text
    }

    fn row(&self, cell: &PlannedCell) -> Vec<String> {
        let letters: Vec<&str> = cell.wanted.figures.iter().map(|f| f.letter()).collect();
        let bytes = cell
            .steps
            .iter()
            .map(|step| self.estimate(step).bytes)
            .max();
        let is_known = cell
            .steps
            .iter()
            .any(|step| self.estimates.contains_key(step));
        let plan = match &cell.verdict {
            Verdict::Done => "done".to_owned(),
            Verdict::Chosen => "run".to_owned(),
            Verdict::Left(reason) => format!("left out: {reason}"),
        };
        let known = |text: String| if is_known { text } else { "-".to_owned() };
        vec![
            cell.wanted.cell.to_string(),
            letters.join(","),
            known(duration(cell.added_s)),
            known(gib(bytes.unwrap_or(0))),
            plan,
        ]
    }
}

impl Knowledge for Facts<'_> {
    fn is_done(&self, step: &Step) -> bool {
        self.done.get(step).copied().unwrap_or(false)
    }

    fn obstacle(&self, step: &Step) -> Option<String> {
        let estimate = self.estimates.get(step);
        self.early_obstacle(step)
            .or_else(|| estimate.and_then(|estimate| estimate.clone().err()))
    }

    fn seconds(&self, step: &Step) -> f64 {
        let seconds = self.estimate(step).seconds;
        self.corrections.expected(step, seconds)
    }
}
