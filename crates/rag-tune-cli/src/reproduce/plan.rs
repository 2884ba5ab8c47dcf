//! Which cells are run: in order of importance, as far as the predicted time allows.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::cell::Step;
use super::figures::Wanted;
use crate::forecast::duration;

/// Why a cell is not run.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// It takes longer than what the more important cells leave of the budget.
    Budget {
        /// Its predicted seconds, with all that it needs.
        needs_s: f64,
        /// What was left.
        left_s: f64,
    },
    /// Something that it needs is not there.
    Obstacle(String),
    /// The user stopped the grid.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget { needs_s, left_s } => write!(
                f,
                "over budget: it takes {} by prediction, and {} are left",
                duration(*needs_s),
                duration(left_s.max(0.0))
            ),
            Self::Obstacle(text) => f.write_str(text),
            Self::Stopped => f.write_str("stopped before it was done"),
        }
    }
}

/// What becomes of a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// There is a result already, made with the same config.
    Done,
    /// It will be run.
    Chosen,
    /// It will not.
    Left(Reason),
}

/// A cell with its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedCell {
    /// The cell and its figures.
    pub wanted: Wanted,
    /// What is still to do for it, in an order that works; steps that other cells need too are among them.
    pub steps: Vec<Step>,
    /// Predicted seconds that it adds to the cells before it.
    pub added_s: f64,
    /// Whether it is run.
    pub verdict: Verdict,
}

/// What is known of steps when the plan is made.
pub trait Knowledge {
    /// Whether the step was done, with the same config.
    fn is_done(&self, step: &Step) -> bool;
    /// Why it cannot be done.
    fn obstacle(&self, step: &Step) -> Option<String>;
    /// Predicted seconds, with the whole machine.
    fn seconds(&self, step: &Step) -> f64;
}

/// All cells with their verdicts, the most important first.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The cells.
    pub cells: Vec<PlannedCell>,
}

impl Plan {
    /// Takes the cells in their order. One that does not fit into what the cells before it left of the budget is left,
    /// and the next ones are still tried: so a cell only ever gives way to more important ones.
    pub fn new(wanted: Vec<Wanted>, knowledge: &dyn Knowledge, budget: Option<Duration>) -> Self {
        let budget = budget.map_or(f64::INFINITY, |budget| budget.as_secs_f64());
        let mut total = 0.0;
        let mut paid: BTreeSet<Step> = BTreeSet::new();
        let mut cells = Vec::new();
        for wanted in wanted {
            let steps = unfinished(&Step::Evaluate(wanted.cell), &|step| {
                knowledge.is_done(step)
            });
            let unpaid = || steps.iter().filter(|step| !paid.contains(step));
            let added_s: f64 = unpaid().map(|step| knowledge.seconds(step)).sum();
            let obstacle = steps.iter().find_map(|step| knowledge.obstacle(step));
            let verdict = if steps.is_empty() {
                Verdict::Done
            } else if let Some(obstacle) = obstacle {
                Verdict::Left(Reason::Obstacle(obstacle))
            } else if total + added_s > budget {
                Verdict::Left(Reason::Budget {
                    needs_s: added_s,
                    left_s: budget - total,
                })
            } else {
                total += added_s;
                paid.extend(steps.iter().copied());
                Verdict::Chosen
            };
            cells.push(PlannedCell {
                wanted,
                steps,
                added_s,
                verdict,
            });
        }
        Self { cells }
    }

    /// The cells that are run.
    pub fn chosen(&self) -> impl Iterator<Item = &PlannedCell> {
        let is_chosen = |cell: &&PlannedCell| cell.verdict == Verdict::Chosen;
        self.cells.iter().filter(is_chosen)
    }

    /// The steps of the chosen cells, each once, in an order that works.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for step in self.chosen().flat_map(|cell| &cell.steps) {
            if !steps.contains(step) {
                steps.push(*step);
            }
        }
        steps
    }

    /// Predicted seconds of the chosen cells.
    pub fn seconds(&self) -> f64 {
        self.chosen().map(|cell| cell.added_s).sum()
    }
}

