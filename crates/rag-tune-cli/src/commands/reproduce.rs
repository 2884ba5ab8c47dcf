//! `rag-tune reproduce`: the figures of the original post by one command.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rag_tune_train::memory::available_bytes;

use super::{HubArgs, Overrides};
use crate::config::Override;
use crate::error::InputError;
use crate::forecast::{duration, gib};
use crate::output::{Output, table};
use crate::reproduce::cell::{Step, Task};
use crate::reproduce::children::Children;
use crate::reproduce::corrections::Corrections;
use crate::reproduce::estimator::{Estimate, Estimator};
use crate::reproduce::execute::{Execution, Limits, Outcome};
use crate::reproduce::figures::{Figure, Wanted, cells};
use crate::reproduce::folder::Folder;
use crate::reproduce::plan::{Knowledge, Plan, PlannedCell, Verdict, parse_duration};
use crate::reproduce::recipe::{Data, Recipe, write_demo_data};
use crate::reproduce::records::{self, Progress, Record};
use crate::reproduce::results::{Call, Results};
use crate::reproduce::{charts, markdown};

/// Changed settings that are named where a step is done again.
const SHOWN_CHANGES: usize = 3;

/// Repeat the figures of the original post
///
/// Trains and scores a grid of cells, the most important first, and writes charts, results.md and results.json. What is
/// done stays done: the same command goes on where it was stopped, and more figures or seeds add to what is there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune reproduce --out grid --dry-run                   # the plan, and what it would take
  rag-tune reproduce --out grid --figures a,d --budget 12h
  rag-tune reproduce --out demo --demo --tasks sql          # a small model on synthetic data")]
pub struct ReproduceArgs {
    /// Folder of the grid: configs, runs, logs, charts, results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Base model of all cells; stands for --set model.base
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// Tasks of figure a; the other figures are text-to-SQL
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Task::ALL)]
    tasks: Vec<Task>,
    /// Which figures
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Figure::ALL)]
    figures: Vec<Figure>,
    /// Seeds; charts show the mean over them
    #[arg(long, value_delimiter = ',', default_value = "42")]
    seeds: Vec<u64>,
    /// Time for this call, such as 2h or 1h30m: cells that do not fit by prediction are left out
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    budget: Option<Duration>,
    /// Print the plan with predicted times and memory, and train nothing
    #[arg(long)]
    dry_run: bool,
    /// Steps at a time [default: as many as fit into memory, at most half of the cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// A 135M model on synthetic data, which is written below --out
    #[arg(long)]
    demo: bool,
    /// Folder of DB_ID/DB_ID.sqlite; stands for --set eval.databases [also: RAG_TUNE_DATABASES]
    #[arg(long, value_name = "DIR")]
    databases: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn reproduce(args: &ReproduceArgs, out: &mut Output) -> anyhow::Result<()> {
    let started = Instant::now();
    let recipe = args.recipe()?;
    let lock = lock(&recipe.folder)?;
    let wanted = cells(&args.figures, &args.tasks, &args.seeds);
    if wanted.is_empty() {
        let hint = "figures b to e are text-to-SQL: add sql to --tasks, or a to --figures";
        return Err(InputError::new("no cell belongs to these figures and tasks", hint).into());
    }
    let demo_errors = args.prepare_demo(&recipe, out)?;
    let hub = args.hub.hub();
    let estimator = Estimator::new(&recipe, &hub, out);
    let mut corrections = Corrections::default();
    let facts = Facts::gather(
        &recipe,
        &estimator,
        &wanted,
        &demo_errors,
        &mut corrections,
        out,
    )?;
    // Measuring has taken its part.
    let budget = args
        .budget
        .map(|budget| budget.saturating_sub(started.elapsed()));
    let plan = Plan::new(wanted, &facts, budget);
    let limits = args.limits(&plan, &facts, budget);
    if args.dry_run {
        return Ok(out.data(&facts.shown(&plan, &limits))?);
    }
    for note in facts.notes(&plan) {
        out.note(&note);
    }
    let outcome = if plan.steps().is_empty() {
        out.note("nothing to run");
        Outcome::default()
    } else {
        let children = Children {
            recipe: &recipe,
            mirror: args.hub.mirror.clone(),
            threads: (cores() / limits.jobs).max(1),
            lock,
        };
        let stop = stop_flag()?;
        Execution::new(&plan, &children, &estimator, &mut corrections, limits, out).run(&stop)?
    };
    let results = Results::collect(Call {
        recipe: &recipe,
        plan: &plan,
        outcome: &outcome,
        seeds: &args.seeds,
    })?;
    results.save(&recipe)?;
    markdown::save(&results, &recipe)?;
    let mut files = charts::draw(&results, &recipe)?;
    files.push(recipe.folder.path().join("results.md"));
    for file in files {
        out.data(&format!("{}\n", file.display()))?;
    }
    verdict(&outcome)
}

