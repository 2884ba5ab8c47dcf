//! `RAG_TUNE_CPU`: the same training on every level of instructions that this machine has.

mod support;

use std::process::Stdio;

use rag_tune_kernels::processor::Level;
use support::Run;
use support::toy_world::ToyWorld;

fn train(level: &str, compute: &str) -> (ToyWorld, Run) {
    let world = ToyWorld::new();
    let compute = format!("model.compute={compute}");
    let settings = ["--set", "train.max_steps=4", "--set", &compute];
    let output = world
        .command(&[&["train", "run.toml"], &settings[..]].concat())
        .env("RAG_TUNE_CPU", level)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("cargo has built the program");
    (world, Run::from(output))
}

fn losses(level: &str, compute: &str) -> Vec<f64> {
    let (world, run) = train(level, compute);
    run.ok();
    let records = world.json_lines("out/zero_shot/metrics.jsonl");
    let losses: Vec<f64> = records
        .iter()
        .filter_map(|record| record["loss"].as_f64())
        .collect();
    assert!(losses.len() >= 4, "{records:?}");
    losses
}

/// A level only sums in another order: the precision that the run asks for is its own.
#[test]
fn every_level_trains_to_the_same_losses() {
    for compute in ["f32", "bf16", "int8"] {
        let lowest = losses("portable", compute);
        for level in Level::available().skip(1) {
            let pairs = losses(level.name(), compute).into_iter().zip(&lowest);
            for (step, (loss, lowest)) in pairs.enumerate() {
                // A last bit that tips a rounding to bf16 or to 8 bits the other way.
                let bound = if compute == "f32" { 1e-4 } else { 1e-2 };
                let error = (loss - lowest).abs() / lowest;
                assert!(
                    error < bound,
                    "{compute} {level}, step {step}: {loss} {lowest}"
                );
            }
        }
    }
}

#[test]
fn a_level_that_does_not_exist_is_refused_before_anything_is_done() {
    let (world, run) = train("sse9", "f32");
    let told = run.refused();
    assert!(
        told.contains("`sse9` is none of portable, avx2, avx512, avx512-vnni, avx512-bf16, amx"),
        "{told}"
    );
    assert!(!world.path("out").exists());
}
