//! The figures of the original post as grids of cells, and which cells matter first.

use clap::ValueEnum;

use super::cell::{Cell, Constraint, Method, Prompts, Task};
use super::published;

/// A figure of the post.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Figure {
    /// Zero-shot against one retrieved example, by task
    A,
    /// By how examples are found: embedding model and selector
    B,
    /// By number of examples, tuned and untuned
    C,
    /// With and without the constraint that an example is of another database
    D,
    /// The training losses of the two SQL adapters of (a)
    E,
}

impl Figure {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::A, Self::B, Self::C, Self::D, Self::E];

    /// Its letter, which names its files.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::E => "e",
        }
    }

    /// What it shows.
    pub fn title(self) -> &'static str {
        match self {
            Self::A => "Zero-shot and RAG, by task",
            Self::B => "Text-to-SQL, by how the example is found",
            Self::C => "Text-to-SQL, by number of examples",
            Self::D => "Text-to-SQL, where the example may come from",
            Self::E => "Training loss, text-to-SQL",
        }
    }
}

/// A bar, for one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GridBar {
    /// Index of its group.
    pub group: usize,
    /// Index of its series.
    pub series: usize,
    /// What it shows, for whichever seed.
    pub cell: Cell,
    /// What the original experiment got.
    pub published: Option<f64>,
    /// Cells of lower numbers come first.
    importance: u32,
}

/// A figure's groups, series and bars.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// The figure.
    pub figure: Figure,
    /// Below the groups of bars.
    pub groups: Vec<String>,
    /// In the legend.
    pub series: Vec<String>,
    /// How many of the series, from the first, are the untrained model's.
    pub baselines: usize,
    /// The bars.
    pub bars: Vec<GridBar>,
    /// Pairs of bars (indices) whose difference the figure is about.
    pub comparisons: Vec<(usize, usize)>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// Numbers of examples of figure (c).
const EXAMPLES: [usize; 5] = [0, 1, 2, 3, 5];

/// The figure as a grid; `embedder` is what the local embedding model is called, `seed` is the cells'.
pub fn grid(figure: Figure, embedder: &str, seed: u64) -> Grid {
    match figure {
        Figure::A => by_task(seed),
        Figure::B => by_method(embedder, seed),
        Figure::C => by_examples(seed),
        Figure::D => by_constraint(seed),
        Figure::E => by_adapter(seed),
    }
}

/// The two SQL adapters of (a): what is drawn are their losses.
fn by_adapter(seed: u64) -> Grid {
    let mut grid = by_task(seed);
    let is_own = |bar: &GridBar| bar.cell.adapter == Some(bar.cell.prompts);
    grid.bars
        .retain(|bar| bar.cell.task == Task::Sql && is_own(bar));
    Grid {
        figure: Figure::E,
        comparisons: Vec::new(),
        ..grid
    }
}

/// Each task's 2x2 of adapters and prompts, and the untrained model. Each adapter with its own prompts comes first.
fn by_task(seed: u64) -> Grid {
    let (zero_shot, rag) = (Prompts::ZeroShot, Prompts::semantic(1));
    // SQL is what the post is about; the other two tasks follow the constraint and the untuned model.
    let importance = |task| match task {
        Task::Sql => (10, 80),
        Task::Gsm8k => (40, 81),
        Task::Functional => (41, 82),
    };
    let arms = [
        (None, zero_shot, "untrained, zero-shot prompt"),
        (None, rag, "untrained, RAG prompt"),
        (Some(zero_shot), zero_shot, "zero-shot adapter and prompt"),
        (Some(zero_shot), rag, "zero-shot adapter, RAG prompt"),
        (Some(rag), zero_shot, "RAG adapter, zero-shot prompt"),
        (Some(rag), rag, "RAG adapter and prompt, 1 example"),
    ];
    let (zero_shot_arm, rag_arm) = (2, 5);
    let mut bars = Vec::new();
    let mut comparisons = Vec::new();
    for (group, task) in Task::ALL.into_iter().enumerate() {
        comparisons.push((bars.len() + zero_shot_arm, bars.len() + rag_arm));
        for (series, (adapter, prompts, _)) in arms.into_iter().enumerate() {
            let (own, extra) = importance(task);
            bars.push(GridBar {
                group,
                series,
                cell: Cell {
                    task,
                    adapter,
                    prompts,
                    seed,
                },
                published: None,
                importance: if adapter == Some(prompts) { own } else { extra },
            });
        }
    }
    Grid {
        figure: Figure::A,
        groups: Task::ALL.map(|task| task.label().to_owned()).to_vec(),
        series: arms.map(|(_, _, label)| label.to_owned()).to_vec(),
        baselines: 2,
        bars,
        comparisons,
        notes: Vec::new(),
    }
}

