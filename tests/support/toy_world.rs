//! A folder with a toy model, a data set of a few rows, its databases, and a config that uses them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use super::{Run, command, rag_tune, toy_model};

/// Domain (also the database's name) and its split.
const DOMAINS: [(&str, &str); 4] = [
    ("pets", "train"),
    ("ships", "train"),
    ("wines", "train"),
    ("trees", "validation"),
];

/// Everything a run needs, in a temporary folder.
pub struct ToyWorld {
    folder: TempDir,
}

impl ToyWorld {
    /// Writes model, data, databases and `run.toml`.
    pub fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        toy_model::write(&world.path("model"), 1);
        for split in ["train", "validation"] {
            world.write(&format!("data/{split}.jsonl"), &rows(split));
        }
        for (domain, _) in DOMAINS {
            write_database(
                &world.path(&format!("database/{domain}/{domain}.sqlite")),
                domain,
            );
        }
        world.write("run.toml", CONFIG);
        world
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file inside the folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file inside the folder.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The JSON lines of a file inside the folder.
    #[track_caller]
    pub fn json_lines(&self, name: &str) -> Vec<serde_json::Value> {
        self.read(name)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The program, about to run there.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.folder.path(), arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs the program there.
    pub fn rag_tune(&self, arguments: &[&str]) -> Run {
        rag_tune(self.folder.path(), arguments)
    }
}

/// Two steps on a toy model. `random` needs no embedder.
const CONFIG: &str = r#"
output = "out/zero_shot"
[model]
base = "model"
[data]
source = "data"
[retrieval]
examples = 0
selector = "random"
different = ["db_id"]
[lora]
rank = 4
alpha = 8
[train]
batch_size = 4
tokens_per_micro_batch = 2048
max_steps = 2
warmup_steps = 1
checkpoint_every = 1
[eval]
databases = "database"
max_new_tokens = 4
"#;

fn rows(split: &str) -> String {
    let mut lines = String::new();
    for (domain, _) in DOMAINS.iter().filter(|(_, of)| *of == split) {
        let context = format!("CREATE TABLE {domain} (name VARCHAR, age INTEGER)");
        for (question, answer) in [
            (
                format!("How many {domain} are there?"),
                format!("SELECT count(*) FROM {domain}"),
            ),
            (
                format!("Names of the {domain}?"),
                format!("SELECT name FROM {domain}"),
            ),
            (
                format!("Which {domain} are older than 3?"),
                format!("SELECT name FROM {domain} WHERE age > 3"),
            ),
        ] {
            let row = json!({"db_id": domain, "context": context, "question": question, "answer": answer});
            lines += &format!("{row}\n");
        }
    }
    lines
}

fn write_database(path: &Path, domain: &str) {
    std::fs::create_dir_all(path.parent().expect("inside the folder")).unwrap();
    let database = Connection::open(path).unwrap();
    database
        .execute_batch(&format!(
            "CREATE TABLE {domain} (name VARCHAR, age INTEGER);
             INSERT INTO {domain} VALUES ('Ada', 2), ('Bo', 5), ('Cy', 7);"
        ))
        .unwrap();
}
