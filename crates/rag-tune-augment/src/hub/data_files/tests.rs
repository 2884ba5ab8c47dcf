//! The layouts of data sets that people meet, and those that cannot be told.

use super::*;

const WANTED: Wanted<'_> = Wanted {
    source_name: "owner/name",
    configuration: None,
    split: "train",
    train_split: "train",
    file: None,
};

fn choose(wanted: Wanted<'_>, files: &[&str]) -> Result<Vec<String>, String> {
    let files: Vec<String> = files.iter().map(|file| (*file).into()).collect();
    wanted
        .choose(&files)
        .map_err(|error| format!("{error}; {}", error.hint().unwrap_or_default()))
}

fn split(split: &str, files: &[&str]) -> Result<Vec<String>, String> {
    choose(Wanted { split, ..WANTED }, files)
}

fn configured(configuration: &str, split: &str, files: &[&str]) -> Result<Vec<String>, String> {
    let configuration = Some(configuration);
    choose(
        Wanted {
            configuration,
            split,
            ..WANTED
        },
        files,
    )
}

#[test]
fn the_hubs_usual_layouts_are_known() {
    let shards = [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ];
    let with_test = [
        shards[1],
        "data/test-00000-of-00001-0a1b.parquet",
        shards[0],
        "README.md",
    ];
    assert_eq!(split("train", &with_test).unwrap(), shards);
    assert_eq!(split("test", &with_test).unwrap(), [with_test[1]]);
    for (file, name) in [
        ("train.csv", "train"),
        ("Train.JSONL", "train"),
        ("training.jsonl.gz", "train"),
        ("foo_train.jsonl", "train"),
        ("foo-train-v2.json", "train"),
        ("train2.tsv", "train"),
        ("dev.jsonl", "validation"),
        ("val.jsonl", "validation"),
        ("validation.jsonl", "dev"),
        ("my.valid.csv", "validation"),
        ("eval.jsonl", "test"),
        ("train/0000.parquet", "train"),
        ("data/dev/part.jsonl", "validation"),
        ("main/train/0000.parquet", "train"),
        ("spider/train_spider.json", "train_spider"),
    ] {
        assert_eq!(
            split(name, &[file, "dataset_info.json"]).as_deref(),
            Ok(&[file.into()][..])
        );
    }
}

#[test]
fn the_most_specific_name_wins() {
    let files = [
        "train_spider.json",
        "train.json",
        "train_others.json",
        "old/train.json",
    ];
    assert_eq!(split("train", &files).unwrap(), ["train.json"]);
    assert_eq!(
        split("train_others", &files).unwrap(),
        ["train_others.json"]
    );
    assert_eq!(
        split("validation", &["dev.csv", "validation.csv"]).unwrap(),
        ["validation.csv"]
    );
    assert_eq!(
        split("dev", &["dev.csv", "validation.csv"]).unwrap(),
        ["dev.csv"]
    );
}

#[test]
fn shards_follow_by_number() {
    let files = ["train-10.jsonl", "train-9.jsonl", "train-1.jsonl"];
    assert_eq!(
        split("train", &files).unwrap(),
        [files[2], files[1], files[0]]
    );
    let files = ["train/b.csv", "train/a.csv", "test/c.csv"];
    assert_eq!(
        split("train", &files).unwrap(),
        ["train/a.csv", "train/b.csv"]
    );
}

#[test]
fn a_missing_shard_is_noticed() {
    let problem = split(
        "train",
        &[
            "train-00001-of-00003.parquet",
            "train-00000-of-00003.parquet",
        ],
    );
    assert!(
        problem
            .unwrap_err()
            .starts_with("`owner/name` has 2 of the 3 files of the split `train`")
    );
}

#[test]
fn what_is_not_clear_is_refused_with_the_candidates() {
    for files in [
        ["train.csv", "train.jsonl"],
        ["train.jsonl", "data/train.jsonl"],
        ["train.jsonl", "train.jsonl.gz"],
        ["a_train.jsonl", "b_train.jsonl"],
        ["train_sft.jsonl", "train_gen.jsonl"],
        ["x.jsonl", "y.jsonl"],
    ] {
        let problem = split("train", &files).unwrap_err();
        for part in [files[0], files[1], "data.files"] {
            assert!(problem.contains(part), "{files:?}: {problem}");
        }
    }
}

#[test]
fn a_configuration_is_a_folder_or_a_prefix() {
    let files = [
        "main/train.jsonl",
        "main/test.jsonl",
        "socratic/train.jsonl",
    ];
    assert_eq!(
        configured("main", "train", &files).unwrap(),
        ["main/train.jsonl"]
    );
    assert_eq!(
        configured("socratic", "train", &files).unwrap(),
        ["socratic/train.jsonl"]
    );
    let files = [
        "data/main-train.csv",
        "data/socratic-train.csv",
        "data/main-test.csv",
    ];
    assert_eq!(
        configured("main", "train", &files).unwrap(),
        ["data/main-train.csv"]
    );
    assert_eq!(
        configured("default", "train", &["train.csv"]).unwrap(),
        ["train.csv"]
    );
}

#[test]
fn several_configurations_need_a_choice_and_one_does_not() {
    let files = [
        "main/train.jsonl",
        "main/test.jsonl",
        "socratic/train.jsonl",
    ];
    for name in ["train", "test"] {
        let problem = split(name, &files).unwrap_err();
        let expected = "`owner/name` has several configurations: `main`, `socratic`; \
                        name one, such as `data.source = \"owner/name:main\"`";
        assert_eq!(problem, expected);
    }
    assert_eq!(split("test", &files[..2]).unwrap(), ["main/test.jsonl"]);
    assert_eq!(
        configured("other", "train", &files).unwrap_err(),
        "`owner/name` has no configuration `other`; it has `main`, `socratic`"
    );
}

#[test]
fn the_splits_there_are_are_listed() {
    assert_eq!(
        split("test", &["train.jsonl", "dev.jsonl", ".hidden/test.jsonl"]).unwrap_err(),
        "`owner/name` has no split `test`; it has `dev`, `train`"
    );
    assert!(
        split("train", &["README.md", "config.json"])
            .unwrap_err()
            .contains(".parquet")
    );
}

#[test]
fn data_without_a_splits_name_is_the_train_split() {
    assert_eq!(split("train", &["pairs.csv"]).unwrap(), ["pairs.csv"]);
    assert_eq!(
        split("train", &["part-2.csv", "part-1.csv"]).unwrap(),
        ["part-1.csv", "part-2.csv"]
    );
    let problem = split("validation", &["pairs.csv"]).unwrap_err();
    assert!(problem.ends_with("it has `train`"), "{problem}");
}

#[test]
fn the_configured_files_win() {
    let named = |file| {
        choose(
            Wanted {
                file: Some(file),
                ..WANTED
            },
            &[
                "train.csv",
                "a/x1.csv",
                "a/x2.csv",
                "a/b/x3.csv",
                "a/x1.json",
            ],
        )
    };
    assert_eq!(named("./a/x2.csv").unwrap(), ["a/x2.csv"]);
    assert_eq!(named("a/*.csv").unwrap(), ["a/x1.csv", "a/x2.csv"]);
    assert_eq!(
        named("**.csv").unwrap(),
        ["a/b/x3.csv", "a/x1.csv", "a/x2.csv", "train.csv"]
    );
    assert!(named("a/x1.*").unwrap_err().contains("not clear"));
    let problem = named("b/*.csv").unwrap_err();
    assert!(
        problem.starts_with("`owner/name` has no file `b/*.csv`, which `data.files` names"),
        "{problem}"
    );
}