/// An adapter for each way to find the one example, asked in the same way.
fn by_method(embedder: &str, seed: u64) -> Grid {
    // Chance first: it says what nearness is worth.
    let methods = [
        (Method::Ada002, "ada-002", 74),
        (Method::Semantic, embedder, 10),
        (Method::Random, "random", 50),
        (Method::Masked, "masked", 70),
        (Method::Bm25, "BM25", 72),
        (Method::Hybrid, "hybrid", 73),
        // The first pick of maximal marginal relevance is the nearest row: the same prompts, so the same cell.
        (Method::Semantic, "MMR", 75),
        (Method::Skeleton, "skeleton", 71),
    ];
    let bars: Vec<GridBar> = methods
        .iter()
        .enumerate()
        .map(|(group, (method, _, importance))| GridBar {
            group,
            series: 0,
            cell: Cell::tuned(Task::Sql, Prompts::by(*method, 1), seed),
            published: None,
            importance: *importance,
        })
        .collect();
    let random = 2;
    Grid {
        figure: Figure::B,
        groups: methods.map(|(_, label, _)| label.to_owned()).to_vec(),
        series: vec!["tuned, 1 example".to_owned()],
        baselines: 0,
        comparisons: [0, 1, 3, 4, 5, 7].map(|method| (random, method)).to_vec(),
        bars,
        notes: vec![format!(
            "MMR picks the same example as {embedder} where there is only one: it is one run."
        )],
    }
}

fn by_examples(seed: u64) -> Grid {
    // The published ones first; they need no training either.
    let untuned = |examples| match examples {
        1 | 5 => 30,
        0 => 61,
        _ => 64,
    };
    let tuned = |examples| match examples {
        0 | 1 => 10,
        5 => 60,
        3 => 62,
        _ => 63,
    };
    let mut bars = Vec::new();
    for (group, examples) in EXAMPLES.into_iter().enumerate() {
        let prompts = Prompts::semantic(examples);
        let cells = [
            (Cell::untrained(Task::Sql, prompts, seed), untuned(examples)),
            (Cell::tuned(Task::Sql, prompts, seed), tuned(examples)),
        ];
        for (series, (cell, importance)) in cells.into_iter().enumerate() {
            bars.push(GridBar {
                group,
                series,
                published: published::untuned(&cell),
                cell,
                importance,
            });
        }
    }
    // Each number of examples with the next.
    let comparisons = (0..bars.len() - 2).map(|bar| (bar, bar + 2)).collect();
    let label = |examples: usize| match examples {
        1 => "1 example".to_owned(),
        n => format!("{n} examples"),
    };
    Grid {
        figure: Figure::C,
        groups: EXAMPLES.map(label).to_vec(),
        series: vec!["untuned".to_owned(), "tuned".to_owned()],
        baselines: 1,
        bars,
        comparisons,
        notes: Vec::new(),
    }
}

fn by_constraint(seed: u64) -> Grid {
    let bar = |(group, (constraint, importance))| GridBar {
        group,
        series: 0,
        cell: Cell::tuned(
            Task::Sql,
            Prompts::Retrieved {
                examples: 1,
                method: Method::Semantic,
                constraint,
            },
            seed,
        ),
        published: Some(published::constraint(constraint)),
        importance,
    };
    let constraints = [(Constraint::Lifted, 20), (Constraint::AsConfigured, 10)];
    Grid {
        figure: Figure::D,
        groups: vec![
            "same database allowed".to_owned(),
            "only other databases".to_owned(),
        ],
        series: vec!["tuned, 1 example".to_owned()],
        baselines: 0,
        bars: constraints.into_iter().enumerate().map(bar).collect(),
        comparisons: vec![(0, 1)],
        notes: Vec::new(),
    }
}

/// A cell and the figures that show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The cell.
    pub cell: Cell,
    /// In the order of their letters.
    pub figures: Vec<Figure>,
}

/// The cells of `figures` for `tasks`, each once, the most important first: all of the first seed, then all of the
/// second. A cell that no seed can change has the first one.
pub fn cells(figures: &[Figure], tasks: &[Task], seeds: &[u64]) -> Vec<Wanted> {
    let mut bars: Vec<(Figure, GridBar)> = Figure::ALL
        .into_iter()
        .filter(|figure| figures.contains(figure))
        .flat_map(|figure| {
            let grid = grid(figure, "", 0);
            grid.bars.into_iter().map(move |bar| (figure, bar))
        })
        .filter(|(_, bar)| tasks.contains(&bar.cell.task))
        .collect();
    bars.sort_by_key(|(_, bar)| bar.importance);
    let mut wanted: Vec<Wanted> = Vec::new();
    for &seed in seeds {
        for (figure, bar) in &bars {
            let cell = with_seed(&bar.cell, seed, seeds);
            match wanted.iter_mut().find(|wanted| wanted.cell == cell) {
                Some(wanted) if wanted.figures.contains(figure) => {}
                Some(wanted) => wanted.figures.push(*figure),
                None => wanted.push(Wanted {
                    cell,
                    figures: vec![*figure],
                }),
            }
        }
    }
    wanted.iter_mut().for_each(|wanted| wanted.figures.sort());
    wanted
}

