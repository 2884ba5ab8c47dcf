//! What the original experiment reported, to stand beside our figures. The only place for such numbers.
//!
//! Source of all: "Investigations into fine-tuning LLMs to be good at RAG" (S. L'Huillier), text-to-SQL with
//! CodeLlama-7B on the Spider rows of sql-create-context, execution accuracy on the validation split.

use super::cell::{Cell, Constraint, Method, Prompts};

/// Where the numbers come from, for tables.
pub const SOURCE: &str = "\"Investigations into fine-tuning LLMs to be good at RAG\": CodeLlama-7B, text-to-SQL, examples by text-embedding-ada-002";

/// The same in a few words, for charts.
pub const SHORT_SOURCE: &str = "CodeLlama-7B on Spider's questions, ada-002";

/// Tuned with one example that may come from the row's own database.
const SAME_DATABASE_ALLOWED: f64 = 0.776;
/// Tuned with one example of another database.
const SAME_DATABASE_FORBIDDEN: f64 = 0.790;
/// The untuned model with one example.
const UNTUNED_1: f64 = 0.634;
/// The untuned model with five examples.
const UNTUNED_5: f64 = 0.673;

/// The published accuracy of a cell in the figure about the constraint (d).
pub fn constraint(constraint: Constraint) -> f64 {
    match constraint {
        Constraint::AsConfigured => SAME_DATABASE_FORBIDDEN,
        Constraint::Lifted => SAME_DATABASE_ALLOWED,
    }
}

/// The published accuracy of an untuned cell of text-to-SQL (c), where there is one.
pub fn untuned(cell: &Cell) -> Option<f64> {
    match (cell.adapter, cell.prompts) {
        (
            None,
            Prompts::Retrieved {
                examples,
                method: Method::Semantic,
                constraint: Constraint::AsConfigured,
            },
        ) => match examples {
            1 => Some(UNTUNED_1),
            5 => Some(UNTUNED_5),
            _ => None,
        },
        _ => None,
    }
}
