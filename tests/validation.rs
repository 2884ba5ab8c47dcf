//! Validation while `train` runs, on a toy model: both metrics, what is said, what is refused.

mod support;

use support::toy_world::ToyWorld;

fn flags<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut flags = vec!["train", "run.toml"];
    for setting in [&["validation.every=2", "train.max_steps=6"], more].concat() {
        flags.extend(["--set", setting]);
    }
    flags
}

#[test]
fn loss_is_written_and_the_best_adapter_is_kept() {
    let world = ToyWorld::new();
    let run = world.rag_tune(&flags(&[]));
    assert!(
        run.stderr.contains("which the final score uses too"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("step 2: loss on 3 rows"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("the adapter is that of step"),
        "{}",
        run.stderr
    );
    run.ok();
    let lines = world.json_lines("out/zero_shot/validation.jsonl");
    let steps: Vec<_> = lines
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [2, 4, 6]);
    let best = lines
        .iter()
        .min_by(|a, b| {
            a["value"]
                .as_f64()
                .unwrap()
                .total_cmp(&b["value"].as_f64().unwrap())
        })
        .unwrap();
    let step = best["step"].as_u64().unwrap();
    let weights =
        |folder: &str| std::fs::read(world.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(
        weights("out/zero_shot") == weights(&format!("out/zero_shot/checkpoints/step-{step:06}"))
    );
}

/// A model of noise gets nothing right, so nothing ever improves.
#[test]
fn the_tasks_own_metric_stops_a_run_that_gets_no_better() {
    let world = ToyWorld::new();
    let settings = [
        "validation.metric=task",
        "validation.rows=2",
        "validation.patience=1",
    ];
    let run = world.rag_tune(&flags(&settings));
    assert!(
        run.stderr
            .contains("stopped early after step 4: no improvement since the 0.0000 of step 2"),
        "{}",
        run.stderr
    );
    run.ok();
    let lines = world.json_lines("out/zero_shot/validation.jsonl");
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["metric"], "execution");
    assert_eq!(
        (&lines[0]["rows"], &lines[0]["best"]),
        (&2.into(), &true.into())
    );
    assert!(lines[0]["ci95"][1].as_f64().unwrap() > 0.0);
    assert_eq!(world.json_lines("out/zero_shot/metrics.jsonl").len(), 4);
}

#[test]
fn what_is_missing_is_found_before_training() {
    let world = ToyWorld::new();
    let missing = ["validation.metric=task", "eval.databases=nowhere"];
    let refusal = world.rag_tune(&flags(&missing)).refused();
    assert!(refusal.contains("nowhere"), "{refusal}");
    assert!(!world.path("out/zero_shot/metrics.jsonl").exists());

    let refusal = world
        .rag_tune(&flags(&["validation.split=train"]))
        .refused();
    assert!(
        refusal.contains("the split that is learnt from"),
        "{refusal}"
    );
    let refusal = world
        .rag_tune(&flags(&["validation.every=0", "validation.patience=2"]))
        .refused();
    assert!(refusal.contains("`validation.patience`"), "{refusal}");
}
