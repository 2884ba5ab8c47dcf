//! What a task is to this crate: the columns it reads and the prompt it fills.
//!
//! A task is data. A further one is a variant of [`TaskKind`], a [`Task`] below, and a template.

use serde::{Deserialize, Serialize};

use crate::fingerprint::{hex, sha256_of_text};

/// The built-in tasks; the top-level `task` key of a config.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Text to SQL: a question and `CREATE TABLE` statements in, one query out.
    #[default]
    Sql,
}

impl TaskKind {
    /// The task's description.
    pub fn task(self) -> &'static Task {
        match self {
            Self::Sql => &SQL,
        }
    }
}

/// Columns and template of a task.
#[derive(Debug)]
pub struct Task {
    /// As the config spells it.
    pub name: &'static str,
    /// The columns that every row must have, as strings.
    pub fields: &'static [&'static str],
    /// The column that is embedded, and whose equal text no example may have.
    pub query_field: &'static str,
    /// The column that the model learns to write.
    pub answer_field: &'static str,
    /// minijinja source of the inference prompt; it sees `row` and `examples`.
    pub template: &'static str,
}

impl Task {
    /// SHA-256 of [`Task::template`], in hex.
    pub fn template_sha256(&self) -> String {
        hex(&sha256_of_text(self.template))
    }
}

static SQL: Task = Task {
    name: "sql",
    fields: &["question", "context", "answer", "db_id"],
    query_field: "question",
    answer_field: "answer",
    template: include_str!("../templates/sql.jinja"),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_reads_what_it_embeds_and_answers() {
        let task = TaskKind::Sql.task();
        assert!(task.fields.contains(&task.query_field));
        assert!(task.fields.contains(&task.answer_field));
        assert_eq!(serde_json::to_value(TaskKind::Sql).unwrap(), task.name);
    }

    /// Adapters carry this hash: a changed template is another prompt than the one trained on.
    #[test]
    fn the_template_is_pinned() {
        assert_eq!(
            TaskKind::Sql.task().template_sha256(),
            "7db1a613a265b168533193ad9666a792f49000bfcdab62bb53e243cf29a946a4"
        );
    }
}
