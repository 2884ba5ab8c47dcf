//! `adapter_config.json`: what it says of a Llama, and which of its keys change the result.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::targets::{Modules, Selection, Wanted};
use crate::config::LlamaConfig;
use crate::error::ModelError;
use crate::lora::Place;
use crate::lora_settings::{LoraSettings, compiled, module_name};

/// The keys that rag-tune writes: those that every release of PEFT knows, since older ones refuse others.
#[derive(Debug, Serialize)]
struct Written {
    peft_type: &'static str,
    task_type: &'static str,
    base_model_name_or_path: String,
    r: usize,
    lora_alpha: f32,
    lora_dropout: f32,
    target_modules: Vec<String>,
    bias: &'static str,
    fan_in_fan_out: bool,
    use_rslora: bool,
    use_dora: bool,
    modules_to_save: Option<Vec<String>>,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f32>,
    layers_to_transform: Option<Vec<usize>>,
    init_lora_weights: bool,
    inference_mode: bool,
}

/// The text of `adapter_config.json`.
///
/// # Errors
/// [`serde_json::Error`] if a number is not finite.
pub(super) fn text(
    settings: &LoraSettings,
    base: &str,
    dropout: f32,
) -> Result<String, serde_json::Error> {
    let selection = Selection::of(settings);
    let config = Written {
        peft_type: "LORA",
        task_type: "CAUSAL_LM",
        base_model_name_or_path: base.to_owned(),
        r: settings.rank,
        lora_alpha: settings.alpha,
        lora_dropout: dropout,
        target_modules: selection.target_modules,
        bias: "none",
        fan_in_fan_out: false,
        use_rslora: settings.use_rslora,
        use_dora: settings.use_dora,
        modules_to_save: None,
        rank_pattern: settings.rank_pattern.clone(),
        alpha_pattern: settings.alpha_pattern.clone(),
        layers_to_transform: selection.layers_to_transform,
        init_lora_weights: true,
        inference_mode: true,
    };
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

/// The keys that are read; the rest is judged by name. Defaults are PEFT's.
#[derive(Debug, Deserialize)]
struct Stored {
    peft_type: String,
    #[serde(default = "eight")]
    r: usize,
    #[serde(default = "eight_as_float")]
    lora_alpha: f32,
    target_modules: Option<Modules>,
    exclude_modules: Option<Modules>,
    layers_to_transform: Option<OneOrSeveral<usize>>,
    layers_pattern: Option<OneOrSeveral<String>>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn eight() -> usize {
    8
}

fn eight_as_float() -> f32 {
    8.0
}

/// PEFT takes a value where it means a list of one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrSeveral<T> {
    One(T),
    Several(Vec<T>),
}

impl<T> OneOrSeveral<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Several(values) => values,
        }
    }
}

/// Reads `adapter_config.json` for a model of this shape.
///
/// # Errors
/// [`ModelError::Corrupt`] for what is no such file, [`ModelError::Unsupported`] naming a key that
/// changes the result in a way that is not supported.
pub(super) fn settings(
    path: &Path,
    text: &str,
    config: &LlamaConfig,
) -> Result<LoraSettings, ModelError> {
    let stored: Stored =
        serde_json::from_str(text).map_err(|error| ModelError::corrupt(path, error))?;
    let unsupported = |feature: String| ModelError::Unsupported {
        path: path.to_owned(),
        feature,
    };
    if stored.peft_type != "LORA" {
        return Err(unsupported(format!("`peft_type` {}", stored.peft_type)));
    }
    if stored.r == 0 {
        return Err(ModelError::corrupt(path, "`r` is 0"));
    }
    for (key, value) in &stored.rest {
        if !is_neutral(key, value) {
            return Err(unsupported(format!("`{key}` = {value}")));
        }
    }
    let layers = config.num_hidden_layers;
    let wanted = Wanted {
        target: stored.target_modules,
        exclude: stored.exclude_modules,
        layers: stored.layers_to_transform.map(OneOrSeveral::into_vec),
        layers_pattern: stored.layers_pattern.map(OneOrSeveral::into_vec),
    };
    let places = wanted.places(path, layers)?;
    let mut settings =
        LoraSettings::uniform(stored.r, stored.lora_alpha, places.iter().map(|(_, p)| *p));
    settings.use_rslora = stored.use_rslora;
    settings.use_dora = stored.use_dora;
    if settings.targets.len() * layers != places.len() {
        settings.only = Some(places.clone());
    }
    let places: Vec<Place> = places.into_iter().collect();
    let rank_pattern = stored.rank_pattern.unwrap_or_default();
    settings.rank_pattern = patterns(path, "rank_pattern", &rank_pattern, &places)?;
    if let Some((pattern, _)) = settings.rank_pattern.iter().find(|(_, rank)| **rank == 0) {
        let detail = format!("`rank_pattern` gives `{pattern}` the rank 0");
        return Err(ModelError::corrupt(path, detail));
    }
    let alpha_pattern = stored.alpha_pattern.unwrap_or_default();
    settings.alpha_pattern = patterns(path, "alpha_pattern", &alpha_pattern, &places)?;
    Ok(settings)
}