/// What is still to do for `step`, itself last: nothing of what only a finished step needed.
pub fn unfinished(step: &Step, is_done: &dyn Fn(&Step) -> bool) -> Vec<Step> {
    if is_done(step) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    for need in step.needs() {
        for step in unfinished(&need, is_done) {
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }
    steps.push(*step);
    steps
}

/// Reads `2h`, `90m`, `1h30m`, `45s`, `1.5h`.
///
/// # Errors
/// A sentence for the user.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("`{text}` is no duration: write 2h, 90m, 1h30m or 45s");
    let mut seconds = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(problem());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(problem)?;
        let (number, unit) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| problem())?;
        let in_seconds = match unit.chars().next() {
            Some('h') => 3600.0,
            Some('m') => 60.0,
            Some('s') => 1.0,
            _ => return Err(problem()),
        };
        seconds += number * in_seconds;
        rest = unit[1..].trim_start();
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| problem())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::reproduce::cell::Task;
    use crate::reproduce::figures::{Figure, cells};

    #[derive(Debug)]
    struct Table {
        seconds: BTreeMap<Step, f64>,
        done: BTreeSet<Step>,
        blocked: BTreeSet<Step>,
    }

    impl Knowledge for Table {
        fn is_done(&self, step: &Step) -> bool {
            self.done.contains(step)
        }

        fn obstacle(&self, step: &Step) -> Option<String> {
            self.blocked.contains(step).then(|| "blocked".to_owned())
        }

        fn seconds(&self, step: &Step) -> f64 {
            self.seconds[step]
        }
    }

    fn all_cells() -> Vec<Wanted> {
        cells(&Figure::ALL, &Task::ALL, &[42])
    }

    fn all_steps() -> Vec<Step> {
        let steps = all_cells();
        let steps: BTreeSet<Step> = steps
            .iter()
            .flat_map(|wanted| Step::Evaluate(wanted.cell).with_needs())
            .collect();
        steps.into_iter().collect()
    }

    prop_compose! {
        fn tables()(
            facts in prop::collection::vec((1.0..1000.0, 0..10u8), all_steps().len())
        ) -> Table {
            let steps = all_steps();
            let with = |wanted: u8| {
                let of = steps.iter().zip(&facts).filter(move |(_, (_, fact))| *fact == wanted);
                of.map(|(step, _)| *step).collect()
            };
            Table {
                done: with(0),
                blocked: with(1),
                seconds: steps.iter().copied().zip(facts.iter().map(|fact| fact.0)).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn the_chosen_steps_never_take_longer_than_the_budget(table in tables(), budget in 0..20_000u64) {
            let plan = Plan::new(all_cells(), &table, Some(Duration::from_secs(budget)));
            let taken: f64 = plan.steps().iter().map(|step| table.seconds(step)).sum();
            prop_assert!(taken <= budget as f64 + 1e-6);
            prop_assert!((taken - plan.seconds()).abs() < 1e-6, "each step is counted once");
        }

        /// Whoever is left would not have fitted beside the more important ones that were chosen.
        #[test]
        fn a_cell_gives_way_only_to_more_important_ones(table in tables(), budget in 0..20_000u64) {
            let plan = Plan::new(all_cells(), &table, Some(Duration::from_secs(budget)));
            for (place, cell) in plan.cells.iter().enumerate() {
                let before = Plan { cells: plan.cells[..place].to_vec() };
                let known = before.steps();
                let further: f64 = cell.steps.iter()
                    .filter(|step| !known.contains(step))
                    .map(|step| table.seconds(step)).sum();
                match &cell.verdict {
                    Verdict::Left(Reason::Budget { .. }) => {
                        prop_assert!(before.seconds() + further > budget as f64);
                    }
                    Verdict::Chosen => prop_assert!(before.seconds() + further <= budget as f64 + 1e-6),
                    _ => {}
                }
            }
        }

        #[test]
        fn finished_cells_cost_nothing_and_are_not_run_again(table in tables()) {
            let plan = Plan::new(all_cells(), &table, Some(Duration::ZERO));
            for cell in &plan.cells {
                let is_done = table.is_done(&Step::Evaluate(cell.wanted.cell));
                prop_assert_eq!(cell.verdict == Verdict::Done, is_done);
                prop_assert!(!is_done || cell.added_s == 0.0);
            }
            let plan = Plan::new(all_cells(), &table, None);
            prop_assert!(plan.steps().iter().all(|step| !table.is_done(step)));
        }

        #[test]
        fn every_chosen_step_comes_after_what_it_needs(table in tables(), budget in 0..20_000u64) {
            let plan = Plan::new(all_cells(), &table, Some(Duration::from_secs(budget)));
            let steps = plan.steps();
            for (place, step) in steps.iter().enumerate() {
                for need in step.needs() {
                    prop_assert!(table.is_done(&need) || steps[..place].contains(&need), "{step} before {need}");
                }
                prop_assert!(table.obstacle(step).is_none());
            }
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let seconds = |text| parse_duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("2h"), Ok(7200));
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("1.5h 10s"), Ok(5410));
        for wrong in ["", "2", "h", "2 days", "-1h", "1e3s", "1..5h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
