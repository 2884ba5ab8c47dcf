//! `rag-tune reproduce` on the toy model: a grid that runs, goes on after a break, and says what failed.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::toy_world::ToyWorld;
use support::{Run, files_below};

/// The toy model and data in place of the shipped configs' ones. Static vectors need no embedder to be downloaded.
const TOY: [&str; 26] = [
    "--model",
    "model",
    "--databases",
    "database",
    "--tasks",
    "sql",
    "--set",
    "data.source=data",
    "--set",
    "retrieval.embedder=vectors.jsonl",
    "--set",
    "lora.rank=4",
    "--set",
    "train.batch_size=4",
    "--set",
    "train.max_steps=2",
    "--set",
    "train.warmup_steps=1",
    "--set",
    "train.checkpoint_every=1",
    "--set",
    "eval.max_new_tokens=4",
    "--set",
    "eval.batch_size=2",
    "--set",
    "train.max_length=2048",
];

fn toy_world() -> ToyWorld {
    let world = ToyWorld::new();
    // A vector for each question: all that an embedder is here.
    let mut vectors = String::new();
    for split in ["train", "validation"] {
        for (place, row) in world
            .json_lines(&format!("data/{split}.jsonl"))
            .iter()
            .enumerate()
        {
            let angle = place as f64;
            let line = serde_json::json!({
                "text": row["question"], "vector": [angle.cos(), angle.sin()],
            });
            vectors += &format!("{line}\n");
        }
    }
    world.write("vectors.jsonl", &vectors);
    world
}

fn reproduce(world: &ToyWorld, arguments: &[&str]) -> Run {
    world.rag_tune(&[&["reproduce", "--out", "grid"], &TOY[..], arguments].concat())
}

fn results(world: &ToyWorld) -> Value {
    serde_json::from_str(&world.read("grid/results.json")).unwrap()
}

