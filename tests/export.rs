//! `rag-tune export` and the files of provenance that training leaves, on a toy model.

mod support;

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use support::toy_world::ToyWorld;

/// A finished run at `out/zero_shot`.
fn trained(flags: &[&str]) -> ToyWorld {
    let world = ToyWorld::new();
    world
        .rag_tune(&[&["train", "run.toml"], flags].concat())
        .ok();
    world
}

const EXPORT: [&str; 3] = ["export", "--adapter", "out/zero_shot"];

fn export(world: &ToyWorld, flags: &[&str]) -> support::Run {
    world.rag_tune(&[&EXPORT[..], flags].concat())
}

#[test]
fn a_plain_run_passes_every_check() {
    let world = trained(&[]);
    let table = export(&world, &["--check", "--base", "model"]).ok();
    insta::assert_snapshot!("a_plain_run_passes_every_check", table);
}

#[test]
fn what_a_program_would_refuse_is_exit_code_1_and_says_why() {
    let world = trained(&["--set", "lora.rank=32", "--set", "lora.use_rslora=true"]);
    let run = export(&world, &["--check", "vllm,llama.cpp", "--json"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr
            .contains("vllm refuses it; llama.cpp loads it wrongly"),
        "{}",
        run.stderr
    );
    let reports: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(reports[0]["verdict"], "refuses");
    assert_eq!(reports[1]["verdict"], "loads wrongly");
    let rank = &reports[0]["rules"][1];
    assert_eq!(rank["result"], "refused");
    assert!(
        rank["why"]
            .as_str()
            .unwrap()
            .starts_with("rank 32 is above 16")
    );

    export(&world, &["--check", "vllm", "--max-lora-rank", "32"]).ok();
}

#[test]
fn a_gguf_adapter_is_written_once_and_again_only_when_asked() {
    let world = trained(&[]);
    let gguf = ["--format", "gguf", "--out", "adapter.gguf"];
    assert_eq!(export(&world, &gguf).ok(), "adapter.gguf\n");
    let bytes = std::fs::read(world.path("adapter.gguf")).unwrap();
    assert!(bytes.starts_with(b"GGUF"));

    let refusal = export(&world, &gguf).refused();
    assert!(refusal.contains("hint: --force"), "{refusal}");
    let half = [&gguf[..], &["--force", "--dtype", "f16"]].concat();
    export(&world, &half).ok();
    let shorter = std::fs::metadata(world.path("adapter.gguf")).unwrap().len();
    assert!(shorter < bytes.len() as u64 * 6 / 10);
}

#[test]
fn a_peft_folder_holds_the_adapter_a_card_and_nothing_else() {
    let world = trained(&[]);
    let peft = ["--format", "peft", "--out", "hub", "--dtype", "bf16"];
    let run = export(&world, &peft);
    assert!(run.stderr.contains("called `model`"), "{}", run.stderr);
    run.ok();
    let names: Vec<String> = support::files_below(&world.path("hub"))
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors"
        ]
    );
    let weights = std::fs::read(world.path("hub/adapter_model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    assert!(
        weights
            .iter()
            .all(|(_, view)| view.dtype() == safetensors::Dtype::BF16)
    );

    let refusal = export(&world, &peft).refused();
    assert!(refusal.contains("`hub` is there already"), "{refusal}");
    let named = [&peft[..], &["--force", "--base-name", "owner/llama"]].concat();
    export(&world, &named).ok();
    let config: Value = serde_json::from_str(&world.read("hub/adapter_config.json")).unwrap();
    assert_eq!(config["base_model_name_or_path"], "owner/llama");
    assert!(
        world
            .read("hub/README.md")
            .contains("base_model: owner/llama\n")
    );

    // What was written is an adapter folder again, if a base is named.
    let again = [
        "export",
        "--adapter",
        "hub",
        "--format",
        "gguf",
        "--out",
        "again.gguf",
    ];
    let refusal = world.rag_tune(&again).refused();
    assert!(refusal.contains("hint: --base MODEL"), "{refusal}");
    world
        .rag_tune(&[&again[..], &["--base", "model"]].concat())
        .ok();
}

