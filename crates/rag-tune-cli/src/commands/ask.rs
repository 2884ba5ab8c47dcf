//! `rag-tune ask`: one question to a trained adapter.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use rag_tune_augment::retrieval_record::FILE_NAME;
use rag_tune_augment::{AskedRow, RetrievalRecord, Scoring, Task};
use rag_tune_eval::ResultTable;
use rag_tune_eval::sql::QueryLimits;
use rag_tune_model::generate::{Event, GenerateOptions, Sampling, generate};
use serde_json::{Value, json};

use super::{HubArgs, Overrides, sandbox};
use crate::asked::{Prompts, Question};
use crate::base_model::{FoundModel, check_device, load_adapter};
use crate::config::RunConfig;
use crate::encoding::question;
use crate::error::InputError;
use crate::output::{Output, table};
use crate::run_folder::RunFolder;

/// Ask a trained adapter a question
///
/// The prompt is made as in the adapter's training: same examples from the same training rows, same template. The answer comes on
/// stdout as the model writes it, all else on stderr. With --execute, the answer is SQL that is run on a database, which is opened
/// so that nothing can be written.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune ask --adapter out/sql_rag1 --execute singers.sqlite \"How many singers are there?\"
  rag-tune ask --adapter out/sql_rag1 --field context=@schema.sql \"How many singers are there?\"
  echo \"What is half of 18?\" | rag-tune ask --adapter out/gsm8k_rag1 --show-examples")]
pub struct AskArgs {
    /// The question; `-`, or nothing where something is piped in, reads it from stdin
    question: Option<String>,
    /// The run folder
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// A further column of the question, such as `context` of SQL, or what a file holds; may be given several times
    #[arg(long, value_name = "NAME=VALUE|NAME=@FILE")]
    field: Vec<String>,
    /// SQLite file to run the answer on, read-only; stands for the schema, too, where no --field gives it
    #[arg(long, value_name = "DB")]
    execute: Option<PathBuf>,
    /// Show the examples in the prompt with their scores
    #[arg(long)]
    show_examples: bool,
    /// Show the whole prompt
    #[arg(long)]
    show_prompt: bool,
    /// Tokens the answer has at most [default: eval.max_new_tokens of the run]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Draw tokens by probability, with logits divided by this; 0 takes the likeliest [default: 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from the fewest tokens that hold this share of the probability [default: 1]
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f32>,
    /// What fixes the draws [default: the run's seed]
    #[arg(long, value_name = "N", requires = "temperature")]
    seed: Option<u64>,
    /// Print one JSON object instead: question, prompt, examples, answer, and the result of --execute
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn ask(args: &AskArgs, out: &mut Output) -> anyhow::Result<()> {
    let run = trained_run(&args.adapter)?;
    let config = args.overrides.apply_to(&run.config(), &[])?.run;
    let record = RetrievalRecord::load(run.path())?;
    let task = &record.settings.task;
    if args.execute.is_some() && task.scoring != Scoring::Sql {
        let message = format!(
            "--execute runs SQL, and answers of the task `{}` are none",
            task.name
        );
        return Err(InputError::new(message, "leave --execute out").into());
    }
    let columns = Question {
        text: args.question.as_deref(),
        fields: &args.field,
        database: args.execute.as_deref(),
    };
    let columns = columns.columns(task)?;
    check_device(&config.model)?;
    let hub = args.hub.hub();
    let prompts = Prompts {
        run: &run.name(),
        config: &config,
        record: &record,
    };
    let asked = prompts.prompt(columns, &hub, out)?;
    if args.show_examples {
        out.note(&examples(&asked, task));
    }
    if args.show_prompt {
        out.note(&asked.row.inference_prompt);
    }
    let found = FoundModel::open(&config.model, &hub)?;
    let answer = args.answer(&asked, task, &config, (&run, &found), out)?;
    let result = args
        .execute
        .as_deref()
        .map(|database| execute(database, &answer));
    if args.json {
        // What went wrong with a query comes on stderr, and the answer is still known.
        let result = result.as_ref().and_then(|result| result.as_ref().ok());
        out.data(&format!("{:#}\n", object(&asked, task, &answer, result)))?;
    }
    match result {
        Some(result) if args.json => result.map(|_| ()),
        Some(result) => Ok(out.data(&shown(&result?))?),
        None => Ok(()),
    }
}

/// The run in `folder`, which must be one and have what its prompts are made by.
fn trained_run(folder: &Path) -> anyhow::Result<RunFolder> {
    let runs = RunFolder::finished_at(folder)?;
    let [run] = runs.as_slice() else {
        let message = format!("`{}` holds {} adapters", folder.display(), runs.len());
        let names: Vec<String> = runs
            .iter()
            .map(|run| run.path().display().to_string())
            .collect();
        let hint = format!("name one of them: {}", names.join(", "));
        return Err(InputError::new(message, hint).into());
    };
    let missing = [run.path().join(FILE_NAME), run.config()];
    if let Some(missing) = missing.iter().find(|path| !path.is_file()) {
        let message = format!(
            "the adapter in `{}` does not say how its prompts are made",
            run.path().display()
        );
        let hint = format!(
            "`rag-tune train` leaves `{}` beside an adapter: name the run folder itself; an adapter of another program has \
             no retrieval to go by",
            missing.file_name().unwrap_or_default().to_string_lossy()
        );
        return Err(InputError::new(message, hint).into());
    }
    Ok(run.clone())
}

impl AskArgs {
    fn sampling(&self, config: &RunConfig) -> Sampling {
        match self.temperature {
            None | Some(0.0) => Sampling::Greedy,
            Some(temperature) => Sampling::Nucleus {
                temperature,
                top_p: self.top_p.unwrap_or(1.0),
                seed: self.seed.unwrap_or(config.seed),
            },
        }
    }

