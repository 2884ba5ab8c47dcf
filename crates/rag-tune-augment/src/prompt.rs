//! A row and its examples become the text that the model sees.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::{AugmentError, Row, Task};

/// The two texts of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What the model is asked; the answer follows after a newline.
    pub inference_prompt: String,
    /// `inference_prompt`, a newline, the answer.
    pub full_prompt: String,
}

/// Fills a task's template.
pub struct PromptTemplate {
    environment: Environment<'static>,
    answer_field: &'static str,
}

/// The name has no extension, so that minijinja escapes nothing.
const TEMPLATE_NAME: &str = "prompt";

impl PromptTemplate {
    /// Parses the template of `task`.
    ///
    /// # Errors
    /// [`AugmentError::Template`] if it does not parse.
    pub fn new(task: &Task) -> Result<Self, AugmentError> {
        let mut environment = Environment::new();
        // A line that holds only a tag leaves no line behind.
        let syntax = SyntaxConfig::builder().trim_blocks(true).build();
        environment.set_syntax(syntax.map_err(template_error)?);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment
            .add_template(TEMPLATE_NAME, task.template)
            .map_err(template_error)?;
        Ok(Self {
            environment,
            answer_field: task.answer_field,
        })
    }

    /// The prompt of `row` with `examples`, which stand in the order given.
    ///
    /// # Errors
    /// [`AugmentError::Template`] if a row lacks a field that the template names.
    pub fn render(&self, row: &Row, examples: &[&Row]) -> Result<Prompt, AugmentError> {
        let examples: Vec<Value> = examples
            .iter()
            .map(|example| text_fields(example))
            .collect();
        let template = self
            .environment
            .get_template(TEMPLATE_NAME)
            .map_err(template_error)?;
        let inference_prompt = template
            .render(context! { row => text_fields(row), examples })
            .map_err(template_error)?;
        let full_prompt = format!("{inference_prompt}\n{}", row.text(self.answer_field));
        Ok(Prompt {
            inference_prompt,
            full_prompt,
        })
    }
}

/// What a template sees of a row.
fn text_fields(row: &Row) -> Value {
    let fields = row.fields.iter();
    Value::from_pairs(fields.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))))
}

fn template_error(error: minijinja::Error) -> AugmentError {
    AugmentError::Template {
        problem: format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskKind;
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
        let template = PromptTemplate::new(TaskKind::Sql.task()).unwrap();
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
