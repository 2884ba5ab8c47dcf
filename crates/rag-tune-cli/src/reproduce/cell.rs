//! What is run: cells, the adapters that they need, and the prompts of both.

use std::fmt;

use clap::ValueEnum;
use rag_tune_augment::Selector;

/// A task of the original experiment; the order is that of the charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Task {
    /// Questions to SQL queries.
    Sql,
    /// Grade-school mathematics.
    Gsm8k,
    /// Sentences to functions (ViGGO).
    Functional,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sql, Self::Gsm8k, Self::Functional];

    /// As the config spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Gsm8k => "gsm8k",
            Self::Functional => "functional",
        }
    }

    /// As charts spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sql => "text-to-SQL",
            Self::Gsm8k => "GSM8K",
            Self::Functional => "functional",
        }
    }
}

/// How examples are found. The embedder of those that need one is the config's, but for [`Method::Ada002`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Nearest question by text-embedding-ada-002, as in the original experiment.
    Ada002,
    /// Nearest question by the config's embedder.
    Semantic,
    /// Drawn by the seed.
    Random,
    /// Nearest question after names and values were masked.
    Masked,
    /// Shared words.
    Bm25,
    /// `Semantic` and `Bm25` fused.
    Hybrid,
    /// Likest skeleton of the answer, by drafts of the zero-shot adapter.
    Skeleton,
}

impl Method {
    /// The selector that the config names.
    pub fn selector(self) -> Selector {
        match self {
            Self::Ada002 | Self::Semantic => Selector::Semantic,
            Self::Random => Selector::Random,
            Self::Masked => Selector::Masked,
            Self::Bm25 => Selector::Bm25,
            Self::Hybrid => Selector::Hybrid,
            Self::Skeleton => Selector::Skeleton,
        }
    }

    /// Whether other seeds give other examples: by the draw, or because the drafts are a trained adapter's.
    fn depends_on_seed(self) -> bool {
        matches!(self, Self::Random | Self::Skeleton)
    }
}

/// Which rows may become examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constraint {
    /// As the task's config says: for SQL never a row of the same database.
    AsConfigured,
    /// Any row but the row itself.
    Lifted,
}

/// How prompts are made. Settings that make the same prompts are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prompts {
    /// Without examples.
    ZeroShot,
    /// With retrieved ones.
    Retrieved {
        /// How many, at least 1.
        examples: usize,
        /// Which.
        method: Method,
        /// Out of which rows.
        constraint: Constraint,
    },
}

impl Prompts {
    /// The nearest examples by the config's embedder, under the config's constraint; none if `examples` is 0.
    pub fn semantic(examples: usize) -> Self {
        Self::by(Method::Semantic, examples)
    }

    /// Examples by `method` under the config's constraint; zero-shot if `examples` is 0.
    pub fn by(method: Method, examples: usize) -> Self {
        match examples {
            0 => Self::ZeroShot,
            _ => Self::Retrieved {
                examples,
                method,
                constraint: Constraint::AsConfigured,
            },
        }
    }

    /// How many examples there are in a prompt.
    pub fn examples(self) -> usize {
        match self {
            Self::ZeroShot => 0,
            Self::Retrieved { examples, .. } => examples,
        }
    }

    fn depends_on_seed(self) -> bool {
        matches!(self, Self::Retrieved { method, .. } if method.depends_on_seed())
    }
}

impl fmt::Display for Prompts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Retrieved {
            examples,
            method,
            constraint,
        } = self
        else {
            return f.write_str("zero_shot");
        };
        write!(f, "rag{examples}")?;
        match method {
            Method::Semantic => {}
            Method::Ada002 => f.write_str("_ada002")?,
            other => write!(f, "_{}", other.selector().name())?,
        }
        match constraint {
            Constraint::AsConfigured => Ok(()),
            Constraint::Lifted => f.write_str("_unconstrained"),
        }
    }
}

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// What is asked.
    pub task: Task,
    /// The prompts that the adapter was trained with; none for the untrained model.
    pub adapter: Option<Prompts>,
    /// The prompts that it is asked with.
    pub prompts: Prompts,
    /// Seed of training and of random examples.
    pub seed: u64,
}

impl Cell {
    /// An adapter asked as it was trained.
    pub fn tuned(task: Task, prompts: Prompts, seed: u64) -> Self {
        Self {
            task,
            adapter: Some(prompts),
            prompts,
            seed,
        }
    }

    /// The untrained model.
    pub fn untrained(task: Task, prompts: Prompts, seed: u64) -> Self {
        Self {
            task,
            adapter: None,
            prompts,
            seed,
        }
    }

    /// Whether another seed could give another result: answers are greedy, so only training and chance count.
    pub fn depends_on_seed(&self) -> bool {
        self.adapter.is_some() || self.prompts.depends_on_seed()
    }

    /// The folder of its run below `runs`, shared by all evaluations of an adapter.
    pub fn run_name(&self) -> String {
        let Self { task, seed, .. } = self;
        let task = task.name();
        match self.adapter {
            Some(adapter) => format!("{task}-{adapter}-seed{seed}"),
            None => format!("{task}-untrained-seed{seed}"),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            task,
            adapter,
            prompts,
            seed,
        } = self;
        let task = task.name();
        match adapter {
            Some(adapter) if adapter == prompts => write!(f, "{task}-{adapter}-seed{seed}"),
            Some(adapter) => write!(f, "{task}-{adapter}-asked_{prompts}-seed{seed}"),
            None => write!(f, "{task}-untrained-{prompts}-seed{seed}"),
        }
    }
}

