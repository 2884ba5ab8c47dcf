//! The tasks on what they are made for: the example task of the docs, and the real data sets where a mirror has them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::mirror_with;
use rag_tune_augment::prompt::PromptTemplate;
use rag_tune_augment::{
    AugmentRequest, DataConfig, Hub, RetrievalConfig, Row, Selector, Task, TaskName, augment,
    read_augmented, read_jsonl,
};

const SQL: &str = "datasets/samlhuillier/sql-create-context-spider-intersect";
const GSM8K: &str = "datasets/openai/gsm8k/main";
const VIGGO: &str = "datasets/GEM/viggo";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tickets() -> (PathBuf, Task) {
    let folder = repository().join("docs/examples/tickets");
    let task = TaskName::new(folder.join("task.toml").to_str().unwrap())
        .load()
        .unwrap();
    (folder, task)
}

/// The prompt of the example task's last row with the twelfth training row, as docs/tasks.md has it.
const TICKET_PROMPT: &str = "\
Name the team that answers the message: accounts, billing, delivery or returns.

Messages that were answered before:
Subject: No label in the box
Message: I want to return a jacket, but there was no label in the box.
Team: returns

Subject: Not what I ordered
Tags: #kitchen #colour
Message: I ordered the blue kettle and got a red one; how do I send it back?
Team:";

#[test]
fn the_example_task_gives_the_prompt_that_the_docs_show() {
    let (folder, task) = tickets();
    assert_eq!(task.further_columns(), ["subject", "tags"]);
    let rows = |split: &str| read_jsonl(&folder.join(split), &task.columns()).unwrap();
    let (train, validation) = (rows("train.jsonl"), rows("validation.jsonl"));
    assert!(train.len() >= 12 && validation.len() == 4);

    let template = PromptTemplate::new(&task).unwrap();
    let prompt = template.render(&validation[3], &[&train[11]]).unwrap();
    assert_eq!(prompt.inference_prompt, TICKET_PROMPT);
    assert_eq!(prompt.full_prompt, format!("{TICKET_PROMPT}\nreturns"));
    // A row without tags has no line for them.
    let untagged = template
        .render(&validation[2], &[])
        .unwrap()
        .inference_prompt;
    assert!(
        untagged.contains("Subject: Locked out\nMessage: "),
        "{untagged}"
    );

    let docs = std::fs::read_to_string(repository().join("docs/tasks.md")).unwrap();
    let file = std::fs::read_to_string(folder.join("task.toml")).unwrap();
    let templates = file.split_once("[templates]").unwrap().1;
    let row = std::fs::read_to_string(folder.join("validation.jsonl")).unwrap();
    for shown in [TICKET_PROMPT, templates, row.lines().last().unwrap()] {
        assert!(docs.contains(shown), "docs/tasks.md lacks:\n{shown}");
    }
}

#[test]
fn the_example_task_augments_its_data() {
    let (folder, task) = tickets();
    let out = tempfile::tempdir().unwrap();
    let retrieval = RetrievalConfig {
        selector: Selector::Random,
        ..RetrievalConfig::default()
    };
    let data = DataConfig {
        source: folder.to_str().unwrap().into(),
        id: "ticket".into(),
        ..DataConfig::default()
    };
    let request = AugmentRequest {
        task: &task,
        data: &data,
        retrieval: &retrieval,
        splits: &["train", "validation"],
        out: out.path(),
        seed: 3,
        epochs: 1,
        cache: None,
    };
    let hub = Hub::from_env(Some(out.path().join("no mirror")));
    augment(&request, &hub, &()).unwrap();

    let train = read_augmented(&out.path().join("train.jsonl")).unwrap();
    for row in read_augmented(&out.path().join("validation.jsonl")).unwrap() {
        let example = &train[row.examples[0].row];
        let shown = format!(
            "Message: {}\nTeam: {}\n\nSubject: ",
            example.text("message").unwrap(),
            example.text("team").unwrap()
        );
        assert!(
            row.inference_prompt.contains(&shown),
            "{}",
            row.inference_prompt
        );
        let answer = row.text("team").unwrap();
        assert_eq!(
            row.full_prompt,
            format!("{}\n{answer}", row.inference_prompt)
        );
    }
}

