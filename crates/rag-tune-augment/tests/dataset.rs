//! Every format of data files: the same rows come out, and what is wrong with a file is said with its place.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::mirror_with;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use rag_tune_augment::dataset::{BadRows, Reading, Split};
use rag_tune_augment::{AugmentError, DataConfig, Hub};
use serde_json::{Value, json};

/// A folder with one data file, and how it is read.
struct Case {
    folder: tempfile::TempDir,
    columns: BTreeMap<String, String>,
    required: Vec<&'static str>,
    filled: Vec<&'static str>,
    id: Option<&'static str>,
    bad_rows: BadRows,
}

impl Case {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            columns: BTreeMap::new(),
            required: vec!["question", "answer"],
            filled: vec!["question", "answer"],
            id: None,
            bad_rows: BadRows::Error,
        }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open_files(&self, files: &[PathBuf]) -> Result<Split, AugmentError> {
        let reading = Reading {
            columns: &self.columns,
            required: &self.required,
            given: &[],
            filled: &self.filled,
            id: self.id,
            bad_rows: self.bad_rows,
        };
        Split::open(files, &reading)
    }

    fn open(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<Split, AugmentError> {
        self.open_files(&[self.write(name, bytes)])
    }

    /// Message and hint, without the folder.
    fn problem(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let error = self.open(name, bytes).unwrap_err();
        let text = format!("{error}; {}", error.hint().unwrap_or_default());
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }

    fn skipping(mut self) -> Self {
        self.bad_rows = BadRows::Skip;
        self
    }
}

fn rows(split: &Split) -> Vec<Value> {
    let rows = split.rows(0..split.len()).unwrap();
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.index, index);
        assert_eq!(split.row(index).unwrap(), *row);
    }
    rows.into_iter()
        .map(|row| Value::Object(row.fields))
        .collect()
}

