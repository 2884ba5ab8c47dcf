//! What a run's result depends on: a checkpoint is only ever continued by the same run.

use std::collections::{BTreeMap, BTreeSet};

use rag_tune_model::config::Quantization;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::hex;
use crate::trainer::TrainRequest;
use crate::validation::Validation;

/// Keys of `[train]` that change neither a gradient nor the order of the rows, so that a run may go
/// on with other values: how often and how many checkpoints are written, what is computed again
/// instead of being kept, when the run gives up.
const FREE_TO_CHANGE: [&str; 4] = [
    "checkpoint_every",
    "keep_checkpoints",
    "activations",
    "max_non_finite_steps",
];

/// Keys that set how many steps the run has.
const LENGTH: [&str; 2] = ["train.max_steps", "train.epochs"];

/// Base model, rows and every setting that the result depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// `Checkpoint::fingerprint` of the base model.
    base_model: String,
    /// SHA-256 of the rows as token ids, prompts of all epochs included.
    rows: String,
    /// Value of each key, as JSON.
    settings: BTreeMap<String, String>,
}

impl Identity {
    /// The identity of a run that is about to begin or to go on.
    pub(crate) fn of(request: &TrainRequest<'_>) -> Self {
        let mut rows = Sha256::new();
        request.set.hash_into(&mut |bytes| rows.update(bytes));
        let mut settings = BTreeMap::new();
        settings.extend(section("lora", request.lora, &[]));
        settings.extend(section("train", request.train, &FREE_TO_CHANGE));
        settings.insert("seed".to_owned(), request.seed.to_string());
        let compute = format!("{:?}", request.model.compute()).to_lowercase();
        settings.insert("model.compute".to_owned(), compute);
        let quantization = format!("{:?}", request.model.quantization()).to_lowercase();
        settings.insert("model.quantization".to_owned(), quantization);
        if request.model.quantization() == Quantization::Nf4 {
            let double = request.model.double_quantization().to_string();
            settings.insert("model.double_quantization".to_owned(), double);
        }
        Self {
            base_model: request.model.fingerprint().to_owned(),
            rows: hex(&rows.finalize()),
            settings,
        }
    }

    /// With the validation, which decides when the run stops and which adapter it ends with.
    pub(crate) fn with_validation(mut self, validation: &Validation<'_>) -> Self {
        self.settings
            .extend(section("validation", validation.config, &[]));
        let mut judged = Sha256::new();
        validation
            .judge
            .hash_into(&mut |bytes| judged.update(bytes));
        self.settings.insert(
            "SHA-256 of what validation looks at".to_owned(),
            hex(&judged.finalize()),
        );
        self
    }

    /// What differs in the run that is there now, in words; `None` if it is the same run.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        let mut parts = self.differences(now, |key, then, now| {
            format!("`{key}` was {then} and is {now}")
        });
        let length = |part: &String| {
            LENGTH
                .iter()
                .any(|key| part.starts_with(&format!("`{key}`")))
        };
        if parts.iter().any(length) {
            parts.push(
                "the learning rate of every step depends on the number of steps, so a run cannot be \
                 made longer or shorter"
                    .to_owned(),
            );
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// What differs from the run of rank 0, in words; `None` if it is the same run.
    pub(crate) fn difference_from_first(&self, first: &Self) -> Option<String> {
        let parts = self.differences(first, |key, here, first| {
            format!("`{key}` is {here} there and {first} on rank 0")
        });
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn differences(&self, other: &Self, words: impl Fn(&str, &str, &str) -> String) -> Vec<String> {
        let mut parts = Vec::new();
        if self.base_model != other.base_model {
            parts.push("the base model has other weights".to_owned());
        }
        if self.rows != other.rows {
            parts.push("the training rows are others (data, prompts or tokenizer)".to_owned());
        }
        let keys: BTreeSet<&String> = self.settings.keys().chain(other.settings.keys()).collect();
        let value_in = |of: &Self, key| {
            of.settings
                .get(key)
                .map_or("not set", String::as_str)
                .to_owned()
        };
        for key in keys {
            let (one, other) = (value_in(self, key), value_in(other, key));
            if one != other {
                parts.push(words(key, &one, &other));
            }
        }
        parts
    }
}

/// The keys of a config section but for those in `left_out`.
fn section(name: &str, config: &impl Serialize, left_out: &[&str]) -> BTreeMap<String, String> {
    // Through text: as a JSON value an f32 would get the digits of an f64.
    let text = serde_json::to_string(config).expect("a config is JSON");
    let values: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).expect("a section is a table");
    values
        .into_iter()
        .filter(|(key, _)| !left_out.contains(&key.as_str()))
        .map(|(key, value)| (format!("{name}.{key}"), value.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    fn identity(train: &TrainConfig) -> Identity {
        Identity {
            base_model: "b".to_owned(),
            rows: "r".to_owned(),
            settings: section("train", train, &FREE_TO_CHANGE),
        }
    }

    #[test]
    fn keys_that_may_change_are_keys() {
        let all = section("train", &TrainConfig::default(), &[]);
        for key in FREE_TO_CHANGE {
            assert!(all.contains_key(&format!("train.{key}")), "{key}");
        }
    }

    #[test]
    fn a_difference_names_the_key_and_both_values() {
        let then = identity(&TrainConfig::default());
        let now = TrainConfig {
            learning_rate: 1e-3,
            ..Default::default()
        };
        assert_eq!(
            then.difference(&identity(&now)).unwrap(),
            "`train.learning_rate` was 0.0003 and is 0.001"
        );
        assert_eq!(then.difference(&then), None);
    }

    #[test]
    fn another_length_is_refused_with_its_reason() {
        let with = |max_steps| {
            identity(&TrainConfig {
                max_steps: Some(max_steps),
                ..Default::default()
            })
        };
        let difference = with(60).difference(&with(100)).unwrap();
        assert!(
            difference.starts_with("`train.max_steps` was 60 and is 100; the learning rate"),
            "{difference}"
        );
    }

    #[test]
    fn rows_and_base_are_told_apart() {
        let then = identity(&TrainConfig::default());
        let rows = Identity {
            rows: "other".to_owned(),
            ..then.clone()
        };
        let base = Identity {
            base_model: "other".to_owned(),
            ..then.clone()
        };
        assert!(then.difference(&rows).unwrap().contains("training rows"));
        assert!(then.difference(&base).unwrap().contains("base model"));
    }
}
