//! `rag-tune merge` on a toy model: what it writes, what it tells, what it refuses.

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::toy_world::ToyWorld;

/// A finished run at `out/zero_shot`, with a learning rate at which two steps matter.
fn trained(flags: &[&str]) -> ToyWorld {
    let world = ToyWorld::new();
    let rate = ["train", "run.toml", "--set", "train.learning_rate=0.05"];
    world.rag_tune(&[&rate[..], flags].concat()).ok();
    world
}

const MERGE: [&str; 5] = ["merge", "--adapter", "out/zero_shot", "--out", "merged"];

fn merge(world: &ToyWorld, flags: &[&str]) -> support::Run {
    world.rag_tune(&[&MERGE[..], flags].concat())
}

fn names(world: &ToyWorld, folder: &str) -> Vec<String> {
    let files = support::files_below(&world.path(folder));
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(name).collect()
}

fn record(world: &ToyWorld) -> Value {
    serde_json::from_str(&world.read("merged/rag_tune_merge.json")).unwrap()
}

/// FIELD: merging into a quantised base changes outputs, and nobody says by how much.
#[test]
fn merge_drift_is_reported() {
    let world = trained(&[]);
    let told = merge(&world, &[]).ok();
    assert!(
        told.contains("the adapter on the int8 base of its training"),
        "{told}"
    );
    assert!(
        told.contains("the answers of 3 rows of `validation`"),
        "{told}"
    );
    assert!(told.ends_with("\nmerged\n"), "{told}");
    assert_eq!(
        names(&world, "merged"),
        [
            "config.json",
            "model.safetensors",
            "rag_tune_merge.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let record = record(&world);
    assert_eq!(record["base_weights"], "original");
    assert_eq!(record["quantization_in_training"], "int8");
    let from = record["drift"]["from"].as_array().unwrap();
    let kl: Vec<f64> = from
        .iter()
        .map(|from| from["drift"]["kl_nats"].as_f64().unwrap())
        .collect();
    // Merged is the adapter on the stored base but for f32 sums, near the quantised one, and far from no adapter.
    let [trained, stored, without] = kl[..] else {
        panic!("{record:#}")
    };
    assert!(stored < 1e-9 && stored < trained / 10.0, "{kl:?}");
    assert!(trained < without / 10.0, "{kl:?}");
    assert_eq!(from[1]["drift"]["equal_argmax"], 1.0);
    let text = world.read("merged/rag_tune_merge.json");
    let parent = world.path("").display().to_string();
    assert!(!text.contains(parent.trim_end_matches('/')), "{text}");
    assert!(
        world.read("merged/config.json") == world.read("model/config.json"),
        "the config is the base's"
    );
}

#[test]
fn a_merged_model_answers_as_the_adapter_did() {
    let world = trained(&[
        "--set",
        "lora.use_dora=true",
        "--set",
        "lora.use_rslora=true",
    ]);
    let told = merge(&world, &["--base-weights", "dequantized"]).ok();
    assert!(told.contains("100.00 %"), "{told}");
    let drift = &record(&world)["drift"]["from"][0]["drift"];
    assert!(
        drift["max_abs_logit_difference"].as_f64().unwrap() < 1e-4,
        "{drift:#}"
    );

    let ids = ["--json", "--ids", "72,111,119,32,109,97,110,121"];
    let adapter = [
        "debug-logits",
        "--adapter",
        "out/zero_shot",
        "--set",
        "model.compute=f32",
    ];
    let adapter = world.rag_tune(&[&adapter[..], &ids].concat()).ok();
    let alone = [
        "debug-logits",
        "--config",
        "run.toml",
        "--set",
        "model.base=merged",
        "--set",
        "model.quantization=none",
        "--set",
        "model.compute=f32",
    ];
    let merged = world.rag_tune(&[&alone[..], &ids].concat()).ok();
    let logits = |text: &str| -> Vec<f64> {
        let value: Value = serde_json::from_str(text).unwrap();
        serde_json::from_value(value["logits_last"].clone()).unwrap()
    };
    let (adapter, merged) = (logits(&adapter), logits(&merged));
    assert_eq!(adapter.len(), 258);
    for (a, b) in adapter.iter().zip(&merged) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// In any folder with an adapter: the base is named, and the texts too.
#[test]
fn an_adapter_of_another_program_is_merged_with_a_named_base() {
    let world = trained(&[]);
    let peft = [
        "export",
        "--adapter",
        "out/zero_shot",
        "--format",
        "peft",
        "--out",
        "hub",
    ];
    world.rag_tune(&peft).ok();
    let merge = |flags: &[&str]| {
        world.rag_tune(&[&["merge", "--adapter", "hub", "--out", "merged"], flags].concat())
    };
    let refusal = merge(&[]).refused();
    assert!(refusal.contains("hint: --base MODEL names it"), "{refusal}");
    let refusal = merge(&["--base", "model"]).refused();
    assert!(refusal.contains("hint: --text FILE"), "{refusal}");
    let refusal = merge(&[
        "--base",
        "model",
        "--rows",
        "0",
        "--base-weights",
        "dequantized",
    ]);
    let refusal = refusal.refused();
    assert!(refusal.contains("--quantization int8 or nf4"), "{refusal}");
    assert!(!world.path("merged").exists());

    world.write("sample.txt", &"SELECT name FROM pets; ".repeat(60));
    let told = merge(&["--base", "model", "--text", "sample.txt", "--rows", "2"]).ok();
    assert!(
        told.contains("2 pieces of `sample.txt`, 1022 tokens"),
        "{told}"
    );
    assert!(
        told.contains("the adapter on the unquantised base"),
        "{told}"
    );
    merge(&["--base", "model", "--rows", "0", "--force"]).ok();
    assert_eq!(record(&world)["drift"], Value::Null);
}

#[test]
fn what_is_there_is_not_replaced_by_a_slip() {
    let world = trained(&[]);
    merge(&world, &["--rows", "0"]).ok();
    let refusal = merge(&world, &[]).refused();
    assert!(refusal.contains("hint: --force replaces it"), "{refusal}");
    merge(&world, &["--rows", "0", "--force"]).ok();

    let into = |folder: &str| {
        let flags = [
            "merge",
            "--adapter",
            "out/zero_shot",
            "--force",
            "--out",
            folder,
        ];
        world.rag_tune(&flags).refused()
    };
    for folder in ["model", "data", "run.toml"] {
        let refusal = into(folder);
        assert!(refusal.contains("is no merged model"), "{refusal}");
    }
    assert!(into("out/zero_shot").contains("the adapter's own folder"));

    // A merged model can be a base, and is not written over then.
    let same = ["--base", "merged", "--force"];
    let refusal = merge(&world, &same).refused();
    assert!(
        refusal.contains("--out is the base model's own folder"),
        "{refusal}"
    );

    let left: Vec<_> = std::fs::read_dir(world.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".rag-tune"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_base_that_does_not_fit_is_refused_and_nothing_is_left() {
    let world = trained(&[]);
    let config = world.read("model/config.json");
    let copy = |folder: &str, config: &str| {
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            world.write(
                &format!("{folder}/{file}"),
                &world.read(&format!("model/{file}")),
            );
        }
        world.write(&format!("{folder}/config.json"), config);
        let weights = world.path("model/model.safetensors");
        std::fs::copy(weights, world.path(&format!("{folder}/model.safetensors"))).unwrap();
    };
    copy(
        "deeper",
        &config.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":3"),
    );
    let refusal = merge(&world, &["--base", "deeper"]).refused();
    assert!(
        refusal.contains("`deeper` has no tensor `model.layers.2.input_layernorm.weight`"),
        "{refusal}"
    );
    let wide = "\"intermediate_size\":128";
    assert!(config.contains(wide));
    copy("wider", &config.replace(wide, &format!("{wide}0")));
    let refusal = merge(&world, &["--base", "wider"]).refused();
    assert!(
        refusal.contains("`wider` has other shapes than `model`"),
        "{refusal}"
    );
    assert!(!world.path("merged").exists());

    let path = "out/zero_shot/adapter_config.json";
    let torn = world.read(path).replace("\"r\": 4", "\"r\": 5");
    world.write(path, &torn);
    let refusal = merge(&world, &[]).refused();
    assert!(
        refusal.contains("is [4, 64], expected [5, 64] (rank, in)"),
        "{refusal}"
    );
    assert!(!world.path("merged").exists());
}

/// For llama.cpp: one file with weights and tokenizer, which answers as the adapter does but for 8 bits.
#[test]
fn a_merged_gguf_is_a_model_by_itself() {
    let world = trained(&[]);
    let told = merge(&world, &["--gguf"]).ok();
    assert!(told.ends_with("\nmerged\n"), "{told}");
    assert_eq!(
        names(&world, "merged"),
        ["rag_tune_merge.json", "zero_shot-Q8_0.gguf"]
    );
    let record = record(&world);
    assert_eq!(record["written_as"], "q8_0");
    let from = record["drift"]["from"].as_array().unwrap();
    let kl = |index: usize| from[index]["drift"]["kl_nats"].as_f64().unwrap();
    // Rounded once more than the adapter on the stored base, and far nearer to it than the base without it is.
    assert!(kl(1) > 0.0 && kl(1) < kl(2) / 10.0, "{record:#}");

    // The folder is a model for us too: of the merge, and with nothing but the file itself.
    let ids = "72,111,119,32,109,97,110,121";
    let logits = |base: &str| {
        let base = format!("model.base={base}");
        let plain = ["--set", "model.quantization=none"];
        let command = ["debug-logits", "--config", "run.toml", "--ids", ids];
        world
            .rag_tune(&[&command[..], &["--set", &base], &plain].concat())
            .ok()
    };
    let of_folder = logits("merged");
    assert_eq!(of_folder, logits("merged/zero_shot-Q8_0.gguf"));
    assert_ne!(of_folder, logits("model"));

    // And a base: the adapter once more, into plain tensors.
    let again = [
        "merge",
        "--adapter",
        "out/zero_shot",
        "--base",
        "merged",
        "--out",
        "again",
        "--rows",
        "0",
    ];
    world.rag_tune(&again).ok();
    assert_eq!(
        names(&world, "again"),
        [
            "config.json",
            "model.safetensors",
            "rag_tune_merge.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert!(world.read("again/config.json").contains("\"bfloat16\""));
    assert_ne!(logits("again"), of_folder);
    let refusal = merge(&world, &["--base", "merged", "--force"]).refused();
    assert!(
        refusal.contains("--out is the base model's own folder"),
        "{refusal}"
    );
}

#[test]
fn a_merged_model_has_the_type_that_was_asked_for() {
    let world = trained(&[]);
    let bytes = |flags: &[&str]| {
        merge(&world, &[&["--rows", "0", "--force"], flags].concat()).ok();
        std::fs::metadata(world.path("merged/model.safetensors"))
            .unwrap()
            .len()
    };
    let own = bytes(&[]);
    assert_eq!(record(&world)["written_as"], "base");
    assert_eq!(own, bytes(&["--dtype", "f32"]));
    for dtype in ["bf16", "f16"] {
        let half = bytes(&["--dtype", dtype]);
        assert!(
            half > own / 2 - 8192 && half < own / 2 + 8192,
            "{half} {own}"
        );
        assert_eq!(record(&world)["written_as"], dtype);
    }
    assert!(world.read("merged/config.json").contains("\"float16\""));
    let told = merge(&world, &["--force", "--dtype", "bf16"]).ok();
    assert!(told.contains("the merged model's loss"), "{told}");
}

#[test]
fn a_gguf_that_llama_cpp_would_read_otherwise_is_refused() {
    let world = trained(&[]);
    let original = world.read("model/tokenizer.json");
    let gguf = |tokenizer: &str| {
        world.write("model/tokenizer.json", tokenizer);
        let refusal = merge(&world, &["--gguf", "--rows", "0"]).refused();
        assert!(!world.path("merged").exists());
        refusal
    };
    let prefixed = original.replace("\"add_prefix_space\":false", "\"add_prefix_space\":true");
    assert_ne!(prefixed, original);
    let refusal = gguf(&prefixed);
    assert!(
        refusal.contains("its pre-tokenizer is none of `gpt-2`, `smollm`, `llama-bpe`"),
        "{refusal}"
    );
    assert!(
        refusal.contains("hint: write safetensors (without --gguf)"),
        "{refusal}"
    );
    std::fs::remove_file(world.path("model/tokenizer.json")).unwrap();
    let refusal = merge(&world, &["--gguf", "--rows", "0"]).refused();
    assert!(
        refusal.contains("neither tokenizer.json nor tokenizer.model"),
        "{refusal}"
    );
    let both = merge(&world, &["--gguf", "--dtype", "bf16"]);
    assert_ne!(both.code, 0);
    assert!(
        both.stderr.contains("cannot be used with"),
        "{}",
        both.stderr
    );
}
