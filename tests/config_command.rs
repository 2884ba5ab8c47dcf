//! `rag-tune config`: resolved values, their origins, and the round trip.

mod support;

use std::process::Stdio;

use support::toy_world::ToyWorld;

#[test]
fn prints_each_value_with_its_origin() {
    let world = ToyWorld::new();
    insta::assert_snapshot!(
        world
            .rag_tune(&["config", "run.toml", "--set", "train.max_steps=9"])
            .ok()
    );
}

#[test]
fn what_it_prints_is_a_config_of_the_same_values() {
    let world = ToyWorld::new();
    world.write(
        "again.toml",
        &world.rag_tune(&["config", "run.toml", "--docs"]).ok(),
    );
    let values = |file: &str| {
        world
            .rag_tune(&["config", file])
            .ok()
            .parse::<toml::Table>()
            .expect("it prints TOML")
    };
    assert_eq!(values("again.toml"), values("run.toml"));
}

#[test]
fn docs_explain_the_keys() {
    let world = ToyWorld::new();
    let text = world.rag_tune(&["config", "run.toml", "--docs"]).ok();
    assert!(
        text.contains("# Peak learning rate of AdamW.\nlearning_rate = "),
        "{text}"
    );
}

#[test]
fn a_variable_stands_over_the_file() {
    let world = ToyWorld::new();
    let output = world
        .command(&["config", "run.toml"])
        .env("RAG_TUNE_DATABASES", "elsewhere")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("databases"))
        .unwrap();
    assert_eq!(line, "databases = \"elsewhere\"  # RAG_TUNE_DATABASES");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = ToyWorld::new();
    let mut child = world
        .command(&["config", "run.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

/// docs/config.md shows the same text, so that it cannot fall behind the program.
#[test]
fn the_handbook_has_every_key_and_explanation() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let handbook = std::fs::read_to_string(root.join("docs/config.md")).unwrap();
    let text = support::rag_tune(&root, &["config", "configs/sql_rag1.toml", "--docs"]).ok();
    for line in text.lines() {
        // Without the value's origin.
        let line = line
            .rsplit_once("  #")
            .map_or(line, |(value, _)| value.trim_end());
        assert!(handbook.contains(line), "docs/config.md lacks `{line}`");
    }
}