/// Stopped or failed is not done.
fn verdict(outcome: &Outcome) -> anyhow::Result<()> {
    if outcome.stopped {
        let hint = "the same command goes on where this one stopped";
        return Err(InputError::new("stopped before the grid was done", hint).into());
    }
    let failed: Vec<String> = outcome.failed.keys().map(Step::to_string).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} of the steps failed: {}",
        failed.len(),
        failed.join(", ")
    );
    let hint =
        "their logs are in DIR/logs; the same command tries them again and keeps what is done";
    Err(InputError::new(message, hint).into())
}

impl ReproduceArgs {
    fn recipe(&self) -> anyhow::Result<Recipe> {
        let data = if self.demo { Data::Demo } else { Data::Real };
        let mut overrides = Vec::new();
        if let Some(model) = &self.model {
            overrides.push(Override::value("--model", "model.base", model.as_str()));
        }
        if let Some(databases) = &self.databases {
            overrides.push(Override::path("--databases", "eval.databases", databases));
        }
        overrides.extend(self.overrides.set.iter().map(|text| Override::set(text)));
        let recipe = Recipe::new(Folder::new(&self.out), data, overrides)?;
        // A slip in --set should show at once, and once.
        for task in &self.tasks {
            let step = Step::augment(*task, crate::reproduce::cell::Prompts::ZeroShot, 0);
            recipe.resolve(&step)?;
        }
        Ok(recipe)
    }

    /// Writes the synthetic data that are missing; tasks for which that fails, and why.
    fn prepare_demo(
        &self,
        recipe: &Recipe,
        out: &Output,
    ) -> anyhow::Result<BTreeMap<Task, String>> {
        let mut errors = BTreeMap::new();
        if !self.demo {
            return Ok(errors);
        }
        for &task in &self.tasks {
            let folder = recipe.folder.demo_data(task);
            let is_there = folder.exists();
            match write_demo_data(recipe, task) {
                Ok(()) if is_there => {}
                Ok(()) => out.note(&format!("wrote synthetic data into {}", folder.display())),
                Err(error) => drop(errors.insert(task, format!("{error:#}"))),
            }
        }
        Ok(errors)
    }

    fn limits(&self, plan: &Plan, facts: &Facts<'_>, budget: Option<Duration>) -> Limits {
        let bytes = available_bytes().unwrap_or(usize::MAX) / 10 * 9;
        let steps = plan.steps();
        let largest = steps.iter().map(|step| facts.estimate(step).bytes).max();
        let fitting = bytes / largest.unwrap_or(0).max(1);
        let jobs = self.jobs.map_or_else(
            || fitting.min(cores() / 2).min(steps.len()).max(1),
            usize::from,
        );
        Limits {
            jobs,
            bytes,
            budget,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps a second call out of the folder, for as long as this one and the steps that it started live.
fn lock(folder: &Folder) -> anyhow::Result<File> {
    let path = folder.lock();
    let open = || -> std::io::Result<File> {
        std::fs::create_dir_all(path.parent().expect("the lock lies in a folder"))?;
        File::options().create(true).append(true).open(&path)
    };
    let file = open().with_context(|| format!("cannot write `{}`", path.display()))?;
    if file.try_lock().is_err() {
        let message = format!("`{}` is in use", folder.path().display());
        let hint = "another `rag-tune reproduce`, or a step that outlived one, works there: let it end, or stop it";
        return Err(InputError::new(message, hint).into());
    }
    Ok(file)
}

/// Set by Ctrl-C and its like.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone()).context("cannot listen for signals")?;
    }
    Ok(flag)
}

/// What is known of all steps of the wanted cells.
struct Facts<'a> {
    recipe: &'a Recipe,
    done: BTreeMap<Step, bool>,
    estimates: BTreeMap<Step, Result<Estimate, String>>,
    demo_errors: &'a BTreeMap<Task, String>,
    corrections: RefCell<Corrections>,
}

impl<'a> Facts<'a> {
    /// Looks at records, and predicts what is not done.
    fn gather(
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
            corrections: RefCell::new(corrections.clone()),
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
    fn estimate(&self, step: &Step) -> Estimate {
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
    fn notes(&self, plan: &Plan) -> Vec<String> {
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
    fn shown(&self, plan: &Plan, limits: &Limits) -> String {
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
        self.corrections.borrow().expected(step, seconds)
    }
}
