//! Runs that are killed, stopped by a signal, or out of disk space: what they leave, and what `--resume` makes of it.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::files_below;
use support::toy_world::ToyWorld;

const KILLS: usize = 50;

/// `train` with eight steps and a checkpoint after each.
fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["train", "run.toml", "--set", "train.max_steps=8", "--out"];
    [&flags[..], &[out], more].concat()
}

/// Names and bytes of the adapter and of every checkpoint, and the metrics without their times and what follows from them.
fn left_by(world: &ToyWorld, out: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = world.path(out);
    let mut left = BTreeMap::new();
    for path in files_below(&folder) {
        let name = path.strip_prefix(&folder).unwrap().to_owned();
        if name.starts_with("checkpoints") || name.starts_with("adapter_model.safetensors") {
            left.insert(name, std::fs::read(path).unwrap());
        }
    }
    let mut metrics = String::new();
    for mut line in world.json_lines(&format!("{out}/metrics.jsonl")) {
        let measured = [
            "seconds",
            "tokens_per_s",
            "supervised_tokens_per_s",
            "peak_share",
            "peak_rss_bytes",
        ];
        for name in measured {
            line[name] = Value::Null;
        }
        metrics += &format!("{line}\n");
    }
    left.insert("metrics.jsonl".into(), metrics.into_bytes());
    left
}

#[track_caller]
fn assert_same(world: &ToyWorld, out: &str, expected: &BTreeMap<PathBuf, Vec<u8>>) {
    let left = left_by(world, out);
    assert!(
        left.keys().eq(expected.keys()),
        "{out}: {:?} instead of {:?}",
        left.keys(),
        expected.keys()
    );
    for (name, bytes) in &left {
        assert!(*bytes == expected[name], "{out}/{} differs", name.display());
    }
}

fn is_finished(world: &ToyWorld, out: &str) -> bool {
    world.path(out).join("adapter_model.safetensors").exists()
}

/// Uniform in `[0, 1)` (splitmix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Delays up to the length of a run, so that kills fall into loading, steps and the writing of
/// checkpoints alike. A run ends after two or three; then the next one begins.
#[test]
fn killed_fifty_times_at_random_moments_every_run_ends_with_the_same_bytes() {
    let world = ToyWorld::new();
    let start = Instant::now();
    world.rag_tune(&train("out/whole", &[])).ok();
    let length = start.elapsed();
    let expected = left_by(&world, "out/whole");
    let (mut random, mut kills, mut runs) = (Random(5), 0, 0);
    while kills < KILLS {
        let out = format!("out/{runs}");
        // A kill may come before there is anything to resume; the program says so.
        let mut begun = false;
        while !is_finished(&world, &out) {
            let resume: &[&str] = if begun { &["--resume"] } else { &[] };
            let mut command = world.command(&train(&out, resume));
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            if kills < KILLS {
                sleep(length.mul_f64(random.next()));
                child.kill().unwrap();
            }
            let ended = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&ended.stderr);
            kills += usize::from(ended.status.signal().is_some());
            begun = !stderr.contains("holds no run to resume");
            let ok = ended.status.signal().is_some() || ended.status.success() || !begun;
            assert!(ok, "{out}, kill {kills}: {stderr}");
            assert!(
                !stderr.contains("is not used"),
                "a kill damages nothing: {stderr}"
            );
        }
        assert_same(&world, &out, &expected);
        runs += 1;
    }
}

#[track_caller]
fn wait_for(what: &str, happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{what} never happened"
        );
        sleep(Duration::from_millis(2));
    }
}

/// Waits for so many steps of the run in `out`.
#[track_caller]
fn wait_for_steps(world: &ToyWorld, out: &str, steps: usize) {
    let path = world.path(out).join("metrics.jsonl");
    wait_for("the step", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() >= steps)
    });
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn sigint_and_sigterm_leave_a_checkpoint_and_the_exit_code_of_the_signal() {
    let world = ToyWorld::new();
    world.rag_tune(&train("out/whole", &[])).ok();
    let expected = left_by(&world, "out/whole");
    for (signal, name, code) in [(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)] {
        let out = format!("out/{name}");
        let mut command = world.command(&train(&out, &[]));
        let command = command.stderr(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for_steps(&world, &out, 2);
        send(&child, signal);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(code));
        assert!(ended.stdout.is_empty(), "an unfinished run is no data");
        let steps = world.json_lines(&format!("{out}/metrics.jsonl")).len();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        let said = format!(
            "stopped by {name} after step {steps} of 8, with a checkpoint; \
             the same command with --resume goes on"
        );
        assert!(
            stderr.contains(&said) && !stderr.contains("error"),
            "{stderr}"
        );
        let checkpoint = format!("{out}/checkpoints/step-{steps:06}/manifest.json");
        assert!(world.path(&checkpoint).is_file());
        assert!(!is_finished(&world, &out));

        let resumed = world.rag_tune(&train(&out, &["--resume"]));
        let note = format!("going on after step {steps}");
        assert!(resumed.stderr.contains(&note), "{}", resumed.stderr);
        resumed.ok();
        assert_same(&world, &out, &expected);
    }
}

#[test]
fn a_second_sigint_ends_at_once_and_a_second_sigterm_does_not() {
    let world = ToyWorld::new();
    // A step over many rows, which takes seconds.
    let rows = world.read("data/train.jsonl");
    world.write("data/train.jsonl", &rows.repeat(400));
    let flags = ["train", "run.toml", "--set", "train.batch_size=100000"];
    let mut command = world.command(&flags);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first step", || {
        world.path("out/zero_shot/metrics.jsonl").exists()
    });
    send(&child, Signal::TERM);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let said = stderr.lines().map_while(Result::ok);
    assert!(
        said.into_iter()
            .any(|line| line.contains("stopping after this step"))
    );
    send(&child, Signal::TERM);
    sleep(Duration::from_millis(600));
    assert_eq!(
        child.try_wait().unwrap(),
        None,
        "the step is still going on"
    );
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::INT.as_raw()));
    let checkpoints = files_below(&world.path("out/zero_shot/checkpoints"));
    assert!(
        checkpoints.is_empty(),
        "it was the first step: {checkpoints:?}"
    );
}

