//! `rag-tune ask` on a toy model: the prompt of an evaluation, an answer, and SQL that is run.

mod support;

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use support::Run;
use support::toy_world::ToyWorld;

/// The finished run `out/zero_shot`, trained on prompts with two examples.
fn trained() -> ToyWorld {
    let world = ToyWorld::new();
    let flags = [
        "--set",
        "retrieval.examples=2",
        "--set",
        "retrieval.selector=bm25",
    ];
    world
        .rag_tune(&[&["train", "run.toml"][..], &flags].concat())
        .ok();
    world
}

fn ask(world: &ToyWorld, flags: &[&str]) -> Run {
    world.rag_tune(&[&["ask", "--adapter", "out/zero_shot"][..], flags].concat())
}

fn object(run: Run) -> Value {
    serde_json::from_str(&run.ok()).unwrap()
}

/// The same examples in the same order, and the answer that the evaluation got.
#[test]
fn a_question_gets_the_prompt_and_the_answer_of_an_evaluation() {
    let world = trained();
    world.rag_tune(&["eval", "--adapter", "out/zero_shot"]).ok();
    let rows = world.json_lines("out/zero_shot/augmented/validation.jsonl");
    let answers = world.json_lines("out/zero_shot/eval/validation-rag2/predictions.jsonl");
    assert_eq!(rows.len(), 3);
    for (row, answer) in rows.iter().zip(&answers) {
        let field = |name: &str| format!("{name}={}", row[name].as_str().unwrap());
        let (context, db_id) = (field("context"), field("db_id"));
        let flags = [
            row["question"].as_str().unwrap(),
            "--field",
            &context,
            "--field",
            &db_id,
        ];
        let told = object(ask(&world, &[&flags[..], &["--json"]].concat()));
        assert_eq!(told["prompt"], row["inference_prompt"]);
        assert_eq!(told["answer"], answer["prediction"]);
        let examples = told["examples"].as_array().unwrap();
        assert_eq!(examples.len(), 2);
        for (told, of_row) in examples.iter().zip(row["examples"].as_array().unwrap()) {
            assert_eq!(told["row"], of_row["row"]);
            let score = |example: &Value| example["score"].as_f64().unwrap();
            assert!((score(told) - score(of_row)).abs() < 1e-6);
            assert!(
                told["fields"]["answer"]
                    .as_str()
                    .unwrap()
                    .starts_with("SELECT")
            );
        }
        let streamed = ask(&world, &flags);
        assert_eq!(streamed.stderr, "", "nothing to note");
        assert_eq!(streamed.ok().trim_end(), told["answer"]);
    }
}

#[test]
fn examples_and_prompt_are_shown_on_request() {
    let world = trained();
    let context = "context=CREATE TABLE trees (name VARCHAR)";
    let flags = ["How many trees are there?", "--field", context];
    let run = ask(
        &world,
        &[&flags[..], &["--show-examples", "--show-prompt"]].concat(),
    );
    assert_eq!(
        run.stderr.matches("example: training row ").count(),
        2,
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("  answer: SELECT count(*) FROM "),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr
            .ends_with("CREATE TABLE trees (name VARCHAR)\n\n### Response:\n"),
        "{}",
        run.stderr
    );
    // The constraint of the training compares a column that was not given.
    assert!(
        run.stderr
            .starts_with("note: `retrieval.different` compares `db_id`, which is not given"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_sampled_answer_is_fixed_by_its_seed() {
    let world = trained();
    let context = "context=CREATE TABLE trees (name VARCHAR)";
    let sampled = |seed: &str| {
        let flags = ["q", "--field", context, "--json", "--max-new-tokens", "12"];
        let sampling = ["--temperature", "1.5", "--top-p", "0.95", "--seed", seed];
        object(ask(&world, &[&flags[..], &sampling].concat()))["answer"].clone()
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
    let refused = ask(&world, &["q", "--field", context, "--temperature", "-1"]).refused();
    assert!(refused.contains("the temperature is -1"), "{refused}");
    let refused = ask(
        &world,
        &[
            "q",
            "--field",
            context,
            "--temperature",
            "1",
            "--top-p",
            "2",
        ],
    )
    .refused();
    assert!(refused.contains("top_p is 2"), "{refused}");
    let refused = ask(&world, &["q", "--field", context, "--top-p", "0.5"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
}

/// The toy model writes no SQL: what the sandbox makes of its answer is an error, and of good SQL a table
/// (`rag-tune-eval`, `sql::sandbox`).
#[test]
fn the_database_gives_the_schema_and_answers_that_are_no_sql_are_refused() {
    let world = trained();
    let database = "database/trees/trees.sqlite";
    let before = std::fs::read(world.path(database)).unwrap();
    let flags = ["How many trees are there?", "--execute", database];
    let run = ask(&world, &[&flags[..], &["--json"]].concat());
    assert_eq!(run.code, 1);
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let prompt = told["prompt"].as_str().unwrap();
    assert!(
        prompt.contains("CREATE TABLE trees (name VARCHAR, age INTEGER)\n"),
        "{prompt}"
    );
    assert!(told.get("result").is_none());
    assert!(
        run.stderr
            .contains("cannot run the answer on `database/trees/trees.sqlite`"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("the query does not run: "),
        "{}",
        run.stderr
    );
    assert!(std::fs::read(world.path(database)).unwrap() == before);
    let missing = ask(&world, &["q", "--execute", "none.sqlite"]).refused();
    assert!(missing.contains("none.sqlite"), "{missing}");
}

#[test]
fn a_question_may_be_piped_in() {
    let world = trained();
    let flags = [
        "ask",
        "--adapter",
        "out/zero_shot",
        "--json",
        "--field",
        "context=c",
    ];
    let piped = |text: &str| {
        let mut command = world.command(&flags);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let sent = child.stdin.take().unwrap().write_all(text.as_bytes());
        sent.unwrap();
        Run::from(child.wait_with_output().unwrap())
    };
    assert_eq!(object(piped("How many?\n"))["question"], "How many?");
    let refused = piped(" \n").refused();
    assert!(refused.contains("also needs `question`"), "{refused}");
}

#[test]
fn what_is_missing_is_named() {
    let world = trained();
    insta::assert_snapshot!(ask(&world, &["How many trees are there?"]).refused());
    std::fs::remove_file(world.path("out/zero_shot/retrieval.json")).unwrap();
    insta::assert_snapshot!(ask(&world, &["q", "--field", "context=c"]).refused());
    let refused = world
        .rag_tune(&["ask", "--adapter", "out/none", "q"])
        .refused();
    assert!(refused.contains("out/none"), "{refused}");
}
