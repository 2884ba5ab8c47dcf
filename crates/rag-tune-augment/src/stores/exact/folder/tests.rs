//! What a store on disk must be, whatever happens to it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::embed::Embeddings;
use crate::stores::Store;

fn identity(rows: usize) -> StoreIdentity {
    let (embedder, texts) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
    StoreIdentity {
        embedder,
        texts,
        rows,
    }
}

fn vectors(rows: usize) -> Embeddings {
    let values = (0..3 * rows).map(|at| (at as f32).sin());
    Embeddings::new(3, values.collect())
}

fn fill(rows: usize) -> impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError> {
    move |push| push(&vectors(rows))
}

fn not_called(_: &mut Push<'_>) -> Result<(), AugmentError> {
    panic!("the store is there")
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn store_error(result: Result<ExactStore, AugmentError>) -> StoreError {
    match result {
        Err(AugmentError::Store(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_is_made_once_and_then_opened() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep/store");
    for on_damage in [OnDamage::Report, OnDamage::Replace] {
        let made = open_or_build(&folder, on_damage, &identity(5), fill(5)).unwrap();
        assert_eq!(made.vectors(&[4, 0]).unwrap().row(0), vectors(5).row(4));
        let opened = open_or_build(&folder, on_damage, &identity(5), not_called).unwrap();
        let nearest = |store: &ExactStore| store.nearest(&vectors(5), 2, &|_, _| true).unwrap();
        assert_eq!(nearest(&made), nearest(&opened));
        assert_eq!(nearest(&made), nearest(&ExactStore::new(vectors(5))));
        assert_eq!(entries(folder.parent().unwrap()), ["store"]);
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_large_store_keeps_its_codes() {
    let parent = tempfile::tempdir().unwrap();
    let rows = super::super::CODED_ROWS + 1;
    let folder = parent.path().join("store");
    let pushed_in_parts = |push: &mut Push<'_>| {
        let all = vectors(rows);
        all.values()
            .chunks(3 * 977)
            .try_for_each(|part| push(&Embeddings::new(3, part.to_vec())))
    };
    open_or_build(&folder, OnDamage::Report, &identity(rows), pushed_in_parts).unwrap();
    let opened = open_or_build(&folder, OnDamage::Report, &identity(rows), not_called).unwrap();
    let (coded, _) = opened.codes.as_ref().unwrap();
    let expected = Codes::of(vectors(rows).values(), 3);
    assert_eq!(coded.bytes(), expected.bytes());
    assert_eq!(entries(&folder), [CODES, DESCRIPTION, VECTORS]);
}

#[test]
fn a_store_of_something_else_is_refused_and_stays() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    open_or_build(&folder, OnDamage::Report, &identity(5), fill(5)).unwrap();
    let other_embedder = StoreIdentity {
        embedder: "77".repeat(32),
        ..identity(5)
    };
    let other_texts = StoreIdentity {
        texts: "88".repeat(32),
        ..identity(5)
    };
    let text = |other: &StoreIdentity| {
        let error = store_error(open_or_build(&folder, OnDamage::Report, other, not_called));
        let shown = folder.display().to_string();
        (
            error.to_string().replace(&shown, "STORE"),
            error.hint().unwrap().replace(&shown, "STORE"),
        )
    };
    assert_eq!(
        text(&other_embedder),
        (
            "the store `STORE` was made from other vectors: found 0123456789ab, expected 777777777777".into(),
            "it is of another `retrieval.embedder` (or of other settings of it); give another \
             `retrieval.store_folder`, or delete `STORE`".into()
        )
    );
    assert!(
        text(&other_texts)
            .0
            .ends_with("other texts: found fedcba987654 (5 rows), expected 888888888888 (5 rows)")
    );
    assert!(
        text(&identity(6))
            .0
            .ends_with("(5 rows), expected fedcba987654 (6 rows)")
    );
    open_or_build(&folder, OnDamage::Report, &identity(5), not_called).unwrap();
}

#[test]
fn a_damaged_store_is_reported_or_made_again() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 5] = [
        (
            VECTORS,
            |path| fs::write(path, [0; 56]).unwrap(),
            "it has 56 bytes, expected 60",
        ),
        (
            VECTORS,
            |path| fs::write(path, []).unwrap(),
            "it has 0 bytes, expected 60",
        ),
        (
            VECTORS,
            |path| fs::remove_file(path).unwrap(),
            "it is missing",
        ),
        (
            DESCRIPTION,
            |path| fs::write(path, "{\"layout\": 1").unwrap(),
            "EOF",
        ),
        (
            DESCRIPTION,
            |path| fs::write(path, "{}").unwrap(),
            "missing field `layout`",
        ),
    ];
    for (file, damage, expected) in damages {
        open_or_build(&folder, OnDamage::Report, &identity(5), fill(5)).unwrap();
        damage(&folder.join(file));
        let error = store_error(open_or_build(
            &folder,
            OnDamage::Report,
            &identity(5),
            not_called,
        ));
        let StoreError::Damaged { path, problem } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(path.file_name().unwrap(), file);
        assert!(problem.contains(expected), "{problem}");
        assert!(error.hint().unwrap().contains("delete"));
        let again = open_or_build(&folder, OnDamage::Replace, &identity(5), fill(5)).unwrap();
        assert_eq!(again.len(), 5);
        assert_eq!(entries(parent.path()), ["store"]);
    }
}

#[test]
fn a_store_of_another_layout_is_not_read() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(DESCRIPTION), "{\"layout\": 2, \"news\": true}").unwrap();
    let error = store_error(open_or_build(
        &folder,
        OnDamage::Report,
        &identity(5),
        not_called,
    ));
    assert!(matches!(
        error,
        StoreError::OtherLayout {
            expected: 1,
            found: 2,
            ..
        }
    ));
}

