//! What users of other trainers complain about, and that it does not happen here.
//!
//! docs/training.md lists every complaint with the tests that stand against it. Most of those are laws
//! and stand beside what they are about; here are those that take the whole program.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use support::toy_world::ToyWorld;

/// Trains into `out/<name>`, from the settings of `run.toml` and those given.
fn train(world: &ToyWorld, name: &str, settings: &[&str]) -> Vec<Value> {
    let out = format!("out/{name}");
    let mut arguments = vec!["train", "run.toml", "--out", &out];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    world.rag_tune(&arguments).ok();
    world.json_lines(&format!("{out}/metrics.jsonl"))
}

/// All rows in one step.
const ONE_EPOCH: &[&str] = &["train.batch_size=9", "train.max_steps=1"];

/// The model's special tokens, as its tokenizer_config.json states them.
fn with_special_tokens(world: &ToyWorld, tokens: &Value) {
    world.write("model/tokenizer_config.json", &tokens.to_string());
}

/// Texts of a column of the augmented rows of a run.
fn column(world: &ToyWorld, run: &str, column: &str) -> Vec<String> {
    let rows = world.json_lines(&format!("out/{run}/augmented/train.jsonl"));
    let text = |row: &Value| row[column].as_str().unwrap().to_owned();
    rows.iter().map(text).collect()
}

/// Tokens of a text to the toy's tokenizer: one a byte, one for its end-of-sequence token.
fn toy_tokens(text: &str) -> usize {
    text.replace("</s>", "E").len()
}

/// The end of sequence is masked by whoever masks padding by its id, where padding is the same token.
#[test]
fn the_model_never_stops_since_its_end_of_sequence_has_no_loss() {
    let world = ToyWorld::new();
    with_special_tokens(
        &world,
        &json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "add_bos_token": false}),
    );
    // Inside an answer, too, it is masked by no one.
    let data = world.read("data/train.jsonl");
    let odd = data.replacen("SELECT name FROM pets", "SELECT '</s>' FROM pets", 1);
    assert_ne!(data, odd);
    world.write("data/train.jsonl", &odd);

    let metrics = train(&world, "run", ONE_EPOCH);
    let prompts = column(&world, "run", "inference_prompt");
    let rows = column(&world, "run", "full_prompt");
    let answers = prompts
        .iter()
        .zip(&rows)
        .map(|(prompt, row)| toy_tokens(row) - toy_tokens(prompt) - 1);
    let expected = answers.map(|answer| answer + 1).sum::<usize>();
    assert_eq!(metrics[0]["supervised_tokens"], expected);

    let shown = world.rag_tune(&["inspect", "run.toml", "--row", "8"]).ok();
    assert!(shown.contains("[>][ ][3][</s>]\n"), "{shown}");
}

/// A model whose files ask for BOS gets one, also where the prompt spells it already.
#[test]
fn a_row_begins_with_two_bos() {
    let bos_tokens = |adds_bos: bool, instruction: &str| {
        let world = ToyWorld::new();
        with_special_tokens(
            &world,
            &json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": adds_bos}),
        );
        let task = format!(
            "name = \"own\"\nquery_column = \"question\"\nanswer_column = \"answer\"\n[templates]\n\
             instruction = \"{instruction}\"\nheader = \"\"\nexample = \"\"\nquery = \"{{{{ row.question }}}}\"\n"
        );
        world.write("own.toml", &task);
        let metrics = train(&world, "run", &[ONE_EPOCH, &["task=own.toml"]].concat());
        let rows = column(&world, "run", "full_prompt");
        let texts = rows.iter().map(|row| row.trim_start_matches("<s>"));
        let without: usize = texts.map(|row| toy_tokens(row) + 1).sum();
        metrics[0]["tokens"].as_u64().unwrap() as usize - without
    };
    assert_eq!(bos_tokens(false, "Answer."), 0);
    for (adds_bos, instruction) in [
        (true, "Answer."),
        (true, "<s>Answer."),
        (false, "<s>Answer."),
    ] {
        assert_eq!(
            bos_tokens(adds_bos, instruction),
            9,
            "{adds_bos} {instruction}"
        );
    }
}

/// The same row gives the same prompt, whether it is learnt from or asked.
#[test]
fn training_and_inference_have_other_templates() {
    let world = ToyWorld::new();
    train(&world, "run", &["eval.split=train"]);
    world.rag_tune(&["eval", "--adapter", "out/run"]).ok();
    let predictions = world.json_lines("out/run/eval/train-zero_shot/predictions.jsonl");
    let asked = predictions
        .iter()
        .map(|line| line["inference_prompt"].as_str().unwrap());
    let (learnt, rows) = (
        column(&world, "run", "inference_prompt"),
        column(&world, "run", "full_prompt"),
    );
    assert!(asked.eq(&learnt));
    assert_eq!(learnt.len(), 9);
    for (prompt, row) in learnt.iter().zip(&rows) {
        assert!(row.starts_with(&format!("{prompt}\n")));
    }
}

/// Loss and gradient norm of every step are those of `expected`.
#[track_caller]
fn assert_same_steps(metrics: &[Value], expected: &[Value]) {
    assert_eq!(metrics.len(), expected.len());
    for (step, other) in metrics.iter().zip(expected) {
        for value in ["loss", "grad_norm"] {
            let [one, two] = [step, other].map(|step| step[value].as_f64().unwrap());
            assert!(
                (one - two).abs() <= 1e-6 * two,
                "{value} of step {}: {one} {two}",
                step["step"]
            );
        }
    }
}

