use super::*;
use crate::metrics::StepRecord;

fn step(step: usize) -> StepRecord {
    StepRecord {
        step,
        epoch: 0.1,
        loss: 2.0 / step as f64,
        grad_norm: 0.3,
        lr: 1e-3,
        tokens: 100,
        supervised_tokens: 30,
        seconds: 0.5,
        tokens_per_s: 200.0,
        supervised_tokens_per_s: 60.0,
        micro_batches: 1,
        peak_share: 0.4,
        peak_rss_bytes: None,
    }
}

fn write_steps(board: &mut TensorBoard, steps: std::ops::RangeInclusive<usize>) {
    for number in steps {
        board.observe(Event::Step(&step(number))).unwrap();
    }
}

/// The steps of every record with a step, in the order of reading.
fn steps(folder: &Path) -> Vec<u64> {
    let board = TensorBoard::new(folder);
    let mut steps = Vec::new();
    for path in board.files().unwrap() {
        let bytes = fs::read(&path).unwrap();
        let mut rest = &bytes[..];
        while let Some((data, length)) = record::first(rest) {
            steps.push(message::step_of(data));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "{} is torn", path.display());
    }
    steps
}

#[test]
fn nothing_is_written_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::new(folder.path());
    board.observe(Event::Resumed { step: 3 }).unwrap();
    assert!(!folder.path().join(TENSORBOARD_FOLDER).exists());
}

#[test]
fn a_resumed_run_has_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    write_steps(&mut TensorBoard::new(folder.path()), 1..=7);
    let first = TensorBoard::new(folder.path()).files().unwrap();
    // Killed while it wrote a record.
    let torn = fs::read(&first[0]).unwrap();
    fs::write(&first[0], [&torn[..], &torn[..9]].concat()).unwrap();

    let mut board = TensorBoard::new(folder.path());
    board.observe(Event::Resumed { step: 5 }).unwrap();
    write_steps(&mut board, 6..=9);
    // 0: the version of each file; 6 twice: the restart, and the step.
    assert_eq!(steps(folder.path()), [0, 1, 2, 3, 4, 5, 0, 6, 6, 7, 8, 9]);

    // Resumed again from before the first resume, within the same second.
    let mut board = TensorBoard::new(folder.path());
    board.observe(Event::Resumed { step: 2 }).unwrap();
    write_steps(&mut board, 3..=4);
    assert_eq!(steps(folder.path()), [0, 1, 2, 0, 0, 3, 3, 4]);
}

#[test]
fn a_run_from_the_start_replaces_our_files_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    write_steps(&mut TensorBoard::new(folder.path()), 1..=7);
    let other = folder
        .path()
        .join("tensorboard/events.out.tfevents.1700000000.host.1.0");
    fs::write(&other, "another program's").unwrap();
    write_steps(&mut TensorBoard::new(folder.path()), 1..=2);
    assert_eq!(steps(folder.path()), [0, 1, 2]);
    assert!(other.exists());
}

#[test]
fn names_sort_in_the_order_of_writing() {
    let old = [PathBuf::from(
        "x/events.out.tfevents.9999999999.rag-tune.0000",
    )];
    let next = next_name(&old);
    assert_eq!(next, "events.out.tfevents.9999999999.rag-tune.0001");
}