/// The program with a limit on the size of a file: what is written beyond it fails, as on a full disk.
fn with_file_limit(world: &ToyWorld, bytes: usize, arguments: &[&str]) -> Command {
    let program = world.command(arguments);
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes / 512);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(program.get_current_dir().expect("the world's folder"));
    shell
}

/// The message of a run that must have run out of space.
#[track_caller]
fn out_of_space(world: &ToyWorld, bytes: usize, arguments: &[&str]) -> String {
    let ended = with_file_limit(world, bytes, arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(ended.stdout.is_empty());
    assert!(stderr.contains("hint: make room on that disk"), "{stderr}");
    stderr
}

#[test]
fn a_full_disk_stops_the_run_and_the_last_checkpoint_stays() {
    let world = ToyWorld::new();
    world
        .rag_tune(&["augment", "run.toml", "--out", "rows"])
        .ok();
    let flags = |more| [&train("out/full", more)[..], &["--augmented", "rows"]].concat();
    world
        .rag_tune(&[&train("out/whole", &[])[..], &["--augmented", "rows"]].concat())
        .ok();
    let expected = left_by(&world, "out/whole");
    let no_half_file = || {
        for path in files_below(&world.path("out/full")) {
            let text = path.to_string_lossy().into_owned();
            assert!(
                !text.contains(".writing-") && !text.contains(".rag-tune-"),
                "{text}"
            );
        }
        assert!(!is_finished(&world, "out/full"));
    };

    // The first checkpoint does not fit.
    let said = out_of_space(&world, 8192, &flags(&[]));
    let file = "checkpoints/.writing-step-000001/adapter_model.safetensors`";
    assert!(
        said.contains("cannot write `") && said.contains(file),
        "{said}"
    );
    no_half_file();

    // With room again it begins at step 1, and is stopped later.
    let mut child = world.command(&flags(&["--resume"])).spawn().unwrap();
    wait_for_steps(&world, "out/full", 2);
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let checkpoints = || -> Vec<(PathBuf, Vec<u8>)> {
        let files = files_below(&world.path("out/full/checkpoints"));
        let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
        files.into_iter().map(read).collect()
    };
    let before = checkpoints();
    assert!(!before.is_empty());

    // Now a later checkpoint does not fit, then a line of the metrics.
    out_of_space(&world, 8192, &flags(&["--resume"]));
    no_half_file();
    assert!(
        checkpoints() == before,
        "the last good checkpoint was touched"
    );
    let rarely = ["--resume", "--set", "train.checkpoint_every=100"];
    let said = out_of_space(&world, 1536, &flags(&rarely));
    assert!(said.contains("metrics.jsonl`"), "{said}");
    let metrics = world.read("out/full/metrics.jsonl");
    assert!(!metrics.ends_with('\n'), "the last line is torn: {metrics}");
    assert!(
        checkpoints() == before,
        "the last good checkpoint was touched"
    );

    world.rag_tune(&flags(&["--resume"])).ok();
    assert_same(&world, "out/full", &expected);
}

#[test]
fn what_resume_says_where_there_is_nothing_to_resume() {
    let world = ToyWorld::new();
    let no_run = world.rag_tune(&train("out/run", &["--resume"])).refused();
    assert!(
        no_run.contains("`out/run` holds no run to resume"),
        "{no_run}"
    );
    world.rag_tune(&train("out/run", &[])).ok();
    let finished = world.rag_tune(&train("out/run", &["--resume"])).refused();
    assert!(
        finished.contains("holds a finished run: there is nothing to resume"),
        "{finished}"
    );
    assert!(
        finished.contains("a run with more steps is another run"),
        "{finished}"
    );
}

#[test]
fn damaged_checkpoints_are_told_and_other_settings_named() {
    let world = ToyWorld::new();
    world.rag_tune(&train("out/run", &[])).ok();
    let expected = left_by(&world, "out/run");
    std::fs::remove_file(world.path("out/run/adapter_model.safetensors")).unwrap();
    let longer = [
        &train("out/run", &["--resume"])[..],
        &["--set", "train.max_steps=9"],
    ]
    .concat();
    let refusal = world.rag_tune(&longer).refused();
    assert!(
        refusal.contains("`train.max_steps` was 8 and is 9"),
        "{refusal}"
    );

    world.write("out/run/checkpoints/step-000008/state.json", "{}");
    let resumed = world.rag_tune(&train("out/run", &["--resume"]));
    let note = "checkpoint `out/run/checkpoints/step-000008` is not used: state.json has 2 bytes";
    assert!(resumed.stderr.contains(note), "{}", resumed.stderr);
    resumed.ok();
    assert_same(&world, "out/run", &expected);
}

#[test]
fn two_trainings_in_one_folder_are_kept_apart() {
    let world = ToyWorld::new();
    let long = ["train", "run.toml", "--set", "train.max_steps=100000"];
    let mut first = world.command(&long).spawn().unwrap();
    wait_for_steps(&world, "out/zero_shot", 1);
    let refusal = world
        .rag_tune(&[&long[..], &["--force"]].concat())
        .refused();
    assert!(
        refusal.contains("another process is training in `out/zero_shot`"),
        "{refusal}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
}