#[test]
fn no_file_for_others_names_a_folder_of_this_machine() {
    let world = ToyWorld::new();
    let model = world.path("model").display().to_string();
    let data = world.path("data").display().to_string();
    world
        .rag_tune(&[
            "train",
            "run.toml",
            "--set",
            &format!("model.base={model}"),
            "--set",
            &format!("data.source={data}"),
        ])
        .ok();
    let parent = Path::new(&model).parent().unwrap().display().to_string();
    for file in ["README.md", "adapter_config.json"] {
        let text = world.read(&format!("out/zero_shot/{file}"));
        assert!(!text.contains(&parent), "{file}: {text}");
    }
    export(&world, &["--format", "gguf", "--out", "a.gguf"]).ok();
    let bytes = std::fs::read(world.path("a.gguf")).unwrap();
    let found = bytes
        .windows(parent.len())
        .any(|part| part == parent.as_bytes());
    assert!(!found, "a.gguf names {parent}");
}

#[test]
fn the_card_gets_the_scores_unless_it_has_become_somebodys_own() {
    let world = trained(&[]);
    let card = || world.read("out/zero_shot/README.md");
    assert!(card().contains("There is no evaluation yet."), "{}", card());
    assert!(card().contains("- Rows: 9\n"), "{}", card());
    assert!(
        card().contains("````\nYou are a powerful text-to-SQL model."),
        "{}",
        card()
    );
    world.rag_tune(&["eval", "--adapter", "out/zero_shot"]).ok();
    assert!(
        card().contains("| validation-zero_shot | execution | 0 of 3 | 0.0 % |"),
        "{}",
        card()
    );

    world.write("out/zero_shot/README.md", "# Mine\n");
    world.rag_tune(&["eval", "--adapter", "out/zero_shot"]).ok();
    assert_eq!(card(), "# Mine\n");
}

/// Without its magnitudes a DoRA adapter would load, and answer something else.
#[test]
fn a_dora_adapter_is_not_made_a_gguf() {
    let world = trained(&[]);
    let path = "out/zero_shot/adapter_config.json";
    let config = world
        .read(path)
        .replace("\"use_dora\": false", "\"use_dora\": true");
    world.write(path, &config);
    let refusal = export(&world, &["--format", "gguf", "--out", "a.gguf"]).refused();
    assert!(
        refusal.contains("DoRA adapter, which llama.cpp cannot apply"),
        "{refusal}"
    );
    assert!(!world.path("a.gguf").exists());
}

#[test]
fn bad_input_is_refused_with_a_hint() {
    let world = ToyWorld::new();
    std::fs::create_dir(world.path("empty")).unwrap();
    for (flags, message) in [
        (
            &["--adapter", "empty", "--check"][..],
            "there is no adapter in `empty`",
        ),
        (
            &["--adapter", "empty"],
            "--check [<PROGRAM>]|--format <FORMAT>",
        ),
        (&["--adapter", "empty", "--format", "gguf"], "--out <PATH>"),
        (
            &["--adapter", "empty", "--check", "ollama"],
            "invalid value 'ollama'",
        ),
    ] {
        let refusal = world.rag_tune(&[&["export"], flags].concat()).refused();
        assert!(refusal.contains(message), "{refusal}");
    }

    world.write("half/checkpoints/step-1/state.json", "{}");
    let refusal = world
        .rag_tune(&["export", "--adapter", "half", "--check"])
        .refused();
    assert!(
        refusal.contains("the run in `half` is not finished\nhint: `rag-tune train --resume`"),
        "{refusal}"
    );

    world.write("torn/adapter_config.json", "{}");
    world.write("torn/adapter_model.safetensors", "no tensors");
    let refusal = world
        .rag_tune(&["export", "--adapter", "torn", "--check"])
        .refused();
    assert!(
        refusal.contains("adapter_model.safetensors` is corrupt"),
        "{refusal}"
    );
}

#[test]
fn the_own_folder_is_never_written_over() {
    let world = trained(&[]);
    let refusal = export(
        &world,
        &["--format", "peft", "--out", "out/zero_shot", "--force"],
    )
    .refused();
    assert!(refusal.contains("the adapter's own folder"), "{refusal}");
}
