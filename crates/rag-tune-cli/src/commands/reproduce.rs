//! `rag-tune reproduce`: the figures of the original post by one command.

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
use crate::files;
use crate::output::Output;
use crate::reproduce::cell::{Prompts, Step, Task};
use crate::reproduce::children::Children;
use crate::reproduce::corrections::Corrections;
use crate::reproduce::estimator::Estimator;
use crate::reproduce::execute::{Execution, Limits, Outcome};
use crate::reproduce::facts::Facts;
use crate::reproduce::figures::{Figure, cells};
use crate::reproduce::folder::Folder;
use crate::reproduce::plan::{Plan, parse_duration};
use crate::reproduce::recipe::{Data, Recipe, write_demo_data};
use crate::reproduce::results::{Call, Results};
use crate::reproduce::{charts, markdown};

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
            let step = Step::augment(*task, Prompts::ZeroShot, 0);
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
    files::lock(&folder.lock())?.ok_or_else(|| {
        let message = format!("`{}` is in use", folder.path().display());
        let hint = "another `rag-tune reproduce`, or a step that outlived one, works there: let it end, or stop it";
        InputError::new(message, hint).into()
    })
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
