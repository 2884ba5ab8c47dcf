//! What holds for the data set as a whole.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::questions::kinds;
use super::schema::Split;
use super::*;

fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn database_dump(folder: &Path, id: &str) -> Vec<String> {
    let path = folder
        .join("database")
        .join(id)
        .join(format!("{id}.sqlite"));
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let column = |sql: &str| -> Vec<String> {
        let mut statement = file.prepare(sql).unwrap();
        let width = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
            let values = (0..width).map(|index| row.get::<_, rusqlite::types::Value>(index));
            Ok(format!(
                "{:?}",
                values.collect::<rusqlite::Result<Vec<_>>>()?
            ))
        };
        statement
            .query_map([], row)
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    let mut dump = column("SELECT sql FROM sqlite_master ORDER BY name");
    let mut names = file
        .prepare("SELECT name FROM sqlite_master ORDER BY name")
        .unwrap();
    let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
    for name in names.map(Result::unwrap) {
        dump.extend(column(&format!("SELECT * FROM {name}")));
    }
    dump
}

#[test]
fn the_same_seed_gives_the_same_files_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, seed| {
        let out = folder.path().join(name);
        generate(DemoTask::Sql, &out, seed, Overwrite::Refuse).unwrap();
        out
    };
    let (first, second, other) = (make("first", 7), make("second", 7), make("other", 8));
    let read = |out: &Path, file: &str| fs::read(out.join(file)).unwrap();
    for file in ["train.jsonl", "validation.jsonl", "README.md"] {
        assert!(read(&first, file) == read(&second, file), "{file}");
        assert!(read(&first, file) != read(&other, file), "{file}");
    }
    for domain in domains::all().unwrap() {
        let dump = database_dump(&first, &domain.id);
        assert_eq!(dump, database_dump(&second, &domain.id), "{}", domain.id);
        assert_ne!(dump, database_dump(&other, &domain.id), "{}", domain.id);
    }
}

#[test]
fn files_have_the_promised_rows_and_their_answers_run_on_the_written_databases() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("data");
    let summary = generate(DemoTask::Sql, &out, 42, Overwrite::Refuse).unwrap();
    assert_eq!(
        summary,
        DemoSummary {
            databases: 30,
            train_rows: 960,
            validation_rows: 240
        }
    );

    let (train, validation) = (
        rows(&out.join("train.jsonl")),
        rows(&out.join("validation.jsonl")),
    );
    assert_eq!((train.len(), validation.len()), (960, 240));
    let ids = |rows: &[BTreeMap<String, String>]| -> HashSet<String> {
        rows.iter().map(|row| row["db_id"].clone()).collect()
    };
    assert!(ids(&train).is_disjoint(&ids(&validation)));

    let mut empty = 0;
    for row in train.iter().chain(&validation) {
        let keys: Vec<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(keys, ["answer", "context", "db_id", "question"]);
        let id = &row["db_id"];
        let path = out.join("database").join(id).join(format!("{id}.sqlite"));
        let file = Connection::open(path).unwrap();
        let mut statement = file.prepare(&row["answer"]).unwrap();
        empty += usize::from(!statement.exists([]).unwrap());
    }
    assert!(
        empty * 20 <= train.len() + validation.len(),
        "{empty} empty results"
    );
}

#[test]
fn an_answer_needs_nothing_that_its_context_lacks() {
    for (_, questions) in entries(42).unwrap() {
        for row in questions {
            let empty = Connection::open_in_memory().unwrap();
            empty.execute_batch(&row.context).unwrap();
            assert!(
                empty.prepare(&row.answer).is_ok(),
                "{}\n{}",
                row.context,
                row.answer
            );
        }
    }
}

#[test]
fn questions_do_not_repeat_and_every_kind_is_in_both_splits() {
    let (mut texts, mut found) = (HashSet::new(), HashSet::new());
    for (database, questions) in entries(42).unwrap() {
        for row in questions {
            found.insert((database.domain.split, row.kind));
            assert!(
                texts.insert(row.question.clone()),
                "twice: {}",
                row.question
            );
        }
    }
    for kind in kinds() {
        for split in [Split::Train, Split::Validation] {
            assert!(
                found.contains(&(split, kind.name)),
                "no `{}` in {split:?}",
                kind.name
            );
        }
    }
}

#[test]
fn questions_have_no_gap_left_open_and_end_like_sentences() {
    for (_, questions) in entries(3).unwrap() {
        for row in questions {
            let text = &row.question;
            assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
            assert!(text.ends_with(['?', '.']) && !text.contains(" ,"), "{text}");
        }
    }
}

#[test]
fn rows_without_databases_are_as_many_as_promised_and_in_one_split_only() {
    let folder = tempfile::tempdir().unwrap();
    for (task, columns, unique) in [
        (DemoTask::Gsm8k, ["answer", "question"], "question"),
        (
            DemoTask::Functional,
            ["meaning_representation", "target"],
            "meaning_representation",
        ),
    ] {
        let make = |name: &str, seed| {
            let out = folder.path().join(format!("{}_{name}", task.name()));
            let summary = generate(task, &out, seed, Overwrite::Refuse).unwrap();
            assert_eq!(
                summary,
                DemoSummary {
                    databases: 0,
                    train_rows: 800,
                    validation_rows: 200
                }
            );
            out
        };
        let (out, again, other) = (make("first", 7), make("second", 7), make("other", 8));
        for file in ["train.jsonl", "validation.jsonl", "README.md"] {
            let read = |out: &Path| fs::read(out.join(file)).unwrap();
            assert!(
                read(&out) == read(&again) && read(&out) != read(&other),
                "{file}"
            );
        }
        let splits = ["train", "validation"].map(|split| {
            let rows = rows(&out.join(format!("{split}.jsonl")));
            assert!(rows.iter().all(|row| row.keys().eq(columns)));
            rows.iter()
                .map(|row| row[unique].clone())
                .collect::<HashSet<_>>()
        });
        assert!(splits[0].is_disjoint(&splits[1]), "{}", task.name());
    }
}

#[test]
fn a_data_set_is_replaced_only_when_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("data");
    generate(DemoTask::Sql, &out, 1, Overwrite::Refuse).unwrap();
    let before = fs::read(out.join("train.jsonl")).unwrap();

    let error = generate(DemoTask::Sql, &out, 2, Overwrite::Refuse).unwrap_err();
    assert!(error.to_string().ends_with("exists already"), "{error}");
    assert!(fs::read(out.join("train.jsonl")).unwrap() == before);

    generate(DemoTask::Sql, &out, 2, Overwrite::Replace).unwrap();
    assert!(fs::read(out.join("train.jsonl")).unwrap() != before);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing temporary stays"
    );
}

#[test]
fn a_folder_with_anything_else_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "keep").unwrap();
    let error = generate(DemoTask::Sql, folder.path(), 1, Overwrite::Replace).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("holds something else than demo data"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("thesis.txt")).unwrap(),
        "keep"
    );
}
