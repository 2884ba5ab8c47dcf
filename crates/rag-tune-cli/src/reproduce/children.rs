//! Each step is a run of this program: its arguments, its config file, what must be put in order before it, its log.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rag_tune_eval::sql::DATABASES_VARIABLE;
use rag_tune_eval::{Answer, read_answers};
use serde_json::json;

use super::cell::{Method, Prompts, Step, drafts_cell};
use super::recipe::Recipe;
use super::records::{self, Progress, Record};
use crate::config::Docs;
use crate::files::write_atomically;

/// Lines of a log that are shown where a step failed.
const TAIL: usize = 6;

/// Starts steps.
#[derive(Debug)]
pub struct Children<'a> {
    /// Configs and folders.
    pub recipe: &'a Recipe,
    /// `--mirror`.
    pub mirror: Option<PathBuf>,
    /// Threads of each.
    pub threads: usize,
    /// The lock of the folder. Each child holds it too (as its stdin, which it does not read): a child that outlives
    /// this process still keeps others out.
    pub lock: File,
}

impl Children<'_> {
    /// Writes the step's config and record, and starts it.
    ///
    /// Returns nothing where the step turned out to be done: it was killed between its end and its record.
    ///
    /// # Errors
    /// When a file cannot be written or the program cannot be started.
    pub fn start(
        &self,
        step: &Step,
        predicted_s: f64,
        eval_rows: usize,
    ) -> anyhow::Result<Option<Child>> {
        let config = self.recipe.identity(step)?;
        let before = Record::load(self.recipe, step)?;
        let is_same = before
            .as_ref()
            .is_some_and(|record| record.config == config);
        let run = self.recipe.folder.training(step);
        if let Step::Train { .. } = step {
            if is_same && run.is_finished() && before.as_ref().is_some_and(was_begun) {
                return Ok(None);
            }
            if !records::is_resumable(self.recipe, step)? {
                // Before the record, so that what it names is never another config's.
                run.clear()?;
            }
        }
        let taken_s = before
            .filter(|_| is_same)
            .map_or(0.0, |record| record.taken_s);
        let record = Record {
            progress: Progress::Begun,
            config,
            predicted_s,
            taken_s,
        };
        record.save(self.recipe, step)?;
        self.write_drafts(step, eval_rows)?;
        self.write_config(step)?;
        let mut command = self.command(step)?;
        let child = command.spawn().context("cannot start this program")?;
        Ok(Some(child))
    }

    /// The last lines of a step's log.
    pub fn log_tail(&self, step: &Step) -> String {
        let text = std::fs::read(self.recipe.folder.log(step)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    fn command(&self, step: &Step) -> anyhow::Result<Command> {
        let path = self.recipe.folder.log(step);
        let log = || -> std::io::Result<File> {
            std::fs::create_dir_all(path.parent().expect("logs lie in a folder"))?;
            let mut log = File::create(&path)?;
            writeln!(log, "$ {}", self.shown(step))?;
            Ok(log)
        };
        let log = log().with_context(|| format!("cannot write `{}`", path.display()))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command
            .args(self.arguments(step)?)
            // The config has the folder that was resolved; the variable would go before it.
            .env_remove(DATABASES_VARIABLE)
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            // Ctrl-C is for the grid, which then stops its steps.
            .process_group(0)
            .stdin(Stdio::from(self.lock.try_clone()?))
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log));
        Ok(command)
    }

    fn arguments(&self, step: &Step) -> anyhow::Result<Vec<String>> {
        let mut arguments = self.lasting_arguments(step);
        if records::is_resumable(self.recipe, step)? {
            arguments.push("--resume".to_owned());
        }
        Ok(arguments)
    }

    /// The arguments of a first run, which also repeat the step by hand.
    fn lasting_arguments(&self, step: &Step) -> Vec<String> {
        let folder = &self.recipe.folder;
        let text = |path: PathBuf| path.display().to_string();
        let config = text(folder.config(step));
        let augmented = |step: &Step| text(folder.output(&prompts_step(step)));
        let mut arguments: Vec<String> = Vec::new();
        let mut push = |more: &[&str]| arguments.extend(more.iter().map(|&text| text.to_owned()));
        match step {
            Step::Augment { .. } => push(&["augment", &config, "--out", &augmented(step)]),
            Step::Train { .. } => push(&["train", &config, "--augmented", &augmented(step)]),
            Step::Evaluate(cell) => {
                push(&["eval", "--config", &config]);
                if cell.adapter.is_some() {
                    push(&["--adapter", &text(folder.output(step))]);
                }
                push(&["--name", &cell.prompts.to_string()]);
                push(&["--augmented", &augmented(step)]);
            }
        }
        if let Some(mirror) = &self.mirror {
            push(&["--mirror", &mirror.display().to_string()]);
        }
        arguments
    }

    /// The command as a person would type it.
    fn shown(&self, step: &Step) -> String {
        let arguments = self.lasting_arguments(step);
        let quoted = arguments.iter().map(|argument| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
            match argument.chars().all(is_plain) {
                true => argument.clone(),
                false => format!("'{}'", argument.replace('\'', r"'\''")),
            }
        });
        format!("rag-tune {}", quoted.collect::<Vec<_>>().join(" "))
    }

    fn write_config(&self, step: &Step) -> anyhow::Result<()> {
        let resolved = self.recipe.resolve(step)?;
        let text = format!(
            "# {step}: written by `rag-tune reproduce`. By hand, with {DATABASES_VARIABLE} unset:\n#   {}\n\n{}",
            self.shown(step),
            resolved.to_toml(Docs::Hidden)
        );
        write_atomically(&self.recipe.folder.config(step), &text)
    }

    /// The zero-shot adapter's answers, a line for each row of the split: rows beyond `eval.limit` were never answered
    /// and are never scored, so their drafts are empty.
    fn write_drafts(&self, step: &Step, eval_rows: usize) -> anyhow::Result<()> {
        let (
            Step::Augment { .. },
            Prompts::Retrieved {
                method: Method::Skeleton,
                ..
            },
            Some(seed),
        ) = (step, step.prompts(), step.seed())
        else {
            return Ok(());
        };
        let cell = drafts_cell(step.task(), seed);
        let answers = self
            .recipe
            .folder
            .evaluation(&cell)
            .join("predictions.jsonl");
        let answers: Vec<Answer> = read_answers(&answers).context("cannot read the drafts")?;
        let mut drafts = vec![String::new(); eval_rows.max(answers.len())];
        for answer in answers {
            if let Some(draft) = drafts.get_mut(answer.score.index) {
                *draft = answer.prediction;
            }
        }
        let lines: String = drafts
            .iter()
            .map(|draft| format!("{}\n", json!({ "prediction": draft })))
            .collect();
        write_atomically(&self.recipe.folder.drafts(step.task(), seed), &lines)
    }
}

fn was_begun(record: &Record) -> bool {
    record.progress == Progress::Begun
}

/// The step that makes the prompts of a step.
fn prompts_step(step: &Step) -> Step {
    match step {
        Step::Augment { .. } => *step,
        Step::Train {
            task,
            prompts,
            seed,
        } => Step::augment(*task, *prompts, *seed),
        Step::Evaluate(cell) => Step::augment(cell.task, cell.prompts, cell.seed),
    }
}
