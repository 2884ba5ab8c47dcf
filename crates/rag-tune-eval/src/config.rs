//! `[eval]`: which rows are scored, how answers are generated, where the databases lie.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[eval]`: which rows are scored, and how their answers are generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Split whose rows are answered and scored.
    pub split: String,
    /// Folder of SQLite databases, `<db_id>/<db_id>.sqlite`; or "synthetic", which makes databases from the CREATE
    /// TABLE statements in each row's `context` (a folder of that name is "./synthetic"). The environment variable
    /// `RAG_TUNE_DATABASES` and the flag `--databases` go before it.
    pub databases: Option<PathBuf>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Score only the first rows of the split; all of them when absent.
    pub limit: Option<usize>,
    /// Rows generated at a time. More is faster and takes more memory.
    pub batch_size: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            split: "validation".to_owned(),
            databases: None,
            max_new_tokens: 100,
            limit: None,
            batch_size: 32,
        }
    }
}

impl EvalConfig {
    /// Everything that is wrong with these values, each naming its key; empty when all is well.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.split.trim().is_empty() {
            problems.push("`eval.split` must name a split, such as \"validation\"".to_owned());
        }
        for (key, value) in [
            ("eval.max_new_tokens", Some(self.max_new_tokens)),
            ("eval.limit", self.limit),
            ("eval.batch_size", Some(self.batch_size)),
        ] {
            if value == Some(0) {
                problems.push(format!("`{key}` must be at least 1, got 0"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert!(EvalConfig::default().validate().is_empty());
    }

    #[test]
    fn all_problems_are_reported_at_once_and_name_their_key() {
        let config = EvalConfig {
            split: " ".to_owned(),
            max_new_tokens: 0,
            limit: Some(0),
            batch_size: 0,
            ..EvalConfig::default()
        };
        let problems = config.validate();
        for key in ["split", "max_new_tokens", "limit", "batch_size"] {
            let name = format!("`eval.{key}`");
            assert!(problems.iter().any(|p| p.contains(&name)), "{problems:?}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_json::from_str::<EvalConfig>(r#"{"max_tokens": 5}"#).unwrap_err();
        assert!(error.to_string().contains("max_new_tokens"), "{error}");
    }
}