/// The cells of `results.json` that have scores.
fn scored(world: &ToyWorld) -> Vec<String> {
    let results = results(world);
    let cells = results["cells"].as_array().unwrap().iter();
    cells
        .filter(|cell| cell["scores"].is_object())
        .map(|cell| cell["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_dry_run_writes_only_what_it_measured() {
    let world = toy_world();
    let plan = reproduce(&world, &["--figures", "a,d", "--dry-run"]).ok();
    for cell in ["sql-zero_shot-seed42", "sql-rag1_unconstrained-seed42"] {
        assert!(plan.contains(cell), "{plan}");
    }
    assert!(plan.contains("7 of 7 cells would be run"), "{plan}");
    let files = files_below(&world.path("grid"));
    let names: Vec<_> = files
        .iter()
        .map(|file| file.strip_prefix(world.path("grid")).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            Path::new("state/lock"),
            Path::new("state/measurements.json")
        ]
    );
}

#[test]
fn a_grid_runs_once_and_further_figures_add_to_it() {
    let world = toy_world();
    let files = reproduce(&world, &["--figures", "d"]).ok();
    let expected = [
        "grid/charts/b.svg",
        "grid/charts/b.png",
        "grid/charts/c.svg",
        "grid/charts/c.png",
        "grid/charts/d.svg",
        "grid/charts/d.png",
    ];
    for file in expected {
        assert!(
            files.contains(file),
            "a bar of other figures is there too: {files}"
        );
        assert!(std::fs::metadata(world.path(file)).unwrap().len() > 0);
    }
    assert_eq!(
        scored(&world),
        ["sql-rag1-seed42", "sql-rag1_unconstrained-seed42"]
    );
    let cell = &results(&world)["cells"][1];
    assert_eq!(cell["published"], 0.776);
    assert_eq!(cell["scores"]["n"], 3);
    assert!(cell["scores"]["metrics"]["execution"].is_number(), "{cell}");
    assert!(cell["predicted_s"].is_number() && cell["taken_s"].is_number());

    // The adapter is the one that was there.
    let weights = world.path("grid/runs/sql-rag1-seed42/adapter_model.safetensors");
    let written = || std::fs::metadata(&weights).unwrap().modified().unwrap();
    let before = written();
    let again = reproduce(&world, &["--figures", "d"]);
    assert!(again.stderr.contains("nothing to run"), "{}", again.stderr);
    again.ok();
    let more = reproduce(&world, &["--figures", "a"]);
    assert!(
        !more.stderr.contains("train-sql-rag1-seed42"),
        "{}",
        more.stderr
    );
    more.ok();
    assert_eq!(written(), before);
    assert_eq!(scored(&world).len(), 7);
    let markdown = world.read("grid/results.md");
    assert!(
        markdown.contains("## (d)") && markdown.contains("77.6 %"),
        "{markdown}"
    );

    // Another limit asks the adapters again, and trains none.
    let changed = reproduce(&world, &["--figures", "d", "--set", "eval.limit=2"]);
    let text = &changed.stderr;
    assert!(
        text.contains("is done again: eval.limit null -> 2"),
        "{text}"
    );
    assert!(!text.contains("train-"), "{text}");
    changed.ok();
    assert_eq!(written(), before);
}

#[test]
fn a_cell_can_be_repeated_by_hand() {
    let world = toy_world();
    reproduce(&world, &["--figures", "d"]).ok();
    let config = world.read("grid/configs/eval-sql-rag1-seed42.toml");
    let command = config
        .lines()
        .find_map(|line| line.strip_prefix("#   rag-tune "));
    let arguments: Vec<&str> = command.unwrap().split(' ').collect();
    let scores = "grid/runs/sql-rag1-seed42/eval/rag1/scores.json";
    let before = world.read(scores);
    std::fs::remove_file(world.path(scores)).unwrap();
    world.rag_tune(&arguments).ok();
    assert_eq!(world.read(scores), before);
}

#[test]
fn every_way_to_find_examples_runs() {
    let world = toy_world();
    // Masked questions are other texts than those that have vectors.
    let run = reproduce(
        &world,
        &["--figures", "b", "--jobs", "2", "--set", "eval.limit=2"],
    );
    let text = run.stderr.clone();
    let cells = scored(&world);
    for method in [
        "rag1",
        "rag1_random",
        "rag1_bm25",
        "rag1_hybrid",
        "rag1_skeleton",
    ] {
        assert!(
            cells.contains(&format!("sql-{method}-seed42")),
            "{method}: {text}"
        );
    }
    // The limit left the last row without an answer, and so without a draft.
    let drafts = world.json_lines("grid/drafts/sql-seed42.jsonl");
    assert_eq!(drafts.len(), 3);
    assert_eq!(drafts[2]["prediction"], "");
    let left = results(&world)["cells"].to_string();
    assert!(left.contains("OPENAI_API_KEY is not set"), "{left}");
}

#[test]
fn seeds_are_pooled() {
    let world = toy_world();
    reproduce(&world, &["--figures", "d", "--seeds", "1,2"]).ok();
    assert_eq!(scored(&world).len(), 4);
    let figure = &results(&world)["figures"][3];
    assert_eq!(figure["bars"][0]["seed_values"], serde_json::json!([1, 2]));
    assert_eq!(figure["bars"][0]["seeds"], 2);
}

#[test]
fn a_budget_leaves_out_what_does_not_fit() {
    let world = toy_world();
    let run = reproduce(&world, &["--figures", "d", "--budget", "0s"]);
    assert!(run.stderr.contains("nothing to run"), "{}", run.stderr);
    run.ok();
    let cell = &results(&world)["cells"][0];
    let why = cell["left_out"].as_str().unwrap();
    assert!(why.starts_with("over budget"), "{why}");
    assert!(cell["scores"].is_null());
}

#[test]
fn a_failing_cell_does_not_stop_the_others() {
    let world = toy_world();
    // A file where the run's folder should be.
    world.write("grid/runs/sql-rag1_unconstrained-seed42", "in the way");
    let run = reproduce(&world, &["--figures", "d"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stderr
            .contains("train-sql-rag1_unconstrained-seed42 failed"),
        "{}",
        run.stderr
    );
    assert_eq!(scored(&world), ["sql-rag1-seed42"]);
    let markdown = world.read("grid/results.md");
    assert!(markdown.contains("## Left out"), "{markdown}");

    std::fs::remove_file(world.path("grid/runs/sql-rag1_unconstrained-seed42")).unwrap();
    reproduce(&world, &["--figures", "d"]).ok();
    assert_eq!(scored(&world).len(), 2);
}

#[test]
fn a_stopped_grid_goes_on_where_it_was() {
    let world = toy_world();
    let long = ["--figures", "d", "--set", "train.max_steps=100"];
    let arguments = [&["reproduce", "--out", "grid"], &TOY[..], &long].concat();
    let mut child = world
        .command(&arguments)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = world.path("grid/runs/sql-rag1-seed42/metrics.jsonl");
    wait_for(|| std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 3));

    let other = reproduce(&world, &long);
    assert!(other.refused().contains("`grid` is in use"));

    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(
        !world
            .path("grid/runs/sql-rag1-seed42/adapter_model.safetensors")
            .exists()
    );
    let why = results(&world)["cells"][0]["left_out"].clone();
    assert_eq!(why, "stopped before it was done");
    let steps = || std::fs::read_to_string(&metrics).unwrap().lines().count();
    let stopped_at = steps();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(steps(), stopped_at, "the training was stopped too");

    reproduce(&world, &long).ok();
    let log = world.read("grid/logs/train-sql-rag1-seed42.log");
    assert!(log.contains("trained 100 steps"), "{log}");
    let lines = world.json_lines("grid/runs/sql-rag1-seed42/metrics.jsonl");
    assert_eq!(
        lines.len(),
        100,
        "each step once: it went on from its checkpoint"
    );
    assert_eq!(scored(&world).len(), 2);
}

/// Nobody can stop the steps of a grid that was killed: they go on, keep others out, and count when they have ended.
#[test]
fn a_killed_grid_takes_up_what_its_step_did_meanwhile() {
    let world = toy_world();
    let long = ["--figures", "d", "--set", "train.max_steps=60"];
    let arguments = [&["reproduce", "--out", "grid"], &TOY[..], &long].concat();
    let mut child = world.command(&arguments).spawn().unwrap();
    let run = world.path("grid/runs/sql-rag1-seed42");
    wait_for(|| run.join("metrics.jsonl").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let weights = run.join("adapter_model.safetensors");
    wait_for(|| weights.exists());
    let written = || std::fs::metadata(&weights).unwrap().modified().unwrap();
    let before = written();

    // The lock goes with the step.
    wait_for(|| {
        world
            .rag_tune(&[&arguments[..], &["--dry-run"]].concat())
            .code
            == 0
    });
    let again = reproduce(&world, &long);
    assert!(
        !again.stderr.contains("train-sql-rag1-seed42: started"),
        "{}",
        again.stderr
    );
    again.ok();
    assert_eq!(written(), before);
    assert_eq!(scored(&world).len(), 2);
}

#[test]
fn what_the_cells_differ_in_is_refused() {
    let world = toy_world();
    let text = reproduce(&world, &["--set", "retrieval.examples=2"]).refused();
    assert!(
        text.contains("`retrieval.examples` is what the cells differ in"),
        "{text}"
    );
    let text = reproduce(&world, &["--set", "train.max_step=2"]).refused();
    assert!(text.contains("did you mean `max_steps`"), "{text}");
    let text = reproduce(&world, &["--budget", "2 days"]).refused();
    assert!(text.contains("write 2h, 90m"), "{text}");
}

#[track_caller]
fn wait_for(happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "it never happened"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