/// All rows of all splits that the folder has.
fn rows(folder: &Path, task: &Task) -> Vec<Row> {
    let splits = ["train", "validation", "test"].map(|split| folder.join(format!("{split}.jsonl")));
    let present = splits.iter().filter(|path| path.exists());
    present
        .flat_map(|path| read_jsonl(path, &task.columns()).unwrap())
        .collect()
}

/// The instruction's list that follows `words`, up to the full stop.
fn list_after<'a>(instruction: &'a str, words: &str) -> Vec<&'a str> {
    let (_, list) = instruction.split_once(words).unwrap();
    list.split('.')
        .next()
        .unwrap()
        .split(", ")
        .map(str::trim)
        .collect()
}

#[test]
fn the_functional_instruction_names_what_the_data_has() {
    let Some(mirror) = mirror_with(&[VIGGO]) else {
        return;
    };
    let task = Task::functional();
    let functions = list_after(&task.templates.instruction, "one of: ");
    let attributes = list_after(&task.templates.instruction, "in its order: ");
    assert_eq!((functions.len(), attributes.len()), (9, 14));

    let (mut used_functions, mut used_attributes) = (BTreeSet::new(), BTreeSet::new());
    let rows = rows(&mirror.join(VIGGO), &task);
    for row in &rows {
        let answer = row.text(&task.answer_column);
        assert!(!answer.contains('\n'), "`stop` would cut {answer:?}");
        let (function, arguments) = answer.split_once('(').unwrap();
        let names = arguments
            .split('[')
            .filter_map(|part| part.rsplit([' ', '(', ']']).next());
        let names: Vec<&str> = names
            .filter(|name| !name.is_empty() && *name != ")")
            .collect();
        let positions: Vec<usize> = names
            .iter()
            .map(|name| {
                attributes
                    .iter()
                    .position(|known| known == name)
                    .expect(name)
            })
            .collect();
        assert!(positions.is_sorted(), "{answer}");
        used_functions.insert(function.to_owned());
        used_attributes.extend(names.into_iter().map(str::to_owned));
    }
    assert!(functions.iter().all(|name| used_functions.contains(*name)));
    assert_eq!((used_functions.len(), used_attributes.len()), (9, 14));
}

/// Every row of the real data makes a prompt, a mask and a skeleton; the skeletons are few beside the rows, and many
/// beside one.
#[test]
fn skeletons_of_the_real_answers() {
    let found: BTreeMap<&str, (usize, usize)> = [
        ("sql", SQL, Task::sql()),
        ("gsm8k", GSM8K, Task::gsm8k()),
        ("functional", VIGGO, Task::functional()),
    ]
    .into_iter()
    .filter_map(|(name, folder, task)| {
        let train = mirror_with(&[folder])?.join(folder).join("train.jsonl");
        let rows = read_jsonl(&train, &task.columns()).unwrap();
        let template = PromptTemplate::new(&task).unwrap();
        for row in &rows {
            template.render(row, &[row]).unwrap();
            assert!(!task.mask(row).is_empty());
        }
        let skeletons: BTreeSet<String> = rows
            .iter()
            .map(|row| task.skeleton(&row.text(&task.answer_column)))
            .collect();
        Some((name, (rows.len(), skeletons.len())))
    })
    .collect();
    for (name, counts) in found {
        let expected = match name {
            "sql" => (3961, 747),
            "gsm8k" => (7473, 1639),
            _ => (5103, 430),
        };
        assert_eq!(counts, expected, "{name}");
    }
}

/// One token stands for what is masked, not the pieces of a word.
#[test]
fn the_mask_is_one_token_of_a_bert_vocabulary() {
    let path = "models/sentence-transformers/all-MiniLM-L6-v2/tokenizer.json";
    let Some(mirror) = mirror_with(&[path]) else {
        return;
    };
    let mut tokenizer = tokenizers::Tokenizer::from_file(mirror.join(path)).unwrap();
    tokenizer.with_padding(None);
    let tokens = |text: &str| tokenizer.encode(text, false).unwrap().get_tokens().to_vec();
    let mut task = Task::gsm8k();
    task.query_column = "q".into();
    let row = |text: &str| Row {
        index: 0,
        fields: [("q".to_owned(), text.into())].into_iter().collect(),
    };
    assert_eq!(
        tokens(&task.mask(&row("How many eggs has Ann, 16?"))),
        ["how", "many", "eggs", "has", "[MASK]", ",", "[MASK]", "?"]
    );
}