/// The cell for one of several seeds; the first where it does not matter.
pub fn with_seed(cell: &Cell, seed: u64, seeds: &[u64]) -> Cell {
    let seed = if cell.depends_on_seed() {
        seed
    } else {
        seeds[0]
    };
    Cell { seed, ..*cell }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::reproduce::cell::Step;

    fn names(figures: &[Figure], tasks: &[Task], seeds: &[u64]) -> Vec<String> {
        let cells = cells(figures, tasks, seeds);
        cells.iter().map(|wanted| wanted.cell.to_string()).collect()
    }

    #[test]
    fn what_the_post_is_about_comes_first() {
        let names = names(&Figure::ALL, &Task::ALL, &[42]);
        assert_eq!(
            names[..9],
            [
                "sql-zero_shot-seed42",
                "sql-rag1-seed42",
                "sql-rag1_unconstrained-seed42",
                "sql-untrained-rag1-seed42",
                "sql-untrained-rag5-seed42",
                "gsm8k-zero_shot-seed42",
                "gsm8k-rag1-seed42",
                "functional-zero_shot-seed42",
                "functional-rag1-seed42",
            ]
        );
    }

    #[test]
    fn a_cell_of_several_figures_is_run_once() {
        let cells = cells(&Figure::ALL, &Task::ALL, &[42]);
        let distinct: HashSet<Cell> = cells.iter().map(|wanted| wanted.cell).collect();
        assert_eq!(distinct.len(), cells.len());
        assert_eq!(
            cells[1].figures,
            Figure::ALL,
            "one SQL example is in all figures"
        );
    }

    #[test]
    fn settings_that_are_the_same_are_trained_once() {
        let cells = cells(&Figure::ALL, &Task::ALL, &[42]);
        let trainings: HashSet<Step> = cells
            .iter()
            .flat_map(|wanted| Step::Evaluate(wanted.cell).with_needs())
            .filter(|step| matches!(step, Step::Train { .. }))
            .collect();
        // 2 a task, 6 methods beside the one of (a), 2, 3 and 5 examples, no constraint.
        assert_eq!(trainings.len(), 6 + 6 + 3 + 1);
    }

    #[test]
    fn further_seeds_come_after_the_first_and_leave_out_what_they_cannot_change() {
        let names = names(&[Figure::C], &[Task::Sql], &[1, 2]);
        let untrained = |name: &&String| name.contains("untrained");
        assert_eq!(names.len(), 5 + 5 + 5);
        assert!(names[..10].iter().all(|name| name.ends_with("seed1")));
        assert!(!names[10..].iter().any(|name| untrained(&name)));
    }

    #[test]
    fn every_bar_has_its_place() {
        for figure in Figure::ALL {
            let grid = grid(figure, "MiniLM", 42);
            let places: HashSet<_> = grid
                .bars
                .iter()
                .map(|bar| (bar.group, bar.series))
                .collect();
            assert_eq!(places.len(), grid.bars.len(), "{figure:?}");
            for bar in &grid.bars {
                assert!(bar.group < grid.groups.len() && bar.series < grid.series.len());
            }
            for (first, second) in grid.comparisons {
                assert!(first < grid.bars.len() && second < grid.bars.len());
            }
        }
    }

    #[test]
    fn published_figures_stand_where_they_belong() {
        let published = |figure, name: &str| {
            let bars = grid(figure, "", 42).bars;
            let bar = bars.iter().find(|bar| bar.cell.to_string() == name);
            bar.unwrap().published
        };
        assert_eq!(
            published(Figure::D, "sql-rag1_unconstrained-seed42"),
            Some(0.776)
        );
        assert_eq!(published(Figure::D, "sql-rag1-seed42"), Some(0.79));
        assert_eq!(
            published(Figure::C, "sql-untrained-rag1-seed42"),
            Some(0.634)
        );
        assert_eq!(
            published(Figure::C, "sql-untrained-rag5-seed42"),
            Some(0.673)
        );
        assert_eq!(published(Figure::C, "sql-rag1-seed42"), None);
    }
}
