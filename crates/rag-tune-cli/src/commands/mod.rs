//! The commands, one file each: resolve the arguments, call the libraries, print.

mod ask;
mod augment;
mod bench;
mod chart;
mod compare;
mod config;
mod debug_logits;
mod demo_data;
mod eval;
mod export;
mod inspect;
mod merge;
mod perplexity;
mod plan;
mod quantize;
mod reproduce;
mod score;
mod sql_worker;
mod stability;
mod train;

pub use export::is_same_place;
pub use score::percent;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rag_tune_augment::Hub;

pub use self::sql_worker::sandbox;
use crate::config::{ConfigError, Environment, Override, ResolvedConfig};
use crate::output::Output;

/// What `rag-tune` can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Augment(augment::AugmentArgs),
    Train(train::TrainArgs),
    Eval(eval::EvalArgs),
    Ask(Box<ask::AskArgs>),
    Export(Box<export::ExportArgs>),
    Merge(merge::MergeArgs),
    Quantize(quantize::QuantizeArgs),
    Score(score::ScoreArgs),
    Compare(compare::CompareArgs),
    Chart(chart::ChartArgs),
    Config(config::ConfigCommandArgs),
    Inspect(inspect::InspectArgs),
    Perplexity(perplexity::PerplexityArgs),
    Plan(plan::PlanArgs),
    Reproduce(Box<reproduce::ReproduceArgs>),
    Bench(Box<bench::BenchArgs>),
    Stability(stability::StabilityArgs),
    DemoData(demo_data::DemoDataArgs),
    #[command(hide = true)]
    DebugLogits(debug_logits::DebugLogitsArgs),
    #[command(hide = true)]
    SqlWorker(sql_worker::SqlWorkerArgs),
}

impl Command {
    /// Does it.
    pub fn run(&self, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Augment(args) => augment::augment(args, out),
            Self::Train(args) => train::train(args, out),
            Self::Eval(args) => eval::eval(args, out),
            Self::Ask(args) => ask::ask(args, out),
            Self::Export(args) => export::export(args, out),
            Self::Merge(args) => merge::merge(args, out),
            Self::Quantize(args) => quantize::quantize(args, out),
            Self::Score(args) => score::score(args, out),
            Self::Compare(args) => compare::compare(args, out),
            Self::Chart(args) => chart::chart(args, out),
            Self::Config(args) => config::config(args, out),
            Self::Inspect(args) => inspect::inspect(args, out),
            Self::Perplexity(args) => perplexity::perplexity(args, out),
            Self::Plan(args) => plan::plan(args, out),
            Self::Reproduce(args) => reproduce::reproduce(args, out),
            Self::Bench(args) => bench::bench(args, out),
            Self::Stability(args) => stability::stability(args, out),
            Self::DemoData(args) => demo_data::demo_data(args, out),
            Self::DebugLogits(args) => debug_logits::debug_logits(args, out),
            Self::SqlWorker(args) => sql_worker::sql_worker(args),
        }
    }
}

/// A config file and what is put over it.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The run's TOML file; complete examples are in configs/
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

impl ConfigArgs {
    /// The checked config; `flags` are values from flags of their own, which go before --set.
    fn load(&self, flags: &[Override]) -> Result<ResolvedConfig, ConfigError> {
        self.overrides.apply_to(&self.config, flags)
    }
}

/// Values put over the config's.
#[derive(Debug, Args)]
struct Overrides {
    /// Put a value over the config's; may be given several times, and with no value puts the default back
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Overrides {
    fn apply_to(&self, config: &Path, flags: &[Override]) -> Result<ResolvedConfig, ConfigError> {
        let set = self.set.iter().map(|text| Override::set(text));
        let all: Vec<Override> = set.chain(flags.iter().cloned()).collect();
        ResolvedConfig::load(config, &all, &Environment::from_process())
    }
}

/// Where hub ids are looked up.
#[derive(Debug, Args)]
pub struct HubArgs {
    /// Folder that stands for the hub, with models/OWNER/NAME and datasets/OWNER/NAME [also: RAG_TUNE_MIRROR]
    #[arg(long, value_name = "DIR")]
    mirror: Option<PathBuf>,
}

impl HubArgs {
    /// The hub, a mirror, or both.
    pub fn hub(&self) -> Hub {
        Hub::from_env(self.mirror.clone())
    }
}
