//! Runs the steps of a plan: several at a time, within the budget, until done or stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::cell::{Cell, Step};
use super::children::Children;
use super::corrections::Corrections;
use super::estimator::{Estimate, Estimator};
use super::plan::{Plan, PlannedCell, Reason};
use super::records::{Progress, Record};
use crate::forecast::duration;
use crate::output::Output;

/// Between two looks at the children.
const TICK: Duration = Duration::from_millis(50);

/// How many steps run at a time, and what they may take together.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Steps at a time.
    pub jobs: usize,
    /// Memory of all of them.
    pub bytes: usize,
    /// Wall time that is left of this call.
    pub budget: Option<Duration>,
}

/// What came of a plan, beside what the records say.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps that failed, with the last lines of their logs.
    pub failed: BTreeMap<Step, String>,
    /// Chosen cells that were not begun, or not ended.
    pub left: BTreeMap<Cell, Reason>,
    /// Whether the user stopped it.
    pub stopped: bool,
}

/// The steps that run, and those that have run.
pub struct Execution<'a> {
    children: &'a Children<'a>,
    estimator: &'a Estimator<'a>,
    corrections: &'a mut Corrections,
    limits: Limits,
    out: &'a Output,
    started: Instant,
    cells: Vec<PlannedCell>,
    all_steps: usize,
    running: Vec<Running>,
    finished: BTreeSet<Step>,
    begun: BTreeSet<Cell>,
    outcome: Outcome,
}

struct Running {
    step: Step,
    child: Child,
    estimate: Estimate,
    /// Seconds so far, as if it had the whole machine.
    taken_s: f64,
}

impl<'a> Execution<'a> {
    /// Ready to run `plan`.
    pub fn new(
        plan: &Plan,
        children: &'a Children<'a>,
        estimator: &'a Estimator<'a>,
        corrections: &'a mut Corrections,
        limits: Limits,
        out: &'a Output,
    ) -> Self {
        Self {
            children,
            estimator,
            corrections,
            limits,
            out,
            started: Instant::now(),
            cells: plan.chosen().cloned().collect(),
            all_steps: plan.steps().len(),
            running: Vec::new(),
            finished: BTreeSet::new(),
            begun: BTreeSet::new(),
            outcome: Outcome::default(),
        }
    }

    /// Runs everything that can be run. `stop` is looked at all the time.
    ///
    /// # Errors
    /// When a file of the grid cannot be written. A step that fails is no error but part of the outcome.
    pub fn run(mut self, stop: &AtomicBool) -> anyhow::Result<Outcome> {
        let ended = self.run_until(stop);
        // Whatever happened, nothing is left running.
        for mut running in std::mem::take(&mut self.running) {
            running.child.kill().ok(); // it may have ended by itself
            running.child.wait().context("cannot wait for a step")?;
            self.record(&running, Progress::Begun)?;
        }
        ended?;
        if self.outcome.stopped {
            let unfinished: Vec<Cell> = self.open_cells().map(|cell| cell.wanted.cell).collect();
            for cell in unfinished {
                self.outcome.left.insert(cell, Reason::Stopped);
            }
        }
        Ok(self.outcome)
    }

    fn run_until(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut last = Instant::now();
        loop {
            let passed = last.elapsed().as_secs_f64() / self.limits.jobs as f64;
            last = Instant::now();
            self.running
                .iter_mut()
                .for_each(|running| running.taken_s += passed);
            if stop.load(Ordering::Relaxed) {
                self.outcome.stopped = true;
                self.out
                    .note("stopping: the same command goes on from here");
                return Ok(());
            }
            self.reap()?;
            while self.start_next()? {}
            if self.running.is_empty() {
                return Ok(());
            }
            std::thread::sleep(TICK);
        }
    }

    /// Takes up the steps that have ended.
    fn reap(&mut self) -> anyhow::Result<()> {
        let mut index = 0;
        while index < self.running.len() {
            let status = self.running[index].child.try_wait();
            match status.context("cannot look after a step")? {
                Some(status) => {
                    let ended = self.running.swap_remove(index);
                    self.end(&ended, status)?;
                }
                None => index += 1,
            }
        }
        Ok(())
    }

    fn end(&mut self, ended: &Running, status: ExitStatus) -> anyhow::Result<()> {
        let step = ended.step;
        let (taken, predicted) = (duration(ended.taken_s), duration(ended.estimate.seconds));
        if status.success() {
            self.record(ended, Progress::Done)?;
            self.finished.insert(step);
            self.corrections
                .learn(&step, ended.estimate.seconds, ended.taken_s);
            let (done, all) = (self.finished.len(), self.all_steps);
            let text = format!("[{done}/{all}] {step}: {taken}, predicted {predicted}");
            self.out.note(&text);
            return Ok(());
        }
        self.record(ended, Progress::Failed)?;
        let tail = self.children.log_tail(&step);
        let log = self.children.recipe.folder.log(&step);
        self.out.note(&format!(
            "{step} failed ({status}); the last lines of {}:\n  {}",
            log.display(),
            tail.replace('\n', "\n  ")
        ));
        self.outcome.failed.insert(step, tail);
        Ok(())
    }

