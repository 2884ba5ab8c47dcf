//! Typed look-ups in the metadata of a GGUF: an absent key is `None`, a value
//! of the wrong type an error that names the key.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use crate::error::ModelError;

/// The metadata of the GGUF at `path`.
pub(crate) struct GgufMetadata<'a> {
    pub path: &'a Path,
    pub values: &'a HashMap<String, Value>,
}

impl<'a> GgufMetadata<'a> {
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.get(
            key,
            |value| value.to_string().ok().map(String::as_str),
            "a string",
        )
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.get(key, |value| value.to_bool().ok(), "a boolean")
    }

    pub fn float(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.get(key, |value| value.to_f32().ok(), "an f32")
    }

    /// A whole number that fits `T`.
    pub fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, ModelError> {
        self.get(key, number, "a whole number that fits")
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let texts = |value: &'a Value| {
            let values = value.to_vec().ok()?;
            values
                .iter()
                .map(|value| value.to_string().ok().map(String::as_str))
                .collect()
        };
        self.get(key, texts, "a list of strings")
    }

    pub fn numbers<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<Vec<T>>, ModelError> {
        let numbers = |value: &'a Value| value.to_vec().ok()?.iter().map(number).collect();
        self.get(key, numbers, "a list of whole numbers")
    }

    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let floats = |value: &'a Value| {
            let values = value.to_vec().ok()?.iter();
            values.map(|value| value.to_f32().ok()).collect()
        };
        self.get(key, floats, "a list of f32")
    }

    /// The end of a text, and of a turn where the file names that as well.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            ids.extend(self.number(key)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    /// The error of a key that must be there.
    pub fn absent(&self, key: &str) -> ModelError {
        ModelError::config(self.path, format!("no `{key}` in the metadata"))
    }

    fn get<T>(
        &self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
        kind: &str,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let detail = format!("`{key}` in the metadata is not {kind}");
                Err(ModelError::config(self.path, detail))
            }
        }
    }
}

/// Converters differ in the integer type that they choose.
fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    let number = match value {
        Value::Bool(_) => return None,
        Value::I8(n) => u64::try_from(*n).ok()?,
        Value::I16(n) => u64::try_from(*n).ok()?,
        Value::I32(n) => u64::try_from(*n).ok()?,
        Value::I64(n) => u64::try_from(*n).ok()?,
        other => other.to_u64().ok()?,
    };
    T::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[(&str, Value)], assert: impl Fn(&GgufMetadata<'_>)) {
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        assert(&GgufMetadata {
            path: Path::new("t.gguf"),
            values: &values,
        });
    }

    #[test]
    fn a_number_is_read_from_any_integer_type_that_holds_it() {
        let values = [Value::U8(7), Value::I32(7), Value::I64(7), Value::U64(7)];
        for value in values {
            check(&[("n", value)], |metadata| {
                assert_eq!(metadata.number::<usize>("n").unwrap(), Some(7));
            });
        }
        for value in [Value::I32(-1), Value::Bool(true), Value::U64(1 << 40)] {
            check(&[("n", value)], |metadata| {
                let error = metadata.number::<u32>("n").unwrap_err().to_string();
                assert!(error.contains("`n`"), "{error}");
            });
        }
        check(&[], |metadata| {
            assert_eq!(metadata.number::<u32>("n").unwrap(), None)
        });
    }

    #[test]
    fn the_end_of_a_turn_also_ends_a_generation() {
        let eos = ("tokenizer.ggml.eos_token_id", Value::U32(2));
        let eot = |id| ("tokenizer.ggml.eot_token_id", Value::U32(id));
        let ids = |metadata: &GgufMetadata<'_>| metadata.eos_token_ids().unwrap();
        check(&[eos.clone(), eot(7)], |metadata| {
            assert_eq!(ids(metadata), [2, 7])
        });
        check(&[eos, eot(2)], |metadata| assert_eq!(ids(metadata), [2]));
    }

    #[test]
    fn a_list_must_be_of_one_kind() {
        let mixed = Value::Array(vec![Value::String("a".to_owned()), Value::U32(1)]);
        check(&[("tokens", mixed)], |metadata| {
            assert!(metadata.texts("tokens").is_err())
        });
    }
}
