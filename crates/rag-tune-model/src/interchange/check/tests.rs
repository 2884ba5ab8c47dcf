//! One adapter that all programs load, and what each change to it means to each.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::interchange::tests::tiny_config;
use crate::lora::{Adapter, Projection};
use crate::lora_settings::LoraSettings;
use crate::peft::{self, CONFIG_FILE, WEIGHTS_FILE};

/// The folder of a fresh adapter on q, v and down, with some keys of its config replaced.
fn write(folder: &Path, changes: Value) {
    let targets = [Projection::Q, Projection::V, Projection::Down];
    let mut settings = LoraSettings::uniform(2, 4.0, targets);
    if let Some(rank) = changes.get("tensor_rank").and_then(Value::as_u64) {
        settings.rank = rank as usize;
    }
    let adapter = Adapter::new(&tiny_config(), settings, 1);
    let text = peft::config_text(&adapter, "owner/tiny", 0.0).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match key.as_str() {
            "tensor_rank" => config["r"] = json!(2),
            _ => config[key] = value.clone(),
        }
    }
    std::fs::write(folder.join(CONFIG_FILE), config.to_string()).unwrap();
    std::fs::write(
        folder.join(WEIGHTS_FILE),
        peft::weights_bytes(&adapter).unwrap(),
    )
    .unwrap();
}

/// What PEFT, vLLM and llama.cpp say, each in a word or with the reason.
fn said(changes: Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), changes);
    let files = AdapterFiles::open(folder.path()).unwrap();
    let config = tiny_config();
    let options = CheckOptions {
        max_lora_rank: 16,
        base: Some(&config),
    };
    let mut text = String::new();
    for program in Program::ALL {
        let report = check(&files, program, &options);
        text += &format!("{}: {}\n", program.name(), report.verdict());
        for rule in &report.rules {
            if let Some(why) = rule.outcome.reason() {
                text += &format!("  {} ({}): {why}\n", rule.name, rule.outcome.name());
            }
        }
    }
    text
}

#[test]
fn a_plain_adapter_loads_everywhere() {
    assert_eq!(
        said(json!({})),
        "peft: loads\nvllm: loads\nllama.cpp: loads\n"
    );
}

/// Each line of `expected` is one of those that a change makes beyond a plain adapter's.
#[track_caller]
fn assert_said(changes: Value, expected: &str) {
    let said = said(changes);
    let got: Vec<&str> = said
        .lines()
        .filter(|line| !line.ends_with(": loads"))
        .collect();
    assert_eq!(got.join("\n"), expected, "{said}");
}

#[test]
fn a_rank_above_the_limit_is_vllms_affair() {
    assert_said(
        json!({"rank_pattern": {"lm_head": 32}}),
        "vllm: refuses\n  \
         rank <= max_lora_rank (refused): rank 32 is above 16; start vLLM with --max-lora-rank 32\n  \
         rank and alpha patterns (note): older releases (0.11 for one) ignore patterns, without a word, and scale \
         every layer by `lora_alpha` and `r`",
    );
}

#[test]
fn rslora_is_not_read_by_llama_cpps_converter() {
    assert_said(
        json!({"use_rslora": true}),
        "llama.cpp: loads wrongly\n  no rsLoRA (wrong): the converter does not read `use_rslora`; \
         `rag-tune export --format gguf` does",
    );
}

#[test]
fn dora_is_refused_but_by_peft_which_misses_the_magnitudes() {
    let said = said(json!({"use_dora": true}));
    assert!(
        said.contains("vllm: refuses\n  no DoRA (refused): `use_dora` is set\n"),
        "{said}"
    );
    assert!(
        said.contains("llama.cpp: refuses\n  no DoRA (refused)"),
        "{said}"
    );
    assert!(
        said.contains("peft: loads wrongly\n  every factor is there (wrong): `model.layers.0.self_attn.q_proj` has no `lora_magnitude_vector` (and 5 more)"),
        "{said}"
    );
}

#[test]
fn tensors_of_another_rank_are_named() {
    let said = said(json!({"tensor_rank": 3}));
    let shape =
        "`lora_A` of `model.layers.0.mlp.down_proj` is [3, 24], expected [2, 24] (and 11 more)";
    assert!(
        said.contains(&format!("shapes (refused): {shape}")),
        "{said}"
    );
    assert!(said.contains(&format!("shapes (wrong): {shape}")), "{said}");
}

#[test]
fn a_target_without_tensors_is_missed_and_tensors_without_a_target_are_left_over() {
    let said = said(json!({"target_modules": ["q_proj", "v_proj", "up_proj"]}));
    assert!(
        said.contains("(wrong): `model.layers.0.mlp.up_proj` has no factors (and 1 more)"),
        "{said}"
    );
    assert!(
        said.contains("(wrong): `model.layers.0.mlp.down_proj` is no target module; its factors are ignored (and 1 more)"),
        "{said}"
    );
}

#[test]
fn what_vllm_does_not_serve_is_named() {
    for (changes, why) in [
        (
            json!({"modules_to_save": ["lm_head"]}),
            "it holds `lm_head`",
        ),
        (json!({"bias": "all"}), "`bias` is `all`"),
        (json!({"lora_bias": true}), "`lora_bias` is set"),
        (
            json!({"init_lora_weights": "pissa"}),
            "`init_lora_weights` is `pissa`",
        ),
        (json!({"use_qalora": true}), "`use_qalora` is set"),
        (json!({"r": 0}), "a rank is not a positive number"),
    ] {
        let said = said(changes);
        let vllm = said.split("vllm: ").nth(1).unwrap();
        assert!(vllm.starts_with("refuses") && vllm.contains(why), "{said}");
    }
}

#[test]
fn a_path_as_the_bases_name_is_pointed_out() {
    let said = said(json!({"base_model_name_or_path": "/data/llama"}));
    assert!(
        said.starts_with("peft: loads\n  base model's name (note):"),
        "{said}"
    );
}

proptest::proptest! {
    /// Whatever a config says, it is judged, not met with a panic.
    #[test]
    fn no_config_makes_a_check_panic(
        key in "(r|lora_alpha|target_modules|rank_pattern|alpha_pattern|bias|modules_to_save|layers_to_transform|init_lora_weights|peft_type)",
        value in proptest::sample::select(vec![
            json!(null), json!(-1), json!(1.5), json!("("), json!([]), json!([1, "q_proj"]), json!({"(": 3}),
            json!({"q_proj": "x"}), json!(true), json!(u64::MAX),
        ]),
    ) {
        let mut changes = serde_json::Map::new();
        changes.insert(key, value);
        said(Value::Object(changes));
    }
}
