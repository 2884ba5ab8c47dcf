//! `rag-tune config`: resolved values, their origins, and the round trip.

mod support;

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