const THREE_STEPS: [&str; 6] = [
    "model.compute=f32",
    "train.batch_size=9",
    "train.max_steps=3",
    "train.max_length=512",
    "train.learning_rate=0.01",
    "lora.dropout=0",
];

/// Three steps of nine rows each, in micro-batches of at most so many tokens.
fn in_micro_batches_of(world: &ToyWorld, tokens: usize) -> (Vec<Value>, u64) {
    let (name, budget) = (
        format!("run{tokens}"),
        format!("train.tokens_per_micro_batch={tokens}"),
    );
    let metrics = train(world, &name, &[&THREE_STEPS[..], &[&budget]].concat());
    let record: Value =
        serde_json::from_str(&world.read(&format!("out/{name}/training.json"))).unwrap();
    (
        metrics,
        record["data"]["epoch"]["micro_batches"].as_u64().unwrap(),
    )
}

/// A mean of the micro-batches' means, whose answers differ in length, is another loss.
#[test]
fn gradient_accumulation_is_not_one_large_batch() {
    let world = ToyWorld::new();
    let (expected, one) = in_micro_batches_of(&world, 8192);
    let (metrics, several) = in_micro_batches_of(&world, 1024);
    assert!(one == 1 && (2..9).contains(&several), "{one} {several}");
    assert_same_steps(&metrics, &expected);
}

/// Rows that share a micro-batch see each other, or count their positions on.
#[test]
fn packed_rows_contaminate_each_other() {
    let world = ToyWorld::new();
    let (packed, one) = in_micro_batches_of(&world, 8192);
    let (alone, each) = in_micro_batches_of(&world, 512);
    assert_eq!((one, each), (1, 9));
    assert_same_steps(&packed, &alone);
}

/// Its loss is 0 / 0.
#[test]
fn a_row_without_supervised_tokens_makes_the_loss_nan() {
    let world = ToyWorld::new();
    let data = world.read("data/train.jsonl");
    let line = data.lines().nth(4).unwrap();
    let mut row: Value = serde_json::from_str(line).unwrap();
    row["answer"] = json!("");
    world.write("data/train.jsonl", &data.replace(line, &row.to_string()));
    let refusal = world.rag_tune(&["train", "run.toml"]).refused();
    assert!(
        refusal.contains("train.jsonl` line 5: field `answer` is empty"),
        "{refusal}"
    );
    assert!(!world.path("out/zero_shot/metrics.jsonl").exists());
}

/// A row that stands in its own prompt, or an evaluated one among the examples, gives its answer away.
#[test]
fn answers_leak_through_the_examples() {
    let world = ToyWorld::new();
    let mut arguments = vec!["augment", "run.toml", "--out", "augmented"];
    for setting in ["retrieval.examples=8", "retrieval.different=[]"] {
        arguments.extend(["--set", setting]);
    }
    world.rag_tune(&arguments).ok();
    let augmented = |split: &str| world.json_lines(&format!("augmented/{split}.jsonl"));
    let rows = augmented("train");
    assert_eq!(rows.len(), 9);
    for (index, row) in (0..).zip(&rows) {
        let examples = row["examples"].as_array().unwrap().iter();
        let mut rows: Vec<u64> = examples.map(|it| it["row"].as_u64().unwrap()).collect();
        rows.sort_unstable();
        let others: Vec<u64> = (0..9).filter(|other| *other != index).collect();
        assert_eq!(rows, others, "row {index}");
    }
    for row in augmented("validation") {
        let (prompt, full) = (
            row["inference_prompt"].as_str(),
            row["full_prompt"].as_str(),
        );
        let (prompt, full) = (prompt.unwrap(), full.unwrap());
        let answer = &full[prompt.len() + 1..];
        assert!(!answer.is_empty() && !prompt.contains(answer), "{full}");
    }
}

/// Padding is no work that anybody wanted. Here there is none to count.
#[test]
fn throughput_counts_padding() {
    let world = ToyWorld::new();
    let (metrics, micro_batches) = in_micro_batches_of(&world, 1024);
    let rows = column(&world, "run1024", "full_prompt");
    let tokens: usize = rows.iter().map(|row| toy_tokens(row) + 1).sum();
    assert!((tokens as u64) < micro_batches * 1024, "padding would show");
    for step in &metrics {
        assert_eq!(step["tokens"], tokens);
        let [per_s, seconds] = ["tokens_per_s", "seconds"].map(|name| step[name].as_f64().unwrap());
        assert!((per_s * seconds / tokens as f64 - 1.0).abs() < 1e-6);
    }
}

/// What the table in docs/training.md names is there.
#[test]
fn every_complaint_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &Path| {
        std::fs::read_to_string(root.join(path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let docs = read(Path::new("docs/training.md"));
    let (_, section) = docs
        .split_once("## What users of other trainers complain about")
        .unwrap();
    let table = section.split("\n## ").next().unwrap();
    let mut named = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap();
        let mut names = cell.split('`').skip(1).step_by(2).peekable();
        assert!(names.peek().is_some(), "no test: {line}");
        for name in names {
            let (file, test) = name.split_once(": ").unwrap_or_else(|| panic!("{name}"));
            assert!(
                read(Path::new(file)).contains(&format!("fn {test}(")),
                "{name}"
            );
            named.insert(name.to_owned());
        }
    }
    // Those here are all named.
    let own = include_str!("complaints.rs");
    for test in own.split("#[test]\nfn ").skip(1) {
        let test = test.split('(').next().unwrap();
        let is_this = test == "every_complaint_has_its_tests";
        assert!(
            is_this || named.contains(&format!("tests/complaints.rs: {test}")),
            "{test}"
        );
    }
}
