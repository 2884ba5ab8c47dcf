//! Whether other programs load an adapter folder, rule by rule.
//!
//! The rules are those of the programs' own loaders, read in their sources: a rule that a loader
//! enforces with an error is [`Outcome::Refused`]; one that it silently does not know, so that the
//! adapter computes something else than it was trained to, is [`Outcome::Wrong`]. That they agree
//! with the programs themselves is shown by `scripts/check_vllm_rules.py`.
//!
//! [`peft`], [`vllm`] and [`llama_cpp`] hold one program's rules each; [`folder`] is what they ask.

mod folder;
mod llama_cpp;
mod peft;
mod vllm;

use std::fmt;

use self::folder::Folder;
use super::AdapterFiles;
use crate::config::LlamaConfig;

/// A program that loads adapters in PEFT's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Hugging Face PEFT.
    Peft,
    /// vLLM, which serves adapters beside a base model.
    Vllm,
    /// llama.cpp, by way of its own converter.
    LlamaCpp,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Peft, Self::Vllm, Self::LlamaCpp];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Vllm => "vllm",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// The release whose sources the rules were read in.
    pub fn release(self) -> &'static str {
        match self {
            Self::Peft => "PEFT 0.21",
            Self::Vllm => "vLLM 0.33",
            Self::LlamaCpp => "convert_lora_to_gguf.py as in llama-cpp-python 0.3.36",
        }
    }
}

/// What one rule says about an adapter. Later is worse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing.
    Holds,
    /// It loads; the text is what its user should know.
    Note(String),
    /// It loads without an error, and computes something else than it was trained to.
    Wrong(String),
    /// The program refuses it.
    Refused(String),
}

impl Outcome {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Holds => "ok",
            Self::Note(_) => "note",
            Self::Wrong(_) => "wrong",
            Self::Refused(_) => "refused",
        }
    }

    /// Why, unless it holds.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Holds => None,
            Self::Note(why) | Self::Wrong(why) | Self::Refused(why) => Some(why),
        }
    }

    /// Refused with the first of `problems`, and how many more there are.
    fn refused(problems: &[String]) -> Self {
        first(problems).map_or(Self::Holds, Self::Refused)
    }

    /// Wrong with the first of `problems`, and how many more there are.
    fn wrong(problems: &[String]) -> Self {
        first(problems).map_or(Self::Holds, Self::Wrong)
    }
}

fn first(problems: &[String]) -> Option<String> {
    let (first, more) = problems.split_first()?;
    Some(match more.len() {
        0 => first.clone(),
        count => format!("{first} (and {count} more)"),
    })
}

/// A rule of a program, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the rule is about.
    pub name: &'static str,
    /// What it says.
    pub outcome: Outcome,
}

/// All rules of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whose rules.
    pub program: Program,
    /// In the order in which the program meets them.
    pub rules: Vec<Rule>,
}

/// What a program makes of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It loads, and computes what it was trained to.
    Loads,
    /// It loads, and computes something else.
    LoadsWrongly,
    /// It does not load.
    Refuses,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loads => "loads",
            Self::LoadsWrongly => "loads wrongly",
            Self::Refuses => "refuses",
        })
    }
}

impl Report {
    /// By the worst of the rules.
    pub fn verdict(&self) -> Verdict {
        match self.rules.iter().map(|rule| &rule.outcome).max() {
            Some(Outcome::Refused(_)) => Verdict::Refuses,
            Some(Outcome::Wrong(_)) => Verdict::LoadsWrongly,
            Some(Outcome::Holds | Outcome::Note(_)) | None => Verdict::Loads,
        }
    }
}

/// How the programs are asked to load the adapter.
#[derive(Debug, Clone)]
pub struct CheckOptions<'a> {
    /// vLLM's `--max-lora-rank`.
    pub max_lora_rank: usize,
    /// The base model, with which shapes are compared where it is known.
    pub base: Option<&'a LlamaConfig>,
}

impl CheckOptions<'_> {
    /// vLLM's own default of `--max-lora-rank`.
    pub const DEFAULT_MAX_LORA_RANK: usize = 16;
}

/// Applies the rules of `program` to an adapter folder.
pub fn check(files: &AdapterFiles, program: Program, options: &CheckOptions<'_>) -> Report {
    let folder = Folder::new(files, options.base);
    let rules = match program {
        Program::Peft => peft::rules(&folder),
        Program::Vllm => vllm::rules(&folder, options.max_lora_rank),
        Program::LlamaCpp => llama_cpp::rules(&folder),
    };
    Report { program, rules }
}

#[cfg(test)]
mod tests;