/// A program run. Equal steps are done once, whatever needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Makes prompts.
    Augment {
        /// Of this task.
        task: Task,
        /// Of this kind.
        prompts: Prompts,
        /// Only where the prompts depend on it.
        seed: Option<u64>,
    },
    /// Trains an adapter.
    Train {
        /// On this task.
        task: Task,
        /// With these prompts.
        prompts: Prompts,
        /// And this seed.
        seed: u64,
    },
    /// Answers and scores.
    Evaluate(Cell),
}

impl Step {
    /// The step that makes `prompts`.
    pub fn augment(task: Task, prompts: Prompts, seed: u64) -> Self {
        let seed = prompts.depends_on_seed().then_some(seed);
        Self::Augment {
            task,
            prompts,
            seed,
        }
    }

    /// What must be done before, directly.
    pub fn needs(&self) -> Vec<Self> {
        match *self {
            Self::Augment {
                task,
                prompts:
                    Prompts::Retrieved {
                        method: Method::Skeleton,
                        ..
                    },
                seed: Some(seed),
            } => vec![Self::Evaluate(drafts_cell(task, seed))],
            Self::Augment { .. } => Vec::new(),
            Self::Train {
                task,
                prompts,
                seed,
            } => vec![Self::augment(task, prompts, seed)],
            Self::Evaluate(cell) => {
                let asked = Self::augment(cell.task, cell.prompts, cell.seed);
                let train = cell.adapter.map(|prompts| Self::Train {
                    task: cell.task,
                    prompts,
                    seed: cell.seed,
                });
                [asked].into_iter().chain(train).collect()
            }
        }
    }

    /// The step after everything that it needs, each once, in an order that works.
    pub fn with_needs(&self) -> Vec<Self> {
        let mut steps = Vec::new();
        for need in self.needs() {
            for step in need.with_needs() {
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        steps.push(*self);
        steps
    }

    /// The task that it belongs to.
    pub fn task(&self) -> Task {
        match self {
            Self::Augment { task, .. } | Self::Train { task, .. } => *task,
            Self::Evaluate(cell) => cell.task,
        }
    }

    /// The prompts that it makes, learns from or asks with.
    pub fn prompts(&self) -> Prompts {
        match self {
            Self::Augment { prompts, .. } | Self::Train { prompts, .. } => *prompts,
            Self::Evaluate(cell) => cell.prompts,
        }
    }

    /// The seed, where it matters.
    pub fn seed(&self) -> Option<u64> {
        match self {
            Self::Augment { seed, .. } => *seed,
            Self::Train { seed, .. } => Some(*seed),
            Self::Evaluate(cell) => Some(cell.seed),
        }
    }
}

/// The evaluation whose answers are the drafts of `skeleton`: the zero-shot adapter's.
pub fn drafts_cell(task: Task, seed: u64) -> Cell {
    Cell::tuned(task, Prompts::ZeroShot, seed)
}

/// Names files: configs, logs, records.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Augment {
                task,
                prompts,
                seed,
            } => {
                write!(f, "augment-{}-{prompts}", task.name())?;
                seed.map_or(Ok(()), |seed| write!(f, "-seed{seed}"))
            }
            Self::Train {
                task,
                prompts,
                seed,
            } => write!(f, "train-{}-{prompts}-seed{seed}", task.name()),
            Self::Evaluate(cell) => write!(f, "eval-{cell}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skeleton_selector_waits_for_the_zero_shot_answers() {
        let prompts = Prompts::by(Method::Skeleton, 1);
        let steps = Step::Evaluate(Cell::tuned(Task::Sql, prompts, 7)).with_needs();
        let names: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(
            names,
            [
                "augment-sql-zero_shot",
                "train-sql-zero_shot-seed7",
                "eval-sql-zero_shot-seed7",
                "augment-sql-rag1_skeleton-seed7",
                "train-sql-rag1_skeleton-seed7",
                "eval-sql-rag1_skeleton-seed7",
            ]
        );
    }

    #[test]
    fn cells_of_one_adapter_share_its_training() {
        let own = Cell::tuned(Task::Sql, Prompts::semantic(1), 1);
        let cross = Cell {
            prompts: Prompts::ZeroShot,
            ..own
        };
        assert_eq!(own.run_name(), cross.run_name());
        let train = |cell| Step::Evaluate(cell).needs()[1];
        assert_eq!(train(own), train(cross));
        assert_eq!(cross.to_string(), "sql-rag1-asked_zero_shot-seed1");
    }

    #[test]
    fn no_examples_are_the_same_however_they_would_be_found() {
        assert_eq!(Prompts::by(Method::Random, 0), Prompts::by(Method::Bm25, 0));
    }

    #[test]
    fn prompts_without_chance_are_made_once_for_all_seeds() {
        let of = |method, seed| Step::augment(Task::Sql, Prompts::by(method, 1), seed);
        assert_eq!(of(Method::Semantic, 1), of(Method::Semantic, 2));
        assert_ne!(of(Method::Random, 1), of(Method::Random, 2));
    }
}
