//! `rag-tune plan` on a toy model: nothing is loaded, and the counts are those of the run.

mod support;

use serde_json::Value;
use support::toy_world::ToyWorld;

fn planned(world: &ToyWorld, more: &[&str]) -> Value {
    let flags = [&["plan", "run.toml", "--json"], more].concat();
    serde_json::from_str(&world.rag_tune(&flags).ok()).unwrap()
}

#[test]
fn tokens_and_steps_are_those_of_the_run() {
    let world = ToyWorld::new();
    // Nine rows: the second run goes on into its second epoch.
    for [length, step] in [
        ["train.max_steps=3", "train.batch_size=3"],
        ["train.max_steps=7", "train.batch_size=2"],
    ] {
        let flags = ["--set", length, "--set", step];
        let plan = planned(&world, &flags);
        let train = [&["train", "run.toml", "--force"][..], &flags].concat();
        world.rag_tune(&train).ok();
        let steps = world.json_lines("out/zero_shot/metrics.jsonl");
        let sum = |key: &str| -> u64 { steps.iter().map(|step| step[key].as_u64().unwrap()).sum() };
        assert_eq!(plan["work"]["steps"], steps.len());
        assert_eq!(plan["work"]["tokens"], sum("tokens"));
        assert_eq!(plan["work"]["supervised_tokens"], sum("supervised_tokens"));
        assert!(plan["seconds"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn each_policy_and_precision_has_its_memory() {
    let world = ToyWorld::new();
    let memory = |setting: &str, key: &str| {
        planned(&world, &["--set", setting])["memory"][key]
            .as_u64()
            .unwrap()
    };
    let activations =
        |policy: &str| memory(&format!("train.activations={policy}"), "activation_bytes");
    assert!(activations("full") < activations("selective"));
    assert!(activations("selective") < activations("all"));
    let weights = |kind: &str| memory(&format!("model.quantization={kind}"), "weight_bytes");
    assert!(weights("nf4") < weights("int8"));
    assert!(weights("int8") < weights("none"));
    let adapter = |dora: bool| memory(&format!("lora.use_dora={dora}"), "adapter_bytes");
    assert!(adapter(false) < adapter(true));
}

/// Weights are counted and timed without being read: a file whose tensors are cut off plans like a whole one.
#[test]
fn no_weights_are_read() {
    let world = ToyWorld::new();
    let whole = planned(&world, &[]);
    let path = world.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0xff); // NaN, which loading refuses
    std::fs::write(&path, bytes).unwrap();
    let planned = planned(&world, &[]);
    assert_eq!(planned["memory"], whole["memory"]);
    let refusal = world.rag_tune(&["train", "run.toml"]).refused();
    assert!(refusal.contains("finite"), "{refusal}");
}

#[test]
fn people_read_where_the_memory_goes_and_what_else_there_is() {
    let world = ToyWorld::new();
    let text = world.rag_tune(&["plan", "run.toml"]).ok();
    let labels: Vec<&str> = text
        .lines()
        .map(|line| line.split("  ").find(|part| !part.is_empty()).unwrap())
        .collect();
    assert_eq!(
        labels,
        [
            "peak memory",
            "program and rows",
            "weights",
            "activations (selective)",
            "temporary (a block)",
            "adapter and gradient",
            "optimizer",
            "checkpoint",
            "with train.activations=all",
            "with train.activations=full",
            "with train.tokens_per_micro_batch=1024",
            "rows",
            "tokens",
            "steps",
            "time of the steps",
        ],
        "{text}"
    );
}
