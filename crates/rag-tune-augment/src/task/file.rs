//! A task from a `.toml` file, and what may be wrong with that.

use std::path::Path;

use super::{Task, TaskError, Templates};

/// Reads and checks a task file.
pub(super) fn load(path: &Path) -> Result<Task, TaskError> {
    let text = std::fs::read_to_string(path).map_err(|source| TaskError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let task: Task = toml::from_str(&text).map_err(|error| bad_file(path, &text, &error))?;
    task.check().map_err(|error| match error {
        TaskError::Invalid { problems, .. } => TaskError::Invalid {
            task: path.display().to_string(),
            problems,
        },
        other => other,
    })?;
    Ok(task)
}

fn bad_file(path: &Path, text: &str, error: &toml::de::Error) -> TaskError {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default();
    let is_template = Templates::KEYS.contains(&key);
    let (problem, names_line) = if message.starts_with("unknown field") {
        let instead = suggestion(key, quoted);
        (format!("unknown key `{key}`{instead}"), true)
    } else if message.starts_with("missing field") {
        // The parser's place is that of the whole section.
        let section = if is_template { " in `[templates]`" } else { "" };
        (format!("no key `{key}`{section}"), false)
    } else {
        (message.trim().replace('\n', ", "), true)
    };
    let line = |start: usize| text[..start].matches('\n').count() + 1;
    TaskError::BadFile {
        path: path.to_owned(),
        line: error
            .span()
            .filter(|_| names_line)
            .map(|span| line(span.start)),
        problem,
    }
}

/// What was meant by an unknown key.
fn suggestion<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    if let Some(near) = nearest(unknown, &known) {
        return format!("; did you mean `{near}`?");
    }
    let in_templates = known.iter().all(|key| Templates::KEYS.contains(key));
    match (in_templates, Templates::KEYS.contains(&unknown)) {
        (false, true) => format!("; `{unknown}` belongs to `[templates]`"),
        (true, false) if Task::KEYS.contains(&unknown) => {
            format!("; `{unknown}` belongs above `[templates]`")
        }
        _ => String::new(),
    }
}

/// The word with the fewest typing mistakes, if they are few for its length.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &str| strsim::damerau_levenshtein(word, known);
    let best = known.iter().min_by_key(|known| distance(known))?;
    (distance(best) <= word.chars().count() / 3).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"name = "echo"
query_column = "in"
answer_column = "out"

[templates]
instruction = ""
header = "Examples:"
example = "{{ example.in }}: {{ example.out }}"
query = "{{ row.in }}:"
"#;

    fn load_text(text: &str) -> Result<Task, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo.toml");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    /// The message after the file's path.
    fn problem(text: &str) -> String {
        let message = load_text(text).unwrap_err().to_string();
        let (_, problem) = message.split_once("echo.toml").expect(&message);
        problem.to_owned()
    }

    #[test]
    fn a_file_is_a_task() {
        assert_eq!(load_text(GOOD).unwrap().query_column, "in");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
        assert_eq!(
            problem(&GOOD.replace("answer_column", "answer_colum")),
            ":3: unknown key `answer_colum`; did you mean `answer_column`?"
        );
        assert_eq!(
            problem(&GOOD.replace("header", "headr")),
            ":7: unknown key `headr`; did you mean `header`?"
        );
        assert_eq!(
            problem(&format!("{GOOD}stop = \"\"\n")),
            ":10: unknown key `stop`; `stop` belongs above `[templates]`"
        );
        assert_eq!(
            problem(&format!("query = \"\"\n{GOOD}")),
            ":1: unknown key `query`; `query` belongs to `[templates]`"
        );
        assert_eq!(
            problem(&format!("xyzzy = 1\n{GOOD}")),
            ":1: unknown key `xyzzy`"
        );
    }

    #[test]
    fn a_missing_key_is_named_with_its_section() {
        let without = |key: &str| -> String {
            let lines = GOOD.lines().filter(|line| !line.starts_with(key));
            lines.map(|line| format!("{line}\n")).collect()
        };
        assert_eq!(problem(&without("query_column")), ": no key `query_column`");
        assert_eq!(
            problem(&without("query =")),
            ": no key `query` in `[templates]`"
        );
    }

    #[test]
    fn wrong_types_and_broken_toml_have_their_line() {
        assert_eq!(
            problem(&GOOD.replace("\"in\"", "7")),
            ":2: invalid type: integer `7`, expected a string"
        );
        assert!(problem(&GOOD.replace("\"in\"", "")).starts_with(":2: "));
        assert!(
            problem(&format!("layout = \"example_first\"\n{GOOD}"))
                .starts_with(":1: unknown variant `example_first`, expected ")
        );
    }

    #[test]
    fn a_bad_template_is_named_with_file_key_and_line() {
        let text = GOOD.replace("\"{{ row.in }}:\"", "\"\"\"\nGo on:\n{{ row.in }\"\"\"");
        let problem = problem(&text);
        assert!(
            problem.contains("`templates.query`, line 2: syntax error"),
            "{problem}"
        );
    }

    #[test]
    fn a_missing_file_says_where_it_was_looked_for() {
        let error = super::load(Path::new("no/such.toml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the task file `no/such.toml`"
        );
        assert!(error.hint().unwrap().contains("working directory"));
    }

    #[test]
    fn a_word_with_few_mistakes_is_near() {
        assert_eq!(
            nearest("funtional", &["sql", "functional"]),
            Some("functional")
        );
        assert_eq!(nearest("poems", &["sql", "functional"]), None);
    }
}
