//! A row and its examples become the text that the model sees.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::task::{Layout, TaskError};
use crate::{Row, Task};

/// The two texts of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What the model is asked; the answer follows after a newline.
    pub inference_prompt: String,
    /// `inference_prompt`, a newline, the answer.
    pub full_prompt: String,
}

/// Fills a task's templates.
pub struct PromptTemplate {
    environment: Environment<'static>,
    layout: Layout,
    answer_column: String,
}

/// The names have no extension, so that minijinja escapes nothing.
const INSTRUCTION: &str = "instruction";
const HEADER: &str = "header";
const EXAMPLE: &str = "example";
const QUERY: &str = "query";

/// Between the parts of a prompt.
const BLANK_LINE: &str = "\n\n";

impl PromptTemplate {
    /// Parses the templates of `task`.
    ///
    /// # Errors
    /// [`TaskError::Template`] if one does not parse.
    pub fn new(task: &Task) -> Result<Self, TaskError> {
        let mut environment = Environment::new();
        // A line that holds only a tag leaves no line behind.
        let syntax = SyntaxConfig::builder().trim_blocks(true).build();
        environment.set_syntax(syntax.map_err(template_error)?);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let templates = task.templates.clone();
        for (name, source) in [
            (INSTRUCTION, templates.instruction),
            (HEADER, templates.header),
            (EXAMPLE, templates.example),
            (QUERY, templates.query),
        ] {
            environment
                .add_template_owned(name, source)
                .map_err(template_error)?;
        }
        Ok(Self {
            environment,
            layout: task.layout,
            answer_column: task.answer_column.clone(),
        })
    }

    /// The prompt of `row` with `examples`, which stand in the order given.
    ///
    /// # Errors
    /// [`TaskError::Template`] if a row lacks a column that a template names.
    pub fn render(&self, row: &Row, examples: &[&Row]) -> Result<Prompt, TaskError> {
        let instruction = self.fill(INSTRUCTION, context! {})?;
        let examples = self.examples(examples)?;
        let query = self.fill(QUERY, context! { row => fields(row) })?;
        let parts = match self.layout {
            Layout::InstructionFirst => [instruction, examples, query],
            Layout::ExamplesFirst => [examples, instruction, query],
        };
        let present: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let inference_prompt = present.join(BLANK_LINE);
        let full_prompt = format!("{inference_prompt}\n{}", row.text(&self.answer_column));
        Ok(Prompt {
            inference_prompt,
            full_prompt,
        })
    }

    /// The examples below their header; empty without examples.
    fn examples(&self, examples: &[&Row]) -> Result<String, TaskError> {
        let count = examples.len();
        if count == 0 {
            return Ok(String::new());
        }
        let header = self.fill(HEADER, context! { count })?;
        let filled = examples.iter().zip(1..).map(|(example, index)| {
            self.fill(
                EXAMPLE,
                context! { example => fields(example), index, count },
            )
        });
        let filled = filled.collect::<Result<Vec<_>, _>>()?;
        Ok(format!("{header}\n{}", filled.join(BLANK_LINE)))
    }

    fn fill(&self, name: &str, context: Value) -> Result<String, TaskError> {
        let template = self.environment.get_template(name);
        template
            .and_then(|template| template.render(context))
            .map_err(template_error)
    }
}

/// What a template sees of a row.
fn fields(row: &Row) -> Value {
    Value::from(Serde(&row.fields))
}

fn template_error(error: minijinja::Error) -> TaskError {
    TaskError::Template {
        problem: format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(index: usize, question: &str, context: &str, answer: &str) -> Row {
        let Value::Object(fields) =
            json!({"db_id": "d", "context": context, "question": question, "answer": answer})
        else {
            unreachable!("json! of braces is an object")
        };
        Row { index, fields }
    }

    fn render(examples: &[&Row]) -> Prompt {
        let template = PromptTemplate::new(&Task::sql()).unwrap();
        let query = row(
            0,
            "How many heads are older than 56 ?",
            "CREATE TABLE head (age INTEGER)",
            "SELECT count(*) FROM head WHERE age  >  56",
        );
        template.render(&query, examples).unwrap()
    }

    fn singers() -> Row {
        row(
            1,
            "How many singers do we have?",
            "CREATE TABLE singer (Id VARCHAR)",
            "SELECT count(*) FROM singer",
        )
    }

    fn pets() -> Row {
        row(
            2,
            "Which pets weigh < 3 & are \"old\"?",
            "CREATE TABLE pets (name VARCHAR, weight INTEGER)",
            "SELECT name FROM pets WHERE weight < 3",
        )
    }

    const INTRODUCTION: &str = "You are a powerful text-to-SQL model. Your job is to answer questions about a database. You are given a question and context regarding one or more tables. You must output the SQL query that answers the question.\n";

    const QUERY: &str = "
Please generate the SQL query that answers the following:
### Input:
How many heads are older than 56 ?

### Context:
CREATE TABLE head (age INTEGER)

### Response:";

    #[test]
    fn without_examples() {
        assert_eq!(
            render(&[]).inference_prompt,
            format!("{INTRODUCTION}{QUERY}")
        );
    }

    #[test]
    fn with_one_example() {
        let examples = "
Given the following example:
### Input:
How many singers do we have?

### Context:
CREATE TABLE singer (Id VARCHAR)

### Response:
SELECT count(*) FROM singer
";
        assert_eq!(
            render(&[&singers()]).inference_prompt,
            format!("{INTRODUCTION}{examples}{QUERY}")
        );
    }

    #[test]
    fn with_two_examples() {
        let examples = "
Given the following examples:
Example 1:
### Input:
Which pets weigh < 3 & are \"old\"?

### Context:
CREATE TABLE pets (name VARCHAR, weight INTEGER)

### Response:
SELECT name FROM pets WHERE weight < 3

Example 2:
### Input:
How many singers do we have?

### Context:
CREATE TABLE singer (Id VARCHAR)

### Response:
SELECT count(*) FROM singer
";
        assert_eq!(
            render(&[&pets(), &singers()]).inference_prompt,
            format!("{INTRODUCTION}{examples}{QUERY}")
        );
    }

    #[test]
    fn the_full_prompt_ends_with_the_answer_on_its_own_line() {
        let prompt = render(&[&singers()]);
        let expected = format!(
            "{}\nSELECT count(*) FROM head WHERE age  >  56",
            prompt.inference_prompt
        );
        assert_eq!(prompt.full_prompt, expected);
    }

    /// Field text is inserted once: what looks like a tag in the data stays as it is.
    #[test]
    fn data_is_never_taken_for_a_template() {
        let odd = row(3, "{{ row }} {% if %}\n", "c", "a");
        assert!(
            render(&[&odd])
                .inference_prompt
                .contains("{{ row }} {% if %}\n")
        );
    }
}
