//! `quantization_config` of config.json: weights that bitsandbytes has quantised already.

use std::path::Path;

use serde::Deserialize;

use super::{ModelConfig, Quantization};
use crate::error::ModelError;

/// How the block linears of a checkpoint are stored, where that is not in floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredQuantization {
    /// As LLM.int8 stores them: 8-bit codes with one scale per output row.
    Int8,
    /// As QLoRA stores them.
    Nf4 {
        /// Whether the scales are quantised too.
        double_quantization: bool,
    },
}

/// config.json, as far as it is read here.
#[derive(Deserialize)]
struct ConfigJson {
    quantization_config: Option<QuantizationConfig>,
}

/// transformers' `BitsAndBytesConfig`, with its defaults.
#[derive(Deserialize)]
struct QuantizationConfig {
    quant_method: Option<String>,
    #[serde(default)]
    load_in_4bit: bool,
    #[serde(default)]
    load_in_8bit: bool,
    bnb_4bit_quant_type: Option<String>,
    #[serde(default)]
    bnb_4bit_use_double_quant: bool,
}

impl StoredQuantization {
    /// From the text of the config.json at `path`; `None` where weights are stored in floating point.
    pub(crate) fn from_config_json(path: &Path, text: &str) -> Result<Option<Self>, ModelError> {
        let json: ConfigJson =
            serde_json::from_str(text).map_err(|error| ModelError::config(path, error))?;
        let Some(config) = json.quantization_config else {
            return Ok(None);
        };
        let unsupported = |feature| ModelError::Unsupported {
            path: path.to_owned(),
            feature,
        };
        let method = config.quant_method.as_deref();
        // Before transformers 4.34 there was no other method, and no key for it.
        if !matches!(method, None | Some("bitsandbytes")) {
            let method = method.unwrap_or_default();
            return Err(unsupported(format!(
                "weights quantized otherwise than by bitsandbytes (`quant_method` = `{method}`)"
            )));
        }
        match (config.load_in_8bit, config.load_in_4bit) {
            (true, false) => Ok(Some(Self::Int8)),
            (false, true) => match config.bnb_4bit_quant_type.as_deref() {
                Some("nf4") => Ok(Some(Self::Nf4 {
                    double_quantization: config.bnb_4bit_use_double_quant,
                })),
                other => Err(unsupported(format!(
                    "4-bit weights other than NF4 (`bnb_4bit_quant_type` = `{}`)",
                    other.unwrap_or("fp4")
                ))),
            },
            _ => Err(ModelError::config(
                path,
                "`quantization_config` must have one of `load_in_8bit` and `load_in_4bit`",
            )),
        }
    }

    /// Refuses settings that ask for something else than what is stored at `path`.
    pub(crate) fn check(self, path: &Path, config: &ModelConfig) -> Result<(), ModelError> {
        let mismatch = |key, got: String, stored: &str| {
            Err(ModelError::QuantizationMismatch {
                path: path.to_owned(),
                key,
                got,
                stored: stored.to_owned(),
            })
        };
        let (wanted, name) = match self {
            Self::Int8 => (Quantization::Int8, "\"int8\""),
            Self::Nf4 { .. } => (Quantization::Nf4, "\"nf4\""),
        };
        if config.quantization != wanted {
            let got = format!("{:?}", config.quantization).to_lowercase();
            return mismatch("quantization", format!("\"{got}\""), name);
        }
        match self {
            Self::Nf4 {
                double_quantization,
            } if double_quantization != config.double_quantization => mismatch(
                "double_quantization",
                config.double_quantization.to_string(),
                &double_quantization.to_string(),
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keys: &str) -> Result<Option<StoredQuantization>, ModelError> {
        let text = format!(r#"{{"quantization_config": {{{keys}}}}}"#);
        StoredQuantization::from_config_json(Path::new("config.json"), &text)
    }

    #[test]
    fn configs_of_transformers_are_understood() {
        let none = StoredQuantization::from_config_json(Path::new("config.json"), "{}");
        assert_eq!(none.unwrap(), None);
        let int8 = r#""quant_method": "bitsandbytes", "load_in_8bit": true, "load_in_4bit": false"#;
        assert_eq!(parse(int8).unwrap(), Some(StoredQuantization::Int8));
        let old = r#""load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true"#;
        let double_quantization = true;
        let nf4 = StoredQuantization::Nf4 {
            double_quantization,
        };
        assert_eq!(parse(old).unwrap(), Some(nf4));
    }

    #[test]
    fn other_quantisations_are_refused_by_name() {
        for (keys, name) in [
            (r#""quant_method": "gptq", "bits": 4"#, "`gptq`"),
            (r#""load_in_4bit": true"#, "`fp4`"),
            (
                r#""load_in_4bit": true, "bnb_4bit_quant_type": "fp4""#,
                "`fp4`",
            ),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let neither = parse(r#""quant_method": "bitsandbytes""#).unwrap_err();
        assert!(neither.to_string().contains("`load_in_8bit`"), "{neither}");
    }

    #[test]
    fn settings_must_say_what_is_stored() {
        let nf4 = StoredQuantization::Nf4 {
            double_quantization: false,
        };
        let path = Path::new("base");
        let mut config = ModelConfig::default();
        StoredQuantization::Int8.check(path, &config).unwrap();
        let error = nf4.check(path, &config).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights in `base` are quantized already: `model.quantization` is \"int8\", \
             but they are stored as \"nf4\""
        );
        let hint = error.hint().unwrap();
        assert!(
            hint.starts_with("set `model.quantization = \"nf4\"`"),
            "{hint}"
        );
        config.quantization = Quantization::Nf4;
        let error = nf4.check(path, &config).unwrap_err().hint().unwrap();
        assert!(
            error.starts_with("set `model.double_quantization = false`"),
            "{error}"
        );
        config.double_quantization = false;
        nf4.check(path, &config).unwrap();
        config.quantization = Quantization::None;
        assert!(nf4.check(path, &config).is_err());
    }
}
