//! Wrong input: the message says what and where, the exit code is 1, and nothing is left half-written.

mod support;

use safetensors::SafeTensors;
use support::toy_world::ToyWorld;
use support::{Run, files_below, toy_model};

/// The refusal of `arguments`, after which the output folder must not exist.
#[track_caller]
fn refused(world: &ToyWorld, arguments: &[&str]) -> String {
    let text = world.rag_tune(arguments).refused();
    assert_eq!(
        files_below(&world.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn a_missing_config() {
    let world = ToyWorld::new();
    let text = refused(&world, &["train", "no.toml"]);
    assert_says(
        &text,
        &[
            "cannot read the config `no.toml`",
            "hint: complete examples are in configs/",
        ],
    );
}

#[test]
fn malformed_toml() {
    let world = ToyWorld::new();
    world.write("run.toml", "output = \"out\"\n[model\n");
    assert_says(
        &refused(&world, &["train", "run.toml"]),
        &["run.toml:2:", "not valid TOML"],
    );
}

#[test]
fn an_unknown_key_with_the_nearest_one() {
    let world = ToyWorld::new();
    world.write(
        "run.toml",
        &world.read("run.toml").replace("max_steps", "max_stesp"),
    );
    let text = refused(&world, &["train", "run.toml"]);
    assert_says(
        &text,
        &[
            "run.toml:17: unknown key `train.max_stesp`; did you mean `max_steps`?",
            "hint: ",
        ],
    );
    let text = refused(&world, &["train", "run.toml", "--set", "lora.rnk=3"]);
    assert_says(
        &text,
        &["--set: unknown key `lora.rnk`; did you mean `rank`?"],
    );
}

#[test]
fn a_value_of_the_wrong_type() {
    let world = ToyWorld::new();
    world.write(
        "run.toml",
        &world
            .read("run.toml")
            .replace("rank = 4", "rank = \"four\""),
    );
    let text = refused(&world, &["train", "run.toml"]);
    assert_says(
        &text,
        &[
            "run.toml:12: `lora.rank`",
            "\"four\"",
            "expected a whole number",
        ],
    );
}

#[test]
fn a_data_line_that_does_not_parse() {
    let world = ToyWorld::new();
    world.write(
        "data/train.jsonl",
        &format!("{}{{\"question\": \n", world.read("data/train.jsonl")),
    );
    let text = refused(&world, &["train", "run.toml"]);
    assert_says(
        &text,
        &[
            "cannot augment the data",
            "train.jsonl` line 10: not a JSON object",
        ],
    );
}

#[test]
fn a_row_that_lacks_a_field() {
    let world = ToyWorld::new();
    world.write(
        "data/train.jsonl",
        &world
            .read("data/train.jsonl")
            .replacen("context", "contxt", 1),
    );
    let text = refused(&world, &["train", "run.toml"]);
    assert_says(
        &text,
        &[
            "train.jsonl` line 1: no field `context`",
            "hint: the row has `db_id`, `contxt`",
        ],
    );
}

#[test]
fn an_empty_split() {
    let world = ToyWorld::new();
    world.write("data/train.jsonl", "\n");
    assert_says(
        &refused(&world, &["train", "run.toml"]),
        &["train.jsonl` has no rows"],
    );
}

#[test]
fn a_missing_split() {
    let world = ToyWorld::new();
    let text = refused(&world, &["augment", "run.toml", "--set", "eval.split=test"]);
    assert_says(
        &text,
        &["has no split `test`", "hint: it has `train`, `validation`"],
    );
}

#[test]
fn more_examples_than_the_knowledge_base_has() {
    let world = ToyWorld::new();
    let text = refused(
        &world,
        &["train", "run.toml", "--set", "retrieval.examples=20"],
    );
    assert_says(
        &text,
        &[
            "only 6 of 9 train rows",
            "hint: set `retrieval.examples` to at most 6",
        ],
    );
}

#[test]
fn a_base_model_that_is_nowhere() {
    let world = ToyWorld::new();
    let text = refused(
        &world,
        &["train", "run.toml", "--set", "model.base=no/such-model"],
    );
    assert_says(
        &text,
        &[
            "cannot open the base model `no/such-model`",
            "HF_HUB_OFFLINE",
            "hint: ",
        ],
    );
}

/// Told before the rows are augmented, which may take long.
#[test]
fn a_gpu_that_is_not_there() {
    let world = ToyWorld::new();
    let text = refused(
        &world,
        &["train", "run.toml", "--set", "model.device=cuda:99"],
    );
    assert_says(
        &text,
        &[
            "cannot use the device `cuda:99`: no GPU: ",
            "hint: set `model.device` to \"auto\"",
        ],
    );
}

#[test]
fn a_rank_pattern_of_no_layer() {
    let world = ToyWorld::new();
    for command in ["train", "plan", "inspect"] {
        let setting = r#"lora.rank_pattern={"q_prj"=4}"#;
        let text = refused(&world, &[command, "run.toml", "--set", setting]);
        assert_says(
            &text,
            &[
                "the pattern `q_prj`",
                "matches no layer",
                "hint: ",
                "q_proj",
            ],
        );
    }
}

#[test]
fn truncated_weights() {
    let world = ToyWorld::new();
    let path = world.path("model/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let text = refused(&world, &["train", "run.toml"]);
    assert_says(
        &text,
        &[
            "cannot open the base model `model`",
            "model.safetensors` is truncated",
            "hint: ",
        ],
    );
}

#[test]
fn weights_of_another_shape() {
    let world = ToyWorld::new();
    let config = world.read("model/config.json");
    world.write(
        "model/config.json",
        &config.replace("\"intermediate_size\":128", "\"intermediate_size\":96"),
    );
    let text = world.rag_tune(&["train", "run.toml"]).refused();
    assert_says(
        &text,
        &[
            "gate_proj.weight",
            "is [128, 64], expected [96, 64] (out, in)",
            "hint: ",
        ],
    );
    // The augmented files are complete and stay; of the run itself there is nothing.
    assert!(!world.path("out/zero_shot/rag_tune.toml").exists());
}

#[test]
fn an_adapter_of_another_base_model() {
    let world = ToyWorld::new();
    world.rag_tune(&["train", "run.toml"]).ok();
    toy_model::write(&world.path("model"), 2);
    let before = files_below(&world.path("out"));
    let text = world
        .rag_tune(&["eval", "--adapter", "out/zero_shot"])
        .refused();
    assert_says(&text, &["another base model", "hint: "]);
    assert_eq!(files_below(&world.path("out")), before);
}

#[test]
fn a_folder_without_an_adapter() {
    let world = ToyWorld::new();
    let text = refused(&world, &["eval", "--adapter", "data"]);
    assert_says(&text, &["no trained adapter in `data`", "hint: "]);
}

#[test]
fn a_missing_database() {
    let world = ToyWorld::new();
    std::fs::remove_dir_all(world.path("database/trees")).unwrap();
    let text = world.rag_tune(&["eval", "--config", "run.toml"]).refused();
    assert_says(
        &text,
        &[
            "row 0 needs the database `trees`",
            "trees.sqlite` does not exist",
            "hint: ",
        ],
    );
    let evaluation = world.path("out/zero_shot/eval/validation-zero_shot-no_adapter");
    assert!(
        !evaluation.join("predictions.jsonl").exists() && !evaluation.join("scores.json").exists()
    );
}

#[test]
fn a_missing_folder_of_databases() {
    let world = ToyWorld::new();
    let text = refused(
        &world,
        &["eval", "--config", "run.toml", "--databases", "nowhere"],
    );
    assert_says(
        &text,
        &[
            "the database folder `nowhere` does not exist",
            "RAG_TUNE_DATABASES",
        ],
    );
}

fn score(world: &ToyWorld, predictions: &str) -> Run {
    world.write("predictions", predictions);
    world.rag_tune(&[
        "score",
        "--task",
        "sql",
        "--data",
        "data/validation.jsonl",
        "--predictions",
        "predictions",
        "--databases",
        "database",
        "--rows",
        "rows.jsonl",
    ])
}

#[test]
fn predictions_that_are_not_as_many_as_the_rows() {
    let world = ToyWorld::new();
    let text = score(&world, "SELECT 1\n").refused();
    assert_says(&text, &["there are 1 predictions for 3 rows", "hint: "]);
    assert!(!world.path("rows.jsonl").exists());
}

#[test]
fn a_prediction_line_without_a_prediction() {
    let world = ToyWorld::new();
    let text = score(
        &world,
        "{\"prediction\": \"SELECT 1\"}\n{\"answer\": \"SELECT 1\"}\n",
    )
    .refused();
    assert_says(
        &text,
        &[
            "`predictions` line 2: the field `prediction` is missing",
            "hint: ",
        ],
    );
}

#[test]
fn a_chart_of_a_folder_without_scores() {
    let world = ToyWorld::new();
    let text = world
        .rag_tune(&["chart", "data", "--out", "charts"])
        .refused();
    assert_says(&text, &["cannot draw the charts", "`data`", "hint: "]);
    assert!(!world.path("charts").exists());
}

/// The toy world itself is sound; otherwise every refusal above would prove nothing.
#[test]
fn the_toy_model_is_a_complete_checkpoint() {
    let world = ToyWorld::new();
    let bytes = std::fs::read(world.path("model/model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 2 + 2 * 9);
    world.rag_tune(&["config", "run.toml"]).ok();
}