fn questions(split: &Split) -> Vec<String> {
    let text = |row: &Value| row["question"].as_str().unwrap().to_owned();
    rows(split).iter().map(text).collect()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn json_lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// Rows of texts only, under a line of names.
fn table(rows: &[Value], delimiter: u8) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .from_writer(Vec::new());
    writer
        .write_record(rows[0].as_object().unwrap().keys())
        .unwrap();
    for row in rows {
        let texts = row
            .as_object()
            .unwrap()
            .values()
            .map(|value| value.as_str().unwrap());
        writer.write_record(texts).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Optional text columns, `group_rows` rows to a row group.
fn parquet_file(path: &Path, rows: &[Value], group_rows: usize) {
    let columns: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    let fields: String = columns
        .iter()
        .map(|name| format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"))
        .collect();
    let schema = parse_message_type(&format!("message schema {{ {fields} }}")).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let file = File::create(path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    for group in rows.chunks(group_rows) {
        let mut group_writer = writer.next_row_group().unwrap();
        for column in &columns {
            let values = group.iter().map(|row| row[column.as_str()].as_str());
            let levels: Vec<i16> = values.clone().map(|value| value.is_some().into()).collect();
            let values: Vec<ByteArray> = values.flatten().map(ByteArray::from).collect();
            let mut column_writer = group_writer.next_column().unwrap().unwrap();
            let typed = column_writer.typed::<ByteArrayType>();
            typed.write_batch(&values, Some(&levels), None).unwrap();
            column_writer.close().unwrap();
        }
        group_writer.close().unwrap();
    }
    writer.close().unwrap();
}

fn sample() -> Vec<Value> {
    let awkward = [
        "plain",
        "a,b\t\"c\"",
        "two\nlines\r\nand more",
        "é 漢 😀 \\ / \u{1}",
        "[{]}",
        " x ",
    ];
    let row = |(index, text): (usize, &&str)| json!({"question": format!("{text}{index}"), "db_id": "", "answer": *text});
    awkward.iter().enumerate().map(row).collect()
}

/// The same rows in every format.
fn in_every_format(case: &Case, rows: &[Value]) -> Vec<PathBuf> {
    let (lines, array) = (json_lines(rows), json!(rows));
    let pretty = serde_json::to_string_pretty(&array).unwrap();
    let mut files = vec![
        case.write("a.jsonl", &lines),
        case.write("b.ndjson", lines.replace('\n', "\r\n\r\n").trim_end()),
        case.write("c.json", &lines),
        case.write("d.json", array.to_string()),
        case.write("e.json", format!("\u{feff}\n{pretty}\n")),
        case.write("f.csv", table(rows, b',')),
        case.write("g.tsv", table(rows, b'\t')),
        case.write("h.jsonl", format!("\u{feff}{lines}")),
        case.write("i.csv", [b"\xef\xbb\xbf", &*table(rows, b',')].concat()),
        case.write("j.jsonl.gz", gzipped(lines.as_bytes())),
        case.write("k.json.gz", gzipped(pretty.as_bytes())),
        case.write("l.csv.gz", gzipped(&table(rows, b','))),
        case.write(
            "m.tsv.gz",
            [gzipped(&table(rows, b'\t')), gzipped(b"")].concat(),
        ),
    ];
    for group_rows in [1, 2, 1000] {
        let path = case.folder.path().join(format!("n{group_rows}.parquet"));
        parquet_file(&path, rows, group_rows);
        files.push(path);
    }
    files
}

#[test]
fn every_format_gives_the_same_rows() {
    let case = Case::new();
    let sample = sample();
    for file in in_every_format(&case, &sample) {
        let split = case.open_files(std::slice::from_ref(&file)).unwrap();
        assert_eq!(rows(&split), sample, "{file:?}");
        assert_eq!((split.skipped(), split.path()), (0, &*file));
    }
}

#[test]
fn files_follow_each_other_whatever_their_formats() {
    let case = Case::new();
    let files = in_every_format(&case, &sample());
    let split = case.open_files(&files).unwrap();
    let all = rows(&split);
    assert_eq!(all.len(), files.len() * sample().len());
    assert!(all.chunks(sample().len()).all(|rows| rows == sample()));
    let across = split.rows(4..9).unwrap();
    assert_eq!(
        across.iter().map(|row| row.index).collect::<Vec<_>>(),
        [4, 5, 6, 7, 8]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_texts_survive_every_text_format(
        texts in prop::collection::vec(("\\PC{0,12}|[\"',\t\r\n\\\\]{0,6}", any::<String>()), 1..20)
    ) {
        let mut case = Case::new();
        case.filled.clear();
        let row = |(question, answer): (String, String)| json!({"question": question, "answer": answer});
        let expected: Vec<Value> = texts.into_iter().map(row).collect();
        for (name, bytes) in [
            ("t.jsonl", json_lines(&expected).into_bytes()),
            ("t.json", serde_json::to_vec_pretty(&expected).unwrap()),
            ("t.csv", table(&expected, b',')),
            ("t.tsv.gz", gzipped(&table(&expected, b'\t'))),
        ] {
            let split = case.open(name, bytes).unwrap();
            prop_assert_eq!(&rows(&split), &expected, "{}", name);
        }
    }
}

/// More than a block and its pieces, with lines longer than a piece.
#[test]
fn rows_keep_their_order_across_blocks() {
    let case = Case::new();
    let row = |index: usize| {
        let length = if index % 1000 == 7 {
            700_000
        } else {
            index % 300
        };
        json!({"question": format!("q{index}"), "answer": format!("a{}", "x".repeat(length))})
    };
    let expected: Vec<Value> = (0..30_000).map(row).collect();
    for (name, bytes) in [
        ("t.jsonl", json_lines(&expected).into_bytes()),
        ("t.json", json!(expected).to_string().into_bytes()),
        ("t.csv", table(&expected, b',')),
    ] {
        let split = case.open(name, bytes).unwrap();
        assert_eq!(split.len(), expected.len(), "{name}");
        let same =
            |row: rag_tune_augment::Row| Value::Object(row.fields.clone()) == expected[row.index];
        assert!(
            split.rows(0..split.len()).unwrap().into_iter().all(same),
            "{name}"
        );
        assert!(same(split.row(29_007).unwrap()), "{name}");
    }
}

#[test]
fn nested_parquet_values_become_json() {
    let case = Case::new();
    let schema = parse_message_type(
        "message schema { REQUIRED BYTE_ARRAY question; REQUIRED BYTE_ARRAY answer; REQUIRED INT64 n;
           OPTIONAL group tags (LIST) { REPEATED group list { OPTIONAL BYTE_ARRAY element (UTF8); } } }",
    )
    .unwrap();
    let path = case.folder.path().join("t.parquet");
    let file = File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let text = |text: &[u8]| ByteArray::from(text.to_vec());
    for (values, levels) in [
        (vec![text(b"q"), text(b"r")], None),
        (vec![text(b"\xff\xfe"), text(b"b")], None),
    ] {
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, levels, None)
            .unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<Int64Type>()
        .write_batch(&[1, -2], None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = [text(b"x"), text(b"y")];
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, Some(&[3, 3, 0]), Some(&[0, 1, 0]))
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    assert_eq!(
        rows(&case.open_files(&[path]).unwrap()),
        [
            json!({"question": "q", "answer": "//4=", "n": 1, "tags": ["x", "y"]}),
            json!({"question": "r", "answer": "b", "n": -2, "tags": null}),
        ]
    );
}

#[test]
fn a_bad_row_is_named_with_its_line_or_row() {
    let case = Case::new();
    let good = r#"{"question":"q","answer":"a"}"#;
    for (name, text, expected) in [
        (
            "t.jsonl",
            format!("{good}\n\n{{\"question\": nope}}\n"),
            "`t.jsonl` line 3: not a JSON object: expected ident (column 15)",
        ),
        (
            "t.json",
            format!("[{good},\n{good},\n{{\"question\": nope}}]"),
            "`t.json` row 2: not a JSON object: expected ident (column 15)",
        ),
        (
            "t.json",
            format!("[{good}, 7]"),
            "`t.json` row 1: not a JSON object: invalid type: integer `7`",
        ),
        (
            "t.jsonl",
            "[7]".into(),
            "`t.jsonl` line 1: not a JSON object: invalid type: sequence",
        ),
        (
            "t.csv",
            "question,answer\n\"1\n2\",a\n\nq\n".into(),
            "`t.csv` line 5: 1 fields, but the first line names 2 columns",
        ),
        (
            "t.csv",
            "question,answer\r\n\r\n\"1\r\n2\",a\r\nq,a\r\nq\r\n".into(),
            "`t.csv` line 6: 1 fields",
        ),
        (
            "t.csv",
            "question,answer\nq,a,b\n".into(),
            "`t.csv` line 2: 3 fields",
        ),
        (
            "t.jsonl",
            format!("{good}\n{{\"question\":null,\"answer\":\"a\"}}"),
            "`t.jsonl` line 2: field `question` is null, expected a string",
        ),
        (
            "t.json",
            format!("[{{\"question\":\"q\",\"answer\":[1]}},{good}]"),
            "`t.json` row 0: field `answer` is an array, expected a string",
        ),
        (
            "t.tsv",
            "question\tanswer\nq\ta\nq\t \u{a0}\n".into(),
            "`t.tsv` line 3: field `answer` is empty",
        ),
        (
            "t.jsonl",
            format!("{good}\n{{\"question\":\"\",\"answer\":\"a\"}}"),
            "`t.jsonl` line 2: field `question` is empty",
        ),
    ] {
        let problem = case.problem(name, &text);
        assert!(problem.starts_with(expected), "{problem}");
        assert!(problem.contains("`data.bad_rows = \"skip\"`"), "{problem}");
    }
}

#[test]
fn invalid_utf8_is_named_with_its_place() {
    let case = Case::new();
    let line = b"{\"question\":\"q\",\"answer\":\"a\",\"other\":\"\xff\"}";
    assert!(
        case.problem("t.jsonl", line)
            .starts_with("`t.jsonl` line 1: not UTF-8 (byte 39)")
    );
    assert!(
        case.problem("t.json", [b"[", &line[..], b"]"].concat())
            .starts_with("`t.json` row 0: not UTF-8")
    );
    let problem = case.problem("t.csv", b"question,answer\nq,a\nq,\xff\n");
    assert!(
        problem.starts_with("`t.csv` line 3: not UTF-8"),
        "{problem}"
    );
}

#[test]
fn bad_rows_can_be_left_out_and_are_counted() {
    let case = Case::new().skipping();
    let lines = b"{\"question\":\"1\",\"answer\":\"a\"}\nnope\n{\"question\":\"2\"}\n\xff\n{\"question\":\" \",\"answer\":\"a\"}\n{\"question\":\"3\",\"answer\":4}\n";
    let split = case.open("t.jsonl", lines).unwrap();
    assert_eq!(
        (questions(&split), split.skipped()),
        (vec!["1".into(), "3".into()], 4)
    );
    let array = r#"[{"question":"1","answer":"a"}, nope, {"question":"2"}, 7, {"question":"3","answer":true}]"#;
    let split = case.open("t.json", array).unwrap();
    assert_eq!(
        (questions(&split), split.skipped()),
        (vec!["1".into(), "3".into()], 3)
    );
    assert_eq!(split.row(1).unwrap().text("answer"), "true");
    let split = case
        .open("t.csv", "question,answer\n1,a\n2\n,a\n3,a")
        .unwrap();
    assert_eq!(
        (questions(&split), split.skipped()),
        (vec!["1".into(), "3".into()], 2)
    );
    let path = case.folder.path().join("t.parquet");
    let with_null = [
        json!({"question": "1", "answer": "a"}),
        json!({"question": "2", "answer": null}),
    ];
    parquet_file(&path, &with_null, 10);
    let split = case.open_files(&[path]).unwrap();
    assert_eq!((questions(&split), split.skipped()), (vec!["1".into()], 1));
}

#[test]
fn if_all_rows_are_left_out_the_first_reason_is_given() {
    let case = Case::new().skipping();
    let problem = case.problem("t.jsonl", "{\"input\":\"q\",\"answer\":\"a\"}\n{}\n");
    assert!(
        problem.starts_with(
            "`t.jsonl`: all 2 rows were left out; the first: `t.jsonl` line 1: no field `question`; \
             the row has `input`, `answer`"
        ),
        "{problem}"
    );
}

#[test]
fn files_without_rows_are_refused() {
    let case = Case::new();
    for (name, text) in [
        ("t.jsonl", "\n \n"),
        ("t.json", " [ ]\n"),
        ("t.json", ""),
        ("t.csv", ""),
        ("t.csv", "question,answer\n"),
    ] {
        assert!(
            case.problem(name, text).contains("has no rows"),
            "{name}: {text:?}"
        );
    }
    let files = [
        case.write("a.jsonl", ""),
        case.write("b.csv", "question,answer\nq,a"),
    ];
    assert_eq!(case.open_files(&files).unwrap().len(), 1);
}

#[test]
fn damage_of_a_whole_file_is_an_error_even_if_bad_rows_are_left_out() {
    let case = Case::new().skipping();
    let good = r#"{"question":"q","answer":"a"}"#;
    for (name, text, expected) in [
        (
            "t.json",
            format!("[{good},{good}"),
            "`t.json` row 1: the array is not closed",
        ),
        (
            "t.json",
            format!("[{good},{{\"question\":\"q"),
            "`t.json` row 1: the array is not closed",
        ),
        (
            "t.json",
            format!("[{good}]{good}"),
            "`t.json` row 1: something else than an array",
        ),
        ("t.json", format!("[{good},]"), "`t.json` row 1: a comma"),
        (
            "t.csv",
            "question,answer\nq,a\nq,\"a\nq,a\n".into(),
            "`t.csv` line 3: a quote is not closed",
        ),
        (
            "t.csv",
            "question,answer,answer\nq,a,a\n".into(),
            "`t.csv` has two columns `answer`",
        ),
        (
            "t.csv",
            "question,anwser\nq,a\n".into(),
            "`t.csv` line 1: no field `answer`",
        ),
    ] {
        let problem = case.problem(name, &text);
        assert!(problem.starts_with(expected), "{problem}");
    }
    let gz = gzipped(json_lines(&sample()).as_bytes());
    assert!(
        case.problem("t.jsonl.gz", &gz[..gz.len() - 12])
            .starts_with("cannot read `t.jsonl.gz`")
    );
    assert!(
        case.problem("t.csv.gz", b"no gzip")
            .starts_with("cannot read `t.csv.gz`")
    );
    assert!(case.problem("t.txt", "x").contains(".parquet"));
}

/// Wherever it is cut or overwritten, Parquet gives an error or rows, and does not panic.
#[test]
fn a_damaged_parquet_file_is_an_error_with_its_name() {
    let case = Case::new().skipping();
    let path = case.folder.path().join("whole.parquet");
    let many: Vec<Value> = (0..400)
        .map(|i| json!({"question": format!("q{i}"), "answer": "a"}))
        .collect();
    parquet_file(&path, &many, 100);
    let bytes = fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(97) {
        let problem = case.problem("cut.parquet", &bytes[..length]);
        assert!(problem.starts_with("`cut.parquet` schema: "), "{problem}");
    }
    for at in (4..bytes.len()).step_by(13) {
        let mut spoilt = bytes.clone();
        spoilt[at..(at + 3).min(bytes.len())].fill(0xa5);
        if let Err(error) = case.open("spoilt.parquet", &spoilt) {
            assert!(error.to_string().contains("spoilt.parquet`"), "{error}");
        }
    }
}

#[test]
fn a_mapped_column_that_is_missing_is_named_with_a_guess() {
    let mut case = Case::new();
    case.columns = BTreeMap::from([("question".into(), "input".into())]);
    let expected = "no field `input`, which `data.columns` names for `question`; ";
    let problem = case.problem("t.jsonl", r#"{"inputs":"q","answer":"a"}"#);
    let guess = "the row has `inputs`, `answer`; if `inputs` is meant, say `data.columns = { question = \"inputs\" }`";
    assert_eq!(problem, format!("`t.jsonl` line 1: {expected}{guess}"));
    let path = case.folder.path().join("t.parquet");
    parquet_file(&path, &sample(), 10);
    let error = case.open_files(&[path]).unwrap_err();
    assert!(error.to_string().ends_with(
        "t.parquet` schema: no field `input`, which `data.columns` names for `question`"
    ));
    assert!(
        error
            .hint()
            .unwrap()
            .starts_with("the file has `question`, `db_id`, `answer`; where")
    );
}

#[test]
fn mapped_columns_come_under_the_tasks_names_in_every_format() {
    let mut case = Case::new();
    case.columns = [("question", "answer"), ("answer", "question")]
        .map(|(a, b)| (a.into(), b.into()))
        .into();
    let swapped =
        |row: &Value| json!({"answer": row["question"], "db_id": "", "question": row["answer"]});
    let expected: Vec<Value> = sample().iter().map(swapped).collect();
    for file in in_every_format(&case, &sample()) {
        assert_eq!(
            rows(&case.open_files(std::slice::from_ref(&file)).unwrap()),
            expected,
            "{file:?}"
        );
    }
}

#[test]
fn an_id_that_occurs_twice_is_named_with_both_places() {
    let mut case = Case::new();
    case.id = Some("id");
    let row = |id: Value| json!({"id": id, "question": "q", "answer": "a"}).to_string() + "\n";
    // A number and its text are one id: both are `Row::text`.
    let first = row(json!("a"))
        + "\n"
        + &row(json!(7))
        + &row(json!(true))
        + &row(json!("7"))
        + &row(json!("a"));
    let problem = case.problem("t.jsonl", &first);
    assert!(
        problem
            .starts_with("`t.jsonl` line 5: `id` is \"7\", as in `t.jsonl` line 3; name another"),
        "{problem}"
    );
    let files = [
        case.write("a.csv", "id,question,answer\n1,q,a\n2,q,a\n"),
        case.write(
            "b.json",
            r#"[{"id":2.5,"question":"q","answer":"a"},{"id":2,"question":"q","answer":"a"}]"#,
        ),
    ];
    let error = case.open_files(&files).unwrap_err().to_string();
    assert!(
        error.contains("b.json` row 1: `id` is \"2\", as in") && error.ends_with("a.csv` line 3"),
        "{error}"
    );

    let case = Case {
        id: Some("id"),
        ..Case::new()
    }
    .skipping();
    let split = case.open("t.jsonl", &first).unwrap();
    assert_eq!((split.len(), split.skipped()), (3, 2));
    let ids: Vec<String> = (0..3)
        .map(|i| split.row(i).unwrap().text("id").into_owned())
        .collect();
    assert_eq!(ids, ["a", "7", "true"]);
    assert!(
        case.open("t.jsonl", r#"{"question":"q","answer":"a"}"#)
            .is_err(),
        "an id is required"
    );
}

#[test]
fn a_megabyte_in_a_row_is_read_and_does_not_flood_messages() {
    let mut case = Case::new();
    let long = "x".repeat(1 << 20);
    let line = json!({"question": long, "answer": "a"}).to_string();
    let split = case.open("t.jsonl", &line).unwrap();
    assert_eq!(split.row(0).unwrap().text("question").len(), 1 << 20);
    assert_eq!(
        case.open("t.csv", format!("question,answer\n{long},a\n"))
            .unwrap()
            .len(),
        1
    );
    case.id = Some("question");
    for (name, text) in [
        ("t.jsonl", format!("{line}\n{line}")),
        ("t.jsonl", json!(long).to_string()),
        ("t.jsonl", json!({long.clone(): 1}).to_string()),
        ("t.csv", format!("{long},answer\nq,a\n")),
    ] {
        let problem = case.problem(name, text);
        assert!(
            problem.len() < 2000,
            "{} bytes: {}",
            problem.len(),
            &problem[..500]
        );
    }
}

/// An open quote must not read gigabytes into one row.
#[test]
fn a_row_without_end_is_refused() {
    let case = Case::new();
    let endless = vec![b'x'; 140 << 20];
    for (name, start) in [
        ("t.csv", "question,answer\nq,\""),
        ("t.jsonl", "{\"question\":\""),
        ("t.json", "[{\"question\":\""),
    ] {
        let problem = case.problem(name, [start.as_bytes(), &endless].concat());
        assert!(
            problem.contains(": longer than 128 MiB; is a quote"),
            "{problem}"
        );
    }
}

#[test]
fn a_file_that_changes_under_way_is_noticed() {
    let case = Case::new();
    let split = case.open("t.jsonl", json_lines(&sample())).unwrap();
    for text in [
        "",
        &"x".repeat(5000),
        &json_lines(&sample()).replace("answer", "anwser"),
    ] {
        case.write("t.jsonl", text);
        let error = split.row(3).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("was changed while it was in use"),
            "{error}"
        );
    }
}

#[test]
fn rows_are_read_from_many_threads() {
    use rayon::prelude::*;
    let case = Case::new();
    let many: Vec<Value> = (0..5000)
        .map(|i| json!({"question": format!("q{i}"), "answer": "a"}))
        .collect();
    let split = case.open("t.csv", table(&many, b',')).unwrap();
    let right = |index: usize| split.row(index).unwrap().text("question") == format!("q{index}");
    assert!((0..5000).into_par_iter().all(right));
}

/// The three data sets of the experiment, as they come from the hub.
#[test]
fn the_experiments_data_sets_are_read_whole() {
    for (source, folder, columns, id, splits) in [
        (
            "samlhuillier/sql-create-context-spider-intersect",
            "samlhuillier",
            ["question", "answer"],
            None,
            &[("train", 3961), ("validation", 568)][..],
        ),
        (
            "openai/gsm8k:main",
            "openai/gsm8k/main",
            ["question", "answer"],
            None,
            &[("train", 7473), ("test", 1319)],
        ),
        (
            "openai/gsm8k",
            "openai/gsm8k/main",
            ["question", "answer"],
            None,
            &[("train", 7473)],
        ),
        (
            "GEM/viggo",
            "GEM/viggo",
            ["target", "meaning_representation"],
            Some("gem_id"),
            &[("train", 5103), ("dev", 714), ("test", 1083)],
        ),
    ] {
        let Some(mirror) = mirror_with(&[&format!("datasets/{folder}")]) else {
            continue;
        };
        let hub = Hub::from_env(Some(mirror));
        let data = DataConfig {
            source: source.into(),
            ..DataConfig::default()
        };
        for (name, expected) in splits {
            let files = hub.split_files(&data, name).unwrap();
            let case = Case {
                required: columns.to_vec(),
                filled: columns.to_vec(),
                id,
                ..Case::new()
            };
            let split = case.open_files(&files).unwrap();
            assert_eq!(split.len(), *expected, "{source} {name}");
            assert!(
                rows(&split)
                    .iter()
                    .all(|row| columns.iter().all(|c| !row[c].as_str().unwrap().is_empty()))
            );
        }
    }
}