    /// The answer, written to stdout as it comes unless that gets an object.
    fn answer(
        &self,
        asked: &AskedRow,
        task: &Task,
        config: &RunConfig,
        (run, found): (&RunFolder, &FoundModel),
        out: &mut Output,
    ) -> anyhow::Result<String> {
        let sampling = self.sampling(config);
        // Before the weights are loaded: a number out of range shows at once.
        sampling.check()?;
        let prompt = found.tokenizer.encode(&question(&asked.row))?;
        let adapter = load_adapter(run, &found.checkpoint)?;
        let model = found.load(&config.model, out)?;
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens.unwrap_or(config.eval.max_new_tokens),
            batch_size: 1,
            stop_texts: Some(task.stop.clone())
                .filter(|stop| !stop.is_empty())
                .into_iter()
                .collect(),
            sampling,
        };
        let mut written = Ok(());
        let mut on_event = |event: Event<'_>| {
            if let Event::Text { text, .. } = event
                && !self.json
                && written.is_ok()
            {
                written = out.data(text);
            }
        };
        let tokenizer = &found.tokenizer;
        let generated = generate(
            &model,
            Some(&adapter),
            tokenizer,
            &[prompt],
            &options,
            &mut on_event,
        );
        let mut generated = generated.context("cannot generate the answer")?;
        written?;
        if !self.json {
            out.data("\n")?;
        }
        Ok(generated.answers.remove(0).trim_end().to_owned())
    }
}

fn execute(database: &Path, sql: &str) -> anyhow::Result<ResultTable> {
    let result = sandbox()?.query(database, sql, QueryLimits::default());
    result.with_context(|| format!("cannot run the answer on `{}`", database.display()))
}

/// Each example with its score, its question and its answer.
fn examples(asked: &AskedRow, task: &Task) -> String {
    if asked.examples.is_empty() {
        return "no examples: the adapter is asked without (retrieval.examples = 0)".to_owned();
    }
    let lines = asked
        .row
        .examples
        .iter()
        .zip(&asked.examples)
        .map(|(example, row)| {
            format!(
                "example: training row {}, score {:.3}\n  {}: {}\n  {}: {}",
                example.row,
                example.score,
                task.query_column,
                row.text(&task.query_column),
                task.answer_column,
                row.text(&task.answer_column)
            )
        });
    lines.collect::<Vec<_>>().join("\n")
}

/// What `--json` prints.
fn object(asked: &AskedRow, task: &Task, answer: &str, result: Option<&ResultTable>) -> Value {
    let examples = asked.row.examples.iter().zip(&asked.examples);
    let examples = examples.map(
        |(example, row)| json!({"row": example.row, "score": example.score, "fields": row.fields}),
    );
    let mut object = json!({
        "question": asked.row.text(&task.query_column),
        "prompt": asked.row.inference_prompt,
        "examples": examples.collect::<Vec<_>>(),
        "answer": answer,
    });
    if let Some(result) = result {
        object["result"] = json!(result);
    }
    object
}

/// A result as people look at it.
fn shown(result: &ResultTable) -> String {
    let header: Vec<&str> = result.columns.iter().map(String::as_str).collect();
    let cell = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        // A line break or an escape sequence of a terminal would break the table.
        Value::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    };
    let rows = result.rows.iter().map(|row| row.iter().map(cell).collect());
    let mut text = format!("\n{}", table(&header, &rows.collect::<Vec<_>>()));
    match result.total_rows - result.rows.len() {
        0 if result.rows.is_empty() => text += "(no rows)\n",
        0 => {}
        more => text += &format!("... {more} more rows\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_an_aligned_table_that_says_what_it_leaves_out() {
        let mut result = ResultTable {
            columns: vec!["name".into(), "age".into()],
            rows: vec![
                vec!["Ada\n\u{1b}[2J".into(), 2.into()],
                vec![Value::Null, json!(1.5)],
            ],
            total_rows: 7,
        };
        assert_eq!(
            shown(&result),
            "\nname      age\nAda  [2J  2\nNULL      1.5\n... 5 more rows\n"
        );
        (result.rows, result.total_rows) = (vec![], 0);
        assert_eq!(shown(&result), "\nname  age\n(no rows)\n");
    }
}
