//! One run by several processes: the same bytes as one process, and what happens when one is lost.

mod support;

use std::net::TcpListener;
use std::process::{Child, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::toy_world::ToyWorld;

/// `train` with steps of several micro-batches.
fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = [
        "train",
        "run.toml",
        "--set",
        "train.batch_size=9",
        "--set",
        "train.tokens_per_micro_batch=512",
        "--set",
        "train.max_length=512",
        "--augmented",
        "rows",
        "--out",
    ];
    [&flags[..], &[out], more].concat()
}

/// A run as long as it takes to be disturbed, without checkpoints of its own before the last step.
fn long<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = [
        "--set",
        "train.max_steps=24",
        "--set",
        "train.checkpoint_every=100",
    ];
    train(out, &[&flags[..], more].concat())
}

/// Starts the processes of a run as torchrun does: the same command with other variables.
fn start(world: &ToyWorld, arguments: &[&str], size: usize) -> Vec<Child> {
    // Free a moment ago; nothing else on this machine asks for it by number.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let rank = |rank: usize| {
        let mut command = world.command(arguments);
        command
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    (0..size).map(rank).collect()
}

fn ended(children: Vec<Child>) -> Vec<Output> {
    let wait = |child: Child| child.wait_with_output().unwrap();
    children.into_iter().map(wait).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The adapter, and the metrics without what is measured.
fn left_by(world: &ToyWorld, out: &str) -> (Vec<u8>, Vec<Value>) {
    let adapter = std::fs::read(world.path(&format!("{out}/adapter_model.safetensors"))).unwrap();
    let mut metrics = world.json_lines(&format!("{out}/metrics.jsonl"));
    for line in &mut metrics {
        let measured = [
            "seconds",
            "tokens_per_s",
            "supervised_tokens_per_s",
            "peak_share",
            "peak_rss_bytes",
        ];
        measured.iter().for_each(|name| line[name] = Value::Null);
    }
    (adapter, metrics)
}

#[track_caller]
fn assert_same(world: &ToyWorld, out: &str, expected: &(Vec<u8>, Vec<Value>)) {
    let (adapter, metrics) = left_by(world, out);
    assert_eq!(metrics, expected.1);
    assert!(adapter == expected.0, "the adapter of {out} differs");
}

#[track_caller]
fn wait_for_steps(world: &ToyWorld, out: &str, steps: usize) {
    let path = world.path(out).join("metrics.jsonl");
    let start = Instant::now();
    while !std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() >= steps) {
        assert!(start.elapsed() < Duration::from_secs(60), "no step {steps}");
        sleep(Duration::from_millis(2));
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn two_processes_train_the_same_adapter_as_one() {
    let world = ToyWorld::new();
    let flags = |out| train(out, &["--set", "train.max_steps=4"]);
    world.rag_tune(&flags("out/one")).ok();
    let expected = left_by(&world, "out/one");
    assert!(
        expected
            .1
            .iter()
            .all(|step| step["micro_batches"].as_u64() >= Some(3)),
        "{:?}",
        expected.1
    );
    std::fs::remove_dir_all(world.path("rows")).unwrap();
    let outputs = ended(start(&world, &flags("out/two"), 2));
    for output in &outputs {
        assert!(output.status.success(), "{}", stderr(output));
    }
    assert_same(&world, "out/two", &expected);
    assert_eq!(outputs[0].stdout, b"out/two\n");
    // The other one says that it is there, and nothing more.
    assert!(outputs[1].stdout.is_empty());
    let said = stderr(&outputs[1]);
    assert!(
        said.starts_with("rank 1 of 2 has found rank 0 at 127.0.0.1:") && said.lines().count() == 1,
        "{said}"
    );
    assert!(world.path("out/two/README.md").exists(), "the model card");
}

#[test]
fn a_killed_rank_is_named_and_the_run_goes_on_without_it() {
    let world = ToyWorld::new();
    world.rag_tune(&long("out/whole", &[])).ok();
    let expected = left_by(&world, "out/whole");
    let mut children = start(&world, &long("out/run", &[]), 2);
    wait_for_steps(&world, "out/run", 3);
    let killed = Instant::now();
    children[1].kill().unwrap();
    let outputs = ended(children);
    assert!(killed.elapsed() < Duration::from_secs(20));
    assert_eq!(outputs[0].status.code(), Some(1));
    assert!(outputs[0].stdout.is_empty(), "an unfinished run is no data");
    let said = stderr(&outputs[0]);
    let (_, error) = said
        .split_once("error: ")
        .unwrap_or_else(|| panic!("{said}"));
    let steps = world.json_lines("out/run/metrics.jsonl").len();
    assert_eq!(
        error,
        format!(
            "cannot train\n  \
             caused by: training has stopped after step {steps}, whose checkpoint is in `out/run/checkpoints/step-{steps:06}`\n  \
             caused by: rank 1 is lost: its connection was closed\n\
             hint: see what that rank has said last, then start all ranks again with --resume: any number of them goes on\n"
        )
    );
    assert!(!world.path("out/run/adapter_model.safetensors").exists());

    let resumed = world.rag_tune(&long("out/run", &["--resume"]));
    let note = format!("going on after step {steps}");
    assert!(resumed.stderr.contains(&note), "{}", resumed.stderr);
    resumed.ok();
    assert_same(&world, "out/run", &expected);
}

#[test]
fn a_killed_rank_0_is_named_and_three_ranks_go_on() {
    let world = ToyWorld::new();
    let every = |more| long("out/run", more);
    world.rag_tune(&long("out/whole", &[])).ok();
    let mut children = start(&world, &every(&["--set", "train.checkpoint_every=2"]), 2);
    wait_for_steps(&world, "out/run", 5);
    children[0].kill().unwrap();
    let outputs = ended(children);
    assert_eq!(outputs[1].status.code(), Some(1));
    let said = stderr(&outputs[1]);
    assert!(
        said.contains("caused by: rank 0 is lost: its connection was closed"),
        "{said}"
    );

    for output in ended(start(&world, &every(&["--resume"]), 3)) {
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_same(&world, "out/run", &left_by(&world, "out/whole"));
}

#[test]
fn a_rank_that_hangs_is_noticed() {
    let world = ToyWorld::new();
    let mut children = start(&world, &long("out/run", &["--rank-timeout", "3"]), 2);
    wait_for_steps(&world, "out/run", 2);
    send(&children[1], Signal::STOP);
    let stopped = Instant::now();
    let hung = children.pop().unwrap();
    let output = ended(children).pop().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(20));
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("rank 1 is lost: nothing was heard of it for 3s"),
        "{said}"
    );
    let mut hung = hung;
    hung.kill().unwrap();
    hung.wait().unwrap();
}

/// As a scheduler does at the end of a job's time; and as a user does, who knows one of them.
#[test]
fn a_signal_to_all_or_to_one_stops_all_with_a_checkpoint() {
    let world = ToyWorld::new();
    for (out, asked) in [("out/all", &[0, 1][..]), ("out/one", &[1])] {
        let children = start(&world, &long(out, &[]), 2);
        wait_for_steps(&world, out, 2);
        asked
            .iter()
            .for_each(|rank| send(&children[*rank], Signal::TERM));
        let outputs = ended(children);
        for output in &outputs {
            assert_eq!(output.status.code(), Some(143), "{}", stderr(output));
        }
        let steps = world.json_lines(&format!("{out}/metrics.jsonl")).len();
        let said = stderr(&outputs[0]);
        let expected = format!("after step {steps} of 24, with a checkpoint");
        assert!(said.contains(&expected), "{said}");
        let checkpoint = format!("{out}/checkpoints/step-{steps:06}/manifest.json");
        assert!(world.path(&checkpoint).exists());
    }
}

#[test]
fn what_cannot_begin_says_why_on_every_rank() {
    let world = ToyWorld::new();
    let mut alone = world.command(&train("out/run", &[]));
    let output = alone
        .env("RANK", "0")
        .env("WORLD_SIZE", "2")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("the environment variable `MASTER_ADDR` is not set, but `WORLD_SIZE` is")
            && said.contains("hint: the launcher sets RANK"),
        "{said}"
    );
    // Only rank 0 looks at the folder.
    let outputs = ended(start(&world, &train("out/run", &["--resume"]), 2));
    for (rank, output) in outputs.iter().enumerate() {
        assert_eq!(output.status.code(), Some(1), "rank {rank}");
        let said = stderr(output);
        assert!(
            said.contains("`out/run` holds no run to resume"),
            "rank {rank}: {said}"
        );
    }
    assert!(stderr(&outputs[1]).contains("rank 0 has stopped: "));
}