    fn record(&self, running: &Running, progress: Progress) -> anyhow::Result<()> {
        let recipe = self.children.recipe;
        let record = Record::load(recipe, &running.step)?;
        let mut record = record.context("a running step has a record")?;
        record.progress = progress;
        record.taken_s += running.taken_s;
        record.save(recipe, &running.step)
    }

    /// Starts the most important step that can be started; says whether there was one.
    fn start_next(&mut self) -> anyhow::Result<bool> {
        if self.running.len() >= self.limits.jobs {
            return Ok(false);
        }
        let open: Vec<PlannedCell> = self.open_cells().cloned().collect();
        for planned in open {
            let cell = planned.wanted.cell;
            let Some(step) = self.ready_step(&planned) else {
                continue;
            };
            if !self.begun.contains(&cell) {
                if let Some(reason) = self.over_budget(&planned) {
                    self.out.note(&format!("{cell} is left out: {reason}"));
                    self.outcome.left.insert(cell, reason);
                    continue;
                }
                self.begun.insert(cell);
            }
            let estimate = self.estimator.estimate(&step)?;
            let others: usize = self.running.iter().map(|r| r.estimate.bytes).sum();
            if !self.running.is_empty() && others + estimate.bytes > self.limits.bytes {
                // A less important step that happens to fit would keep this one waiting for ever.
                return Ok(false);
            }
            self.start(step, estimate)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn start(&mut self, step: Step, estimate: Estimate) -> anyhow::Result<()> {
        let eval_rows = self.estimator.eval_rows(&step)?;
        match self.children.start(&step, estimate.seconds, eval_rows) {
            Ok(Some(child)) => {
                let expected = self.corrections.expected(&step, estimate.seconds);
                let text = format!("{step}: started, about {}", duration(expected));
                self.out.note(&text);
                self.running.push(Running {
                    step,
                    child,
                    estimate,
                    taken_s: 0.0,
                });
            }
            Ok(None) => {
                let record = Record::load(self.children.recipe, &step)?;
                let mut record = record.context("a finished step has a record")?;
                record.progress = Progress::Done;
                record.save(self.children.recipe, &step)?;
                self.finished.insert(step);
            }
            // What cannot be started is this step's fault alone.
            Err(error) => {
                let text = crate::error::render(&error);
                self.out.note(&format!("{step} failed: {text}"));
                self.outcome.failed.insert(step, text);
            }
        }
        Ok(())
    }

    /// Cells that are neither done nor given up.
    fn open_cells(&self) -> impl Iterator<Item = &PlannedCell> {
        self.cells.iter().filter(|planned| {
            let cell = planned.wanted.cell;
            !self.finished.contains(&Step::Evaluate(cell))
                && !self.outcome.left.contains_key(&cell)
                && !planned
                    .steps
                    .iter()
                    .any(|step| self.outcome.failed.contains_key(step))
        })
    }

    /// The cell's first step that nobody runs and that has all it needs.
    fn ready_step(&self, planned: &PlannedCell) -> Option<Step> {
        let is_running = |step: &Step| self.running.iter().any(|running| running.step == *step);
        let is_open = |step: &Step| planned.steps.contains(step) && !self.finished.contains(step);
        let mut open = planned.steps.iter().filter(|step| is_open(step));
        open.find(|step| !is_running(step) && !step.needs().iter().any(is_open))
            .copied()
    }

    /// Whether the cell no longer fits: beside what is begun, by predictions as corrected so far.
    fn over_budget(&self, planned: &PlannedCell) -> Option<Reason> {
        let budget = self.limits.budget?.as_secs_f64();
        let expected = |step: &Step| {
            let estimate = self.estimator.estimate(step).ok()?;
            let all = self.corrections.expected(step, estimate.seconds);
            let running = self.running.iter().find(|running| running.step == *step);
            Some((all - running.map_or(0.0, |running| running.taken_s)).max(0.0))
        };
        let open_steps = |cells: &mut dyn Iterator<Item = &PlannedCell>| -> BTreeSet<Step> {
            let steps = cells.flat_map(|cell| cell.steps.iter().copied());
            steps.filter(|step| !self.finished.contains(step)).collect()
        };
        let is_begun = |cell: &&PlannedCell| self.begun.contains(&cell.wanted.cell);
        let reserved = open_steps(&mut self.open_cells().filter(is_begun));
        let own = open_steps(&mut std::iter::once(planned));
        let reserved_s: f64 = reserved.iter().filter_map(&expected).sum();
        let needs_s: f64 = own.difference(&reserved).filter_map(expected).sum();
        let left_s = budget - self.started.elapsed().as_secs_f64() - reserved_s;
        (needs_s > left_s).then_some(Reason::Budget { needs_s, left_s })
    }
}
