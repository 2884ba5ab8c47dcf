//! Shapes of models that can be timed without their weights.

use std::path::Path;

use rag_tune_model::config::LlamaConfig;

use crate::error::InputError;

/// A known model's shape, or that of a config.json.
///
/// # Errors
/// When it is neither, or the file is of no Llama that we can run.
pub fn shape(name: &str) -> anyhow::Result<LlamaConfig> {
    if let Some(shape) = LlamaConfig::known(name) {
        return Ok(shape);
    }
    if Path::new(name).is_file() {
        return Ok(LlamaConfig::from_file(Path::new(name))?);
    }
    let message = format!("`{name}` is no known shape and no config.json");
    let hint = format!("known shapes: {}", LlamaConfig::KNOWN.join(", "));
    Err(InputError::new(message, hint).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = shape("llama-9").unwrap_err();
        let text = crate::error::render(&error);
        assert!(
            text.contains("`llama-9`") && text.contains("codellama-7b"),
            "{text}"
        );
    }
}
