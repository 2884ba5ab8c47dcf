//! What is seen of a run: lines, curves for TensorBoard, a chart, figures of steadiness. On a toy model.

mod support;

use support::toy_world::ToyWorld;

const TWELVE_STEPS: [&str; 4] = [
    "--set",
    "train.max_steps=12",
    "--set",
    "train.checkpoint_every=4",
];

fn train(world: &ToyWorld, more: &[&str]) -> support::Run {
    world.rag_tune(&[&["train", "run.toml"], &TWELVE_STEPS[..], more].concat())
}

/// Complaint B16 of the field: "throughput numbers lie (pads counted)".
#[test]
fn a_run_without_a_terminal_says_lines_with_true_throughput() {
    let world = ToyWorld::new();
    let run = train(&world, &[]);
    let told: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("step "))
        .collect();
    assert_eq!(told.len(), 12, "{}", run.stderr);
    assert!(!run.stderr.contains("warmup"), "{}", run.stderr);
    for part in [
        "loss ",
        "smoothed",
        "lr ",
        "grad norm",
        "tokens/s",
        "supervised",
        "% of peak",
    ] {
        assert!(told[3].contains(part), "{}", told[3]);
    }
    assert!(
        told[3].contains(" left") && !told[11].contains(" left"),
        "{told:?}"
    );
    run.ok();

    let records = world.json_lines("out/zero_shot/metrics.jsonl");
    for record in &records {
        let of = |key: &str| record[key].as_f64().unwrap();
        // Rows are packed without padding, so all tokens are real ones.
        assert!(
            (of("tokens_per_s") - of("tokens") / of("seconds")).abs() < 1e-6 * of("tokens_per_s")
        );
        let supervised = of("supervised_tokens") / of("seconds");
        assert!((of("supervised_tokens_per_s") - supervised).abs() < 1e-6 * supervised);
        assert!(of("supervised_tokens") < of("tokens"));
        assert_eq!(of("micro_batches"), 1.0);
        assert!(of("peak_share") > 0.0 && of("peak_share") < 1.5, "{record}");
        assert!(
            !cfg!(target_os = "linux") || of("peak_rss_bytes") > 1e6,
            "{record}"
        );
    }
}

#[test]
fn curves_and_chart_lie_in_the_run_folder_and_a_new_run_replaces_them() {
    let world = ToyWorld::new();
    train(&world, &["--set", "validation.every=4"]).ok();
    for file in ["loss.svg", "loss.png"] {
        assert!(world.path("out/zero_shot").join(file).is_file(), "{file}");
    }
    assert!(
        world
            .read("out/zero_shot/loss.svg")
            .contains("diamonds: validation")
    );
    let events = || {
        let files = support::files_below(&world.path("out/zero_shot/tensorboard"));
        assert_eq!(files.len(), 1, "{files:?}");
        let bytes = std::fs::read(&files[0]).unwrap();
        let count = |tag: &str| {
            bytes
                .windows(tag.len())
                .filter(|at| *at == tag.as_bytes())
                .count()
        };
        [count("train/loss"), count("validation/loss")]
    };
    assert_eq!(events(), [12, 3]);
    train(&world, &["--force"]).ok();
    assert_eq!(events(), [12, 0]);
    train(&world, &["--force", "--set", "log.tensorboard=false"]).ok();
    assert!(!world.path("out/zero_shot/tensorboard").exists());
}

#[test]
fn steadiness_is_measured_and_compared() {
    let world = ToyWorld::new();
    train(&world, &[]).ok();
    train(&world, &["--set", "lora.dropout=0.3", "--out", "out/other"]).ok();
    let text = world
        .rag_tune(&["stability", "out/zero_shot", "out/other"])
        .ok();
    for part in [
        "loss, deviation from its trend",
        "coefficient of variation",
        "other less zero_shot (the same rows in every step: compared step by step)",
        "spikes of the loss a step",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let json = world
        .rag_tune(&["stability", "out/zero_shot", "out/other", "--json"])
        .ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["runs"][0]["steps"], 12);
    assert_eq!(
        json["comparisons"][0]["differences"][0]["pairing"],
        "paired"
    );

    let refused = |arguments: &[&str]| world.rag_tune(arguments).refused();
    assert!(refused(&["stability", "out"]).contains("0 training steps"));
    let short = refused(&["stability", "out/zero_shot", "--from", "8"]);
    assert!(short.contains("5 training steps"), "{short}");
    let even = refused(&["stability", "out/zero_shot", "--window", "10"]);
    assert!(even.contains("odd"), "{even}");
}

/// The default of 100 steps is longer than many a first try.
#[test]
fn a_run_that_ends_in_its_warmup_is_told_so() {
    let world = ToyWorld::new();
    let run = train(&world, &["--set", "train.warmup_steps=100"]);
    assert!(
        run.stderr.contains(
            "the warmup of 100 steps is as long as the run of 12 or longer: the learning rate only rises, to"
        ),
        "{}",
        run.stderr
    );
    run.ok();
}