/// Whether a key that is not read leaves the result as it is.
fn is_neutral(key: &str, value: &Value) -> bool {
    /// Where the adapter comes from, how it was trained, or options of what has to be switched on by another key.
    const OF_NO_EFFECT: [&str; 14] = [
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
    ];
    match (key, value) {
        ("bias", value) => value == "none",
        // The other ways of starting take a part out of the base's weights when they load.
        ("init_lora_weights", Value::String(how)) => {
            ["gaussian", "orthogonal", "eva"].contains(&how.as_str())
        }
        ("init_lora_weights", _) => true,
        (key, _) if OF_NO_EFFECT.contains(&key) => true,
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(values)) => values.is_empty(),
        (_, Value::Object(values)) => values.is_empty(),
        _ => false,
    }
}

/// Patterns with the meaning that they have in the file: there the first that matches counts, in
/// [`LoraSettings`] the first by name. Where that differs, every layer gets a pattern of its own.
fn patterns<T: DeserializeOwned + Copy + PartialEq>(
    path: &Path,
    key: &str,
    stored: &Map<String, Value>,
    places: &[Place],
) -> Result<BTreeMap<String, T>, ModelError> {
    let mut in_order = Vec::new();
    for (pattern, value) in stored {
        let regex = compiled(pattern).map_err(|error| {
            let detail = format!("`{key}`: `{pattern}` is no regular expression: {error}");
            ModelError::corrupt(path, detail)
        })?;
        let value: T = serde_json::from_value(value.clone()).map_err(|error| {
            ModelError::corrupt(path, format!("`{key}` of `{pattern}`: {error}"))
        })?;
        in_order.push((pattern, regex, value));
    }
    let mut by_name: Vec<_> = in_order.iter().collect();
    by_name.sort_by_key(|(pattern, ..)| *pattern);
    let mut of_places = BTreeMap::new();
    let mut same = true;
    for place in places {
        let name = module_name(*place);
        let first = in_order.iter().find(|(_, regex, _)| regex.is_match(&name));
        let first_by_name = by_name.iter().find(|(_, regex, _)| regex.is_match(&name));
        same &= first.map(|(.., value)| *value) == first_by_name.map(|(.., value)| *value);
        if let Some((.., value)) = first {
            of_places.insert(regex::escape(&name), *value);
        }
    }
    Ok(match same {
        true => in_order
            .into_iter()
            .map(|(pattern, _, value)| (pattern.clone(), value))
            .collect(),
        false => of_places,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::lora::{Adapter, Projection};
    use serde_json::json;
    use std::fs;

    fn golden() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden")
    }

    fn tiny() -> LlamaConfig {
        let checkpoint = Checkpoint::open(&golden().join("tiny_untied")).unwrap();
        checkpoint.config().clone()
    }

    fn read(config: &Value) -> Result<LoraSettings, ModelError> {
        settings(
            Path::new("adapter_config.json"),
            &config.to_string(),
            &tiny(),
        )
    }

    /// Rank and scaling of every adapted module.
    fn adapted(settings: &LoraSettings) -> Map<String, Value> {
        let places = settings.places(tiny().num_hidden_layers).into_iter();
        let named = places.map(|place| {
            let scaling = (f64::from(settings.scaling_at(place)) * 1e6).round() / 1e6;
            (
                module_name(place),
                json!([settings.rank_at(place), scaling]),
            )
        });
        named.collect()
    }

    /// `scripts/golden_lora_variants.py`: what PEFT makes of each config.
    #[test]
    fn layers_ranks_and_scalings_are_those_of_peft() {
        let text = fs::read_to_string(golden().join("lora_variants/selections.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert!(cases.len() >= 12);
        for case in &cases {
            let config = &case["config"];
            match case["adapted"].as_object() {
                Some(expected) => {
                    let settings = read(config).unwrap();
                    let ours: BTreeMap<_, _> = adapted(&settings).into_iter().collect();
                    let theirs: BTreeMap<_, _> = expected.clone().into_iter().collect();
                    assert_eq!(ours, theirs, "{config}");
                    // And what we write means the same.
                    let again = text_and_back(&settings);
                    assert_eq!(adapted(&again), adapted(&settings), "{config}");
                    assert_eq!(again, settings, "{config}");
                }
                None => assert!(read(config).is_err(), "{config}"),
            }
        }
    }

    fn text_and_back(written: &LoraSettings) -> LoraSettings {
        let text = text(written, "base", 0.0).unwrap();
        settings(Path::new("adapter_config.json"), &text, &tiny()).unwrap()
    }

    #[test]
    fn keys_of_no_effect_are_ignored_and_others_refused_by_name() {
        let plain = json!({"peft_type": "LORA", "target_modules": ["q_proj"]});
        let with = |key: &str, value: Value| {
            let mut config = plain.clone();
            config[key] = value;
            read(&config)
        };
        for (key, value) in [
            ("a_key_of_2030", json!(null)),
            ("a_key_of_2030", json!({})),
            ("lora_bias", json!(false)),
            ("megatron_core", json!("megatron.core")),
            ("qalora_group_size", json!(16)),
            ("init_lora_weights", json!("gaussian")),
            ("modules_to_save", json!([])),
        ] {
            assert!(with(key, value).is_ok(), "{key}");
        }
        for (key, value) in [
            ("a_key_of_2030", json!(true)),
            ("lora_bias", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("bias", json!("all")),
            ("fan_in_fan_out", json!(true)),
            ("layer_replication", json!([[0, 1]])),
            ("use_qalora", json!(true)),
            ("trainable_token_indices", json!([3])),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("alora_invocation_tokens", json!([1, 2])),
            ("target_parameters", json!(["mlp.weight"])),
        ] {
            let error = with(key, value).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}` = ")), "{error}");
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            let error = with(key, json!({"q_proj(": 4})).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains("no regular expression"),
                "{error}"
            );
        }
        let error = with("target_modules", json!(".*(q_proj")).unwrap_err();
        assert!(
            error.to_string().contains("no regular expression"),
            "{error}"
        );
        let error = with("rank_pattern", json!({"q_proj": "four"})).unwrap_err();
        assert!(
            error.to_string().contains("`rank_pattern` of `q_proj`"),
            "{error}"
        );
    }

    #[test]
    fn an_adapter_of_the_head_is_refused_with_the_reason() {
        for targets in [
            json!(["q_proj", "lm_head"]),
            json!(".*"),
            json!(["embed_tokens"]),
        ] {
            let config = json!({"peft_type": "LORA", "target_modules": targets});
            let error = read(&config).unwrap_err();
            assert!(
                matches!(error, ModelError::AdapterOutsideBlocks { .. }),
                "{error}"
            );
            assert!(error.hint().unwrap().contains("16 bits"), "{error}");
        }
    }

    #[test]
    fn an_adapter_of_some_layers_has_no_other_tensors() {
        let config = json!({
            "peft_type": "LORA", "target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1,
        });
        let adapter = Adapter::new(&tiny(), read(&config).unwrap(), 1);
        let places: Vec<Place> = adapter.layers.keys().copied().collect();
        assert_eq!(places, [(1, Projection::Q), (1, Projection::Up)]);
    }
}
