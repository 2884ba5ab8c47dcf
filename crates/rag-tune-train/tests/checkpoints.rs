//! What can befall a run and its checkpoints: it always goes on from the newest whole one, to the same bytes.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rag_tune_model::config::{Compute, Quantization};
use rag_tune_train::TrainError;
use rag_tune_train::config::Activations;
use rag_tune_train::trainer::{Ending, Start};
use support::{TinyRun, adapter_bytes, golden_model, load, timeless_metrics};
use tempfile::TempDir;

const FILES: [&str; 6] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
    "optimizer_first_moments.safetensors",
    "optimizer_second_moments.safetensors",
    "state.json",
];

/// Killed in step 8 of 9, with checkpoints of steps 3 and 6.
fn killed() -> (TinyRun, TempDir) {
    let run = TinyRun::new(9).with(|train| train.checkpoint_every = 3);
    let folder = tempfile::tempdir().unwrap();
    run.killed_after(8, folder.path(), Start::Afresh);
    assert_eq!(checkpoints(folder.path()), ["step-000003", "step-000006"]);
    (run, folder)
}

fn checkpoints(out: &Path) -> Vec<String> {
    let entries = fs::read_dir(out.join("checkpoints")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of a run's folder, and the checkpoint of step 6 in it.
fn copied(folder: &TempDir) -> (TempDir, PathBuf) {
    let copied = tempfile::tempdir().unwrap();
    copy(folder.path(), copied.path());
    let checkpoint = copied.path().join("checkpoints/step-000006");
    (copied, checkpoint)
}

/// The uninterrupted run.
fn whole(run: &TinyRun) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    run.run(folder.path(), Start::Afresh).ok();
    folder
}

#[test]
fn a_checkpoint_holds_these_files() {
    let (_, folder) = killed();
    let entries = fs::read_dir(folder.path().join("checkpoints/step-000006")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, FILES);
}

/// Each file cut at several lengths, with one byte changed at several places, and removed.
#[test]
fn a_damaged_checkpoint_is_refused_by_name_and_the_previous_one_used() {
    let (run, folder) = killed();
    for file in FILES {
        let bytes = fs::read(folder.path().join("checkpoints/step-000006").join(file)).unwrap();
        let length = bytes.len();
        let mut damaged: Vec<(String, Option<Vec<u8>>)> = vec![("removed".to_owned(), None)];
        for cut in [0, 1, length / 2, length - 1] {
            damaged.push((format!("cut to {cut} bytes"), Some(bytes[..cut].to_vec())));
        }
        for at in [0, length / 3, length / 2, length - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            damaged.push((format!("byte {at} changed"), Some(bytes)));
        }
        for (what, bytes) in damaged {
            let (copied, checkpoint) = copied(&folder);
            match bytes {
                Some(bytes) => fs::write(checkpoint.join(file), bytes).unwrap(),
                None => fs::remove_file(checkpoint.join(file)).unwrap(),
            }
            let told = run.stopped(copied.path(), Start::Resume).ok();
            assert_eq!(told.resumed, Some(3), "{file} {what}");
            let [(path, reason)] = &told.refused[..] else {
                panic!("{file} {what}: {:?}", told.refused)
            };
            assert_eq!(*path, checkpoint);
            // Where a hash of the manifest was altered, the manifest is named with the file that it is of.
            let named = reason.contains(file) || file == "manifest.json";
            assert!(named, "{file} {what}: {reason}");
            assert_eq!(
                checkpoints(copied.path()),
                ["step-000003", "step-000004"],
                "the refused one goes once another is on the disk"
            );
        }
    }
}

#[test]
fn a_run_that_fell_back_ends_with_the_same_bytes() {
    let (run, folder) = killed();
    let whole = whole(&run);
    let (copied, checkpoint) = copied(&folder);
    fs::write(
        checkpoint.join("optimizer_first_moments.safetensors"),
        "torn",
    )
    .unwrap();
    let told = run.run(copied.path(), Start::Resume).ok();
    assert_eq!((told.resumed, told.refused.len()), (Some(3), 1));
    assert!(adapter_bytes(copied.path()) == adapter_bytes(whole.path()));
    assert_eq!(
        timeless_metrics(copied.path()),
        timeless_metrics(whole.path())
    );
}

/// A kill while the checkpoint of step 6 is written: some of its files, the last one half; then the
/// same folder just before it gets its name.
#[test]
fn a_kill_at_any_moment_of_writing_leaves_the_previous_checkpoint() {
    let (run, folder) = killed();
    for written in 0..=FILES.len() {
        for half in [false, true] {
            let (copied, checkpoint) = copied(&folder);
            let temporary = copied.path().join("checkpoints/.writing-step-000006");
            fs::rename(&checkpoint, &temporary).unwrap();
            for file in &FILES[written..] {
                fs::remove_file(temporary.join(file)).unwrap();
            }
            if let (true, Some(last)) = (half, written.checked_sub(1)) {
                let bytes = fs::read(temporary.join(FILES[last])).unwrap();
                fs::write(temporary.join(FILES[last]), &bytes[..bytes.len() / 2]).unwrap();
            }
            let told = run.stopped(copied.path(), Start::Resume).ok();
            assert_eq!((told.resumed, told.refused.len()), (Some(3), 0));
            assert_eq!(checkpoints(copied.path()), ["step-000003", "step-000004"]);
        }
    }
}

#[test]
fn a_kill_while_an_old_checkpoint_is_removed_leaves_the_new_one() {
    let (run, folder) = killed();
    for removed in 0..=FILES.len() {
        let (copied, _) = copied(&folder);
        let old = copied.path().join("checkpoints/step-000003");
        let removing = copied.path().join("checkpoints/.removing-step-000003");
        fs::rename(old, &removing).unwrap();
        for file in &FILES[..removed] {
            fs::remove_file(removing.join(file)).unwrap();
        }
        let told = run.stopped(copied.path(), Start::Resume).ok();
        assert_eq!((told.resumed, told.refused.len()), (Some(6), 0));
        assert_eq!(checkpoints(copied.path()), ["step-000006", "step-000007"]);
    }
}

#[test]
fn where_none_is_whole_each_is_listed_with_its_reason() {
    let (run, folder) = killed();
    let checkpoints = folder.path().join("checkpoints");
    fs::remove_file(checkpoints.join("step-000003/state.json")).unwrap();
    fs::write(
        checkpoints.join("step-000006/adapter_model.safetensors"),
        "",
    )
    .unwrap();
    let error = run.run(folder.path(), Start::Resume).error();
    let text = error.to_string();
    for part in [
        "step-000003`: state.json is missing",
        "step-000006`: adapter_model.safetensors has 0 bytes, written were",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(error.hint().unwrap().contains("--force"));
    assert!(
        checkpoints.join("step-000006").exists(),
        "nothing is removed"
    );
}

#[test]
fn a_checkpoint_under_the_name_of_another_step_is_refused() {
    let (run, folder) = killed();
    let checkpoints = folder.path().join("checkpoints");
    fs::rename(
        checkpoints.join("step-000006"),
        checkpoints.join("step-000009"),
    )
    .unwrap();
    let told = run.stopped(folder.path(), Start::Resume).ok();
    assert_eq!(told.resumed, Some(3));
    assert_eq!(told.refused[0].1, "it is the checkpoint of step 6");
}

#[test]
fn a_torn_last_line_of_the_metrics_does_not_stop_a_resumed_run() {
    let (run, folder) = killed();
    let whole = whole(&run);
    // Also what is no text at all, which a crashed file system may leave.
    for end in [&b"{\"step\": 9, \"epo"[..], b"\xff\x00\xfe"] {
        let (copied, _) = copied(&folder);
        let path = copied.path().join("metrics.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(end);
        fs::write(&path, bytes).unwrap();
        run.run(copied.path(), Start::Resume).ok();
        assert_eq!(
            timeless_metrics(copied.path()),
            timeless_metrics(whole.path())
        );
    }
}

#[test]
fn a_stopped_run_has_a_checkpoint_of_its_last_step_and_no_adapter() {
    let run = TinyRun::new(4);
    let (stopped, whole) = (tempfile::tempdir().unwrap(), whole(&run));
    for step in 1..=3 {
        let start = if step == 1 {
            Start::Afresh
        } else {
            Start::Resume
        };
        let told = run.stopped(stopped.path(), start).ok();
        let summary = told.result.unwrap().unwrap();
        assert_eq!((summary.steps, summary.ending), (step, Ending::Stopped));
        assert!(!stopped.path().join("adapter_model.safetensors").exists());
        let last = checkpoints(stopped.path()).pop();
        assert_eq!(last, Some(format!("step-{step:06}")));
    }
    let told = run.stopped(stopped.path(), Start::Resume).ok();
    let ending = told.result.unwrap().unwrap().ending;
    assert!(
        matches!(ending, Ending::Finished { .. }),
        "after the last step there is nothing to stop"
    );
    assert!(adapter_bytes(stopped.path()) == adapter_bytes(whole.path()));
}

#[test]
fn settings_that_do_not_change_the_result_may_change_on_the_way() {
    let (run, folder) = killed();
    let whole = whole(&run);
    let run = run.with(|train| {
        train.checkpoint_every = 1;
        train.keep_checkpoints = 3;
        train.activations = Activations::Full;
    });
    run.run(folder.path(), Start::Resume).ok();
    assert!(adapter_bytes(folder.path()) == adapter_bytes(whole.path()));
    assert_eq!(
        checkpoints(folder.path()),
        ["step-000007", "step-000008", "step-000009"]
    );
}

/// How a run differs from the one that wrote the checkpoints.
type Difference = fn(&mut TinyRun);

#[test]
fn a_run_that_would_end_otherwise_is_refused_with_what_differs() {
    let (_, folder) = killed();
    let differences: [(Difference, &str); 9] = [
        (|run| run.seed = 2, "`seed` was 1 and is 2"),
        (
            |run| run.lora.alpha = 8.0,
            "`lora.alpha` was 16.0 and is 8.0",
        ),
        (
            |run| run.train.learning_rate = 1e-3,
            "`train.learning_rate` was 0.02 and is 0.001",
        ),
        (
            |run| run.train.tokens_per_micro_batch = 30,
            "`train.tokens_per_micro_batch` was 40 and is 30",
        ),
        (
            |run| run.train.max_steps = Some(12),
            "so a run cannot be made longer or shorter",
        ),
        (|run| run.rows[3].ids[0] += 1, "the training rows"),
        (
            |run| run.model = golden_model("tiny_untied"),
            "the base model has other weights",
        ),
        (
            |run| {
                let path = run.model.path().to_owned();
                run.model = load(&path, Quantization::None, Compute::F32);
            },
            "`model.quantization` was int8 and is none",
        ),
        (
            |run| {
                run.train.max_steps = None;
                run.train.epochs = Some(3.0);
            },
            "`train.epochs` was not set and is 3.0",
        ),
    ];
    for (change, part) in differences {
        let mut run = TinyRun::new(9).with(|train| train.checkpoint_every = 3);
        change(&mut run);
        let error = run.run(folder.path(), Start::Resume).error();
        assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("step-000006") && text.contains(part),
            "{text}"
        );
        assert_eq!(checkpoints(folder.path()).len(), 2, "nothing is removed");
    }
}
