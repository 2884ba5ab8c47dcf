//! What can be known to be wrong with a task before a row is read.

use std::collections::BTreeSet;

use minijinja::{Environment, ErrorKind, Value};

use super::{Masking, Part, Task, TaskError};
use crate::augmented_row::ADDED_FIELDS;
use crate::prompt::parse_templates;

/// Every problem of `task`.
pub(super) fn check(task: &Task) -> Result<(), TaskError> {
    let mut problems = columns(task);
    for (part, source) in task.templates.parts() {
        match parse_templates([(part, source)]) {
            Ok(environment) => problems.extend(template(task, part, source, &environment)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(TaskError::Invalid {
        task: task.name.clone(),
        problems,
    })
}

/// The columns that the templates name, in alphabetical order.
pub(super) fn template_columns(task: &Task) -> BTreeSet<String> {
    let parts = task.templates.parts().into_iter();
    parts
        .flat_map(|(part, _)| part_columns(task, part))
        .collect()
}

/// The columns that one part's template names, in alphabetical order.
pub(super) fn part_columns(task: &Task, wanted: Part) -> BTreeSet<String> {
    let mut columns = BTreeSet::new();
    for (part, source) in task.templates.parts() {
        // A template that does not parse names nothing, and `check` says why.
        let Ok(environment) = parse_templates([(part, source)]) else {
            continue;
        };
        for name in undeclared(&environment, part) {
            let column = part.row().filter(|_| part == wanted);
            let column = column.and_then(|row| column_of(row, &name));
            columns.extend(column.map(str::to_owned));
        }
    }
    columns
}

fn columns(task: &Task) -> Vec<String> {
    let mut problems = Vec::new();
    for (key, value) in [
        ("name", &task.name),
        ("query_column", &task.query_column),
        ("answer_column", &task.answer_column),
    ] {
        if value.trim().is_empty() {
            problems.push(format!("`{key}` must not be empty"));
        }
    }
    if task.query_column == task.answer_column {
        problems.push(format!(
            "`query_column` and `answer_column` are both `{}`: the prompt would show the answer",
            task.answer_column
        ));
    }
    let schema = !task.schema_column.is_empty();
    match task.masking {
        Masking::Sql if !schema => problems.push(
            "`masking = \"sql\"` needs `schema_column`, the column with the `CREATE TABLE` statements"
                .into(),
        ),
        Masking::Text if schema => {
            problems.push("`schema_column` is read only with `masking = \"sql\"`".into());
        }
        _ => {}
    }
    let mut named = task.further_columns();
    named.extend(task.columns().into_iter().map(str::to_owned));
    let added = ADDED_FIELDS
        .iter()
        .filter(|field| named.iter().any(|name| name == *field));
    problems.extend(added.map(|field| {
        format!(
            "the column `{field}` is one that augmentation adds; rename yours with `data.columns`"
        )
    }));
    problems
}

/// The problems of a template that parses.
fn template(task: &Task, part: Part, source: &str, environment: &Environment<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    let names = undeclared(environment, part);
    for name in &names {
        let root = name.split('.').next().unwrap_or(name);
        let known = part.sees().contains(&root);
        let is_global = environment.globals().any(|(global, _)| global == root);
        if !known && !is_global {
            problems.push(format!(
                "{}: unknown name `{name}`; this template sees {}",
                place(part, source, name),
                seen(part)
            ));
        }
        if part == Part::Query && column_of("row", name) == Some(&task.answer_column) {
            problems.push(format!(
                "{}: `{name}` would show the model the answer",
                place(part, source, name)
            ));
        }
    }
    let shows_row = names
        .iter()
        .any(|name| name == "row" || name.starts_with("row."));
    if part == Part::Query && !shows_row {
        problems
            .push("`templates.query` shows nothing of `row`, so that all prompts are equal".into());
    }
    problems.extend(unknown_filter(part, environment));
    problems
}

/// Rendering finds filters and functions that do not exist; other failures are due to the made-up values.
fn unknown_filter(part: Part, environment: &Environment<'_>) -> Option<String> {
    let names = undeclared(environment, part);
    let row = part.row().map(|row| {
        let columns = names.iter().filter_map(|name| column_of(row, name));
        let fields: std::collections::BTreeMap<_, _> = columns
            .map(|column| (column.to_owned(), Value::from("text")))
            .collect();
        (row, Value::from(fields))
    });
    let numbers = ["index", "count"].map(|name| (name, Value::from(1)));
    let context: std::collections::BTreeMap<_, _> = numbers.into_iter().chain(row).collect();
    let template = environment.get_template(part.name()).ok()?;
    let error = template.render(context).err()?;
    let unknown = matches!(
        error.kind(),
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction
    );
    unknown.then(|| TaskError::template(part, None, &error).to_string())
}

/// Names that a template uses without making them, with their attributes: `row.question`. Sorted.
fn undeclared(environment: &Environment<'_>, part: Part) -> BTreeSet<String> {
    let template = environment.get_template(part.name());
    let template = template.expect("it was just parsed under this name");
    template.undeclared_variables(true).into_iter().collect()
}

/// The column that `row.column` or `row.column.field` reads.
fn column_of<'a>(row: &str, name: &'a str) -> Option<&'a str> {
    let column = name.strip_prefix(row)?.strip_prefix('.')?;
    column.split('.').next()
}

/// The key of a template, and the line of the first place that has `name`.
fn place(part: Part, source: &str, name: &str) -> String {
    let line = source.lines().position(|line| line.contains(name));
    let line = line.map(|line| format!(", line {}", line + 1));
    format!("`templates.{}`{}", part.name(), line.unwrap_or_default())
}

fn seen(part: Part) -> String {
    let names: Vec<_> = part.sees().iter().map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => "nothing".into(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of the SQL task after `change`.
    fn problems(change: impl FnOnce(&mut Task)) -> Vec<String> {
        let mut task = Task::sql();
        change(&mut task);
        match task.check() {
            Ok(()) => Vec::new(),
            Err(TaskError::Invalid { problems, .. }) => problems,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_template_may_name_only_what_it_sees() {
        assert_eq!(
            problems(|task| task.templates.instruction = "Answer\n{{ row.question }}".into()),
            [
                "`templates.instruction`, line 2: unknown name `row.question`; this template sees nothing"
            ]
        );
        assert_eq!(
            problems(|task| task.templates.header = "{{ index }} of {{ count }}".into()),
            ["`templates.header`, line 1: unknown name `index`; this template sees `count`"]
        );
        assert_eq!(
            problems(|task| task.templates.example = "{{ row.question }}".into()),
            [
                "`templates.example`, line 1: unknown name `row.question`; this template sees `example`, `index`, `count`"
            ]
        );
        assert_eq!(
            problems(|task| task.templates.query = "{{ row.question }} {{ exmaple.answer }}".into()),
            ["`templates.query`, line 1: unknown name `exmaple.answer`; this template sees `row`"]
        );
    }

    #[test]
    fn the_query_may_not_show_the_answer() {
        assert_eq!(
            problems(
                |task| task.templates.query = "{{ row.question }}\n{{ row.answer | upper }}".into()
            ),
            ["`templates.query`, line 2: `row.answer` would show the model the answer"]
        );
        assert_eq!(
            problems(|task| task.query_column = "answer".into()).len(),
            1
        );
    }

    #[test]
    fn a_query_without_the_row_is_a_mistake() {
        let problems = problems(|task| task.templates.query = "What is it?".into());
        assert_eq!(
            problems,
            ["`templates.query` shows nothing of `row`, so that all prompts are equal"]
        );
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let problems = problems(|task| {
            task.name = " ".into();
            task.schema_column.clear();
            task.templates.header = "{{ count ".into();
            task.templates.query = "{{ row.examples }} {{ row.question | uper }}".into();
        });
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(
            problems[0].starts_with("`name` must not be empty"),
            "{problems:#?}"
        );
        assert!(
            problems[1].contains("needs `schema_column`"),
            "{problems:#?}"
        );
        assert!(
            problems[2].starts_with("the column `examples`"),
            "{problems:#?}"
        );
        assert!(
            problems[3].starts_with("`templates.header`, line 1: syntax error"),
            "{problems:#?}"
        );
        assert!(problems[4].contains("unknown filter"), "{problems:#?}");
    }

    #[test]
    fn loops_conditions_and_own_names_are_allowed() {
        let query = "{% set asked = row.question | upper %}{% for tag in row.tags %}{{ loop.index }} {{ tag.name }}\
                     {% endfor %}{% if row.note is defined and row.note %}{{ row.note.text }}{% endif %}{{ asked }}\
                     {% for number in range(3) %}{{ number }}{% endfor %}";
        let mut task = Task::sql();
        task.templates.query = query.into();
        task.check().unwrap();
        assert_eq!(task.columns(), ["question", "answer", "context"]);
        assert_eq!(task.further_columns(), ["db_id", "note", "tags"]);
    }
}
