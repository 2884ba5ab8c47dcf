//! How an error reads: `error:`, what caused it, and a hint how to mend it.

use rag_tune_augment::{AugmentError, TaskError};
use rag_tune_eval::EvalError;
use rag_tune_model::error::ModelError;
use rag_tune_report::ReportError;
use rag_tune_train::TrainError;

use crate::config::ConfigError;

/// A mistake in what the user gave us, found by the command line itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct InputError {
    message: String,
    hint: Option<String>,
}

impl InputError {
    /// What is wrong, and how to mend it.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

/// A command that a signal has ended early, with all that it had done on the disk: no mistake, but
/// not done either.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Interrupted {
    message: String,
    exit_code: u8,
}

impl Interrupted {
    /// What to tell, and the exit code: 128 and the signal's number.
    pub fn new(message: impl Into<String>, exit_code: u8) -> Self {
        Self {
            message: message.into(),
            exit_code,
        }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// The text for stderr: the error, its causes one a line, and the hint of the outermost error that has one.
pub fn render(error: &anyhow::Error) -> String {
    let mut causes = error.chain().map(ToString::to_string);
    let mut text = format!("error: {}", causes.next().unwrap_or_default());
    let mut previous = text.clone();
    for cause in causes {
        // Some libraries repeat their source's text in their own.
        if !previous.ends_with(&cause) {
            text += &format!("\n  caused by: {}", cause.replace('\n', "\n             "));
        }
        previous = cause;
    }
    if let Some(hint) = error.chain().find_map(hint) {
        text += &format!("\nhint: {}", hint.replace('\n', "\n      "));
    }
    text
}

/// Each crate's error enum knows how its errors are mended.
fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    None.or_else(|| error.downcast_ref::<InputError>()?.hint.clone())
        .or_else(|| error.downcast_ref::<ConfigError>()?.hint())
        .or_else(|| error.downcast_ref::<AugmentError>()?.hint())
        .or_else(|| error.downcast_ref::<TaskError>()?.hint())
        .or_else(|| error.downcast_ref::<ModelError>()?.hint())
        .or_else(|| error.downcast_ref::<TrainError>()?.hint())
        .or_else(|| error.downcast_ref::<EvalError>()?.hint())
        .or_else(|| error.downcast_ref::<ReportError>()?.hint())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_and_hint_follow_the_error() {
        let error = Err::<(), _>(InputError::new("`x` is missing\nand `y` too", "add `x`"))
            .context("cannot read the rows")
            .context("cannot score")
            .unwrap_err();
        insta::assert_snapshot!(render(&error), @r"
        error: cannot score
          caused by: cannot read the rows
          caused by: `x` is missing
                     and `y` too
        hint: add `x`
        ");
    }

    #[test]
    fn a_cause_that_the_error_already_quotes_is_not_repeated() {
        let error = anyhow::anyhow!("no such file").context("cannot open `a`: no such file");
        assert_eq!(render(&error), "error: cannot open `a`: no such file");
    }
}
