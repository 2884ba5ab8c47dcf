//! A row and its examples become the text that the model sees.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::task::{Layout, Part, TaskError};
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

/// Between the parts of a prompt.
const BLANK_LINE: &str = "\n\n";

impl PromptTemplate {
    /// Parses the templates of `task`.
    ///
    /// # Errors
    /// [`TaskError::Template`] if one does not parse.
    pub fn new(task: &Task) -> Result<Self, TaskError> {
        Ok(Self {
            environment: parse_templates(task.templates.parts())?,
            layout: task.layout,
            answer_column: task.answer_column.clone(),
        })
    }

    /// The prompt of `row` with `examples`, which stand in the order given.
    ///
    /// # Errors
    /// [`TaskError::Template`] if a row lacks a column that a template names.
    pub fn render(&self, row: &Row, examples: &[&Row]) -> Result<Prompt, TaskError> {
        let instruction = self.fill(Part::Instruction, None, context! {})?;
        let examples = self.examples(examples)?;
        // Not even a template that avoids the check of its names can show the answer.
        let row_without_answer = fields(row, |name| name != self.answer_column);
        let query = self.fill(
            Part::Query,
            Some(row),
            context! { row => row_without_answer },
        )?;
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
        let header = self.fill(Part::Header, None, context! { count })?;
        let filled = examples.iter().zip(1..).map(|(example, index)| {
            let example_fields = fields(example, |_| true);
            let context = context! { example => example_fields, index, count };
            self.fill(Part::Example, Some(example), context)
        });
        let filled = filled.collect::<Result<Vec<_>, _>>()?;
        Ok(format!("{header}\n{}", filled.join(BLANK_LINE)))
    }

    fn fill(&self, part: Part, row: Option<&Row>, context: Value) -> Result<String, TaskError> {
        let template = self.environment.get_template(part.name());
        template
            .and_then(|template| template.render(context))
            .map_err(|error| TaskError::template(part, row.map(|row| row.index), &error))
    }
}

/// An environment with these templates, each under its part's name.
///
/// # Errors
/// [`TaskError::Template`] for the first that does not parse.
pub(crate) fn parse_templates<'a>(
    templates: impl IntoIterator<Item = (Part, &'a str)>,
) -> Result<Environment<'static>, TaskError> {
    let mut environment = Environment::new();
    // A line that holds only a tag leaves no line behind.
    let syntax = SyntaxConfig::builder().trim_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are minijinja's own"));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    for (part, source) in templates {
        environment
            .add_template_owned(part.name(), source.to_owned())
            .map_err(|error| TaskError::template(part, None, &error))?;
    }
    Ok(environment)
}

/// What a template sees of a row: texts, numbers, lists and so on, as the data has them.
fn fields(row: &Row, shown: impl Fn(&str) -> bool) -> Value {
    let shown = row.fields.iter().filter(|(name, _)| shown(name));
    let values = shown.map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
    Value::from(values.collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests;