#[test]
fn a_folder_of_other_files_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(parent.path().join("thesis.tex"), "years of work").unwrap();
    let error = store_error(open_or_build(
        parent.path(),
        OnDamage::Report,
        &identity(5),
        not_called,
    ));
    assert!(matches!(error, StoreError::NotAStore { .. }));
    assert_eq!(entries(parent.path()), ["thesis.tex"]);
    // An empty folder is as good as none.
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    open_or_build(&empty, OnDamage::Report, &identity(5), fill(5)).unwrap();
}

#[test]
fn an_interrupted_build_leaves_no_store_and_the_next_one_cleans_up() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let interrupted = |push: &mut Push<'_>| {
        push(&vectors(3))?;
        Err(StoreError::NotFinite { row: 3 }.into())
    };
    let error = store_error(open_or_build(
        &folder,
        OnDamage::Report,
        &identity(5),
        interrupted,
    ));
    assert!(matches!(error, StoreError::NotFinite { row: 3 }));
    assert!(entries(parent.path()).is_empty());
    // As a killed process leaves it; the other one belongs to another store.
    for name in [".store.building-x1", ".other.building-x2"] {
        fs::create_dir(parent.path().join(name)).unwrap();
        fs::write(parent.path().join(name).join(VECTORS), [0; 8]).unwrap();
    }
    fs::write(parent.path().join(".store.lock"), "").unwrap();
    open_or_build(&folder, OnDamage::Report, &identity(5), fill(5)).unwrap();
    assert_eq!(entries(parent.path()), [".other.building-x2", "store"]);
}

#[test]
fn vectors_that_do_not_fit_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let of = |values: &[f32], dimension| Embeddings::new(dimension, values.to_vec());
    let cases = [
        (
            vec![of(&[0.0; 6], 3)],
            "the store of vectors holds 2 vectors, expected 5",
        ),
        (vec![], "the store of vectors holds 0 vectors, expected 5"),
        (
            vec![of(&[0.0; 6], 3), of(&[0.0; 6], 2)],
            "holds vectors of 3 values, but was given some of 2",
        ),
        (
            vec![of(&[0.0; 6], 3), of(&[0.0, f32::NAN, 0.0], 3)],
            "vector 2 of those given",
        ),
        (vec![of(&[1e20, 0.0, 0.0], 3)], "vector 0 of those given"),
    ];
    for (pushed, expected) in cases {
        let fill = |push: &mut Push<'_>| pushed.iter().try_for_each(&mut *push);
        let in_folder = open_or_build(&folder, OnDamage::Replace, &identity(5), fill);
        let fill = |push: &mut Push<'_>| pushed.iter().try_for_each(&mut *push);
        for result in [in_folder, ExactStore::in_memory(&identity(5), fill)] {
            let error = store_error(result);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

#[test]
fn two_that_build_at_once_share_one_store() {
    for on_damage in [OnDamage::Report, OnDamage::Replace] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        let fills = AtomicUsize::new(0);
        let slow = |push: &mut Push<'_>| {
            fills.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(50));
            push(&vectors(5))
        };
        std::thread::scope(|scope| {
            let open = || {
                open_or_build(&folder, on_damage, &identity(5), slow)
                    .unwrap()
                    .len()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .for_each(|thread| assert_eq!(thread.join().unwrap(), 5));
        });
        assert_eq!(fills.load(Ordering::SeqCst), 1);
        assert_eq!(entries(parent.path()), ["store"]);
    }
}
