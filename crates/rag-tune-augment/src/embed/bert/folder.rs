//! What a model's own files say, in the format of sentence-transformers' folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::architecture::Architecture;
use super::pooling::Pooling;
use crate::AugmentError;
use crate::embed::{read_json, read_json_if_there, unsupported};
use crate::fingerprint::{hash_file, hex};

/// A model's folder, with all that is known of it before its weights are read.
pub(super) struct Folder {
    /// The model's own folder.
    pub path: PathBuf,
    /// Where `config.json`, tokenizer and weights lie: mostly the same.
    transformer: PathBuf,
    pub architecture: Architecture,
    pub pooling: Vec<Pooling>,
    /// What follows the pooling.
    pub steps: Vec<Step>,
    /// What goes before every text.
    pub prompt: String,
    /// Longer texts are cut.
    pub max_tokens: usize,
    pub lower_case: bool,
}

/// What is done to a pooled vector.
pub(super) enum Step {
    /// The folder of a dense layer.
    Dense(PathBuf),
    Normalize,
}

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const WEIGHTS: &str = "model.safetensors";
const PICKLED_WEIGHTS: &str = "pytorch_model.bin";
const MODULES: &str = "modules.json";
const PROMPTS: &str = "config_sentence_transformers.json";
const DEFAULT_POOLING: &str = "1_Pooling";

/// What sentence-transformers looks for, in this order.
const LENGTHS: &[&str] = &[
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
];

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

/// `sentence_bert_config.json`.
#[derive(Deserialize, Default)]
struct LengthConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// `tokenizer_config.json`.
#[derive(Deserialize, Default)]
struct TokenizerConfig {
    /// A float, because "no limit" is written as 1e30.
    model_max_length: Option<f64>,
}

/// `config_sentence_transformers.json`.
#[derive(Deserialize, Default)]
struct PromptConfig {
    #[serde(default)]
    prompts: BTreeMap<String, Option<String>>,
    default_prompt_name: Option<String>,
}

/// `config.json` of a pooling module. Older versions have a boolean per mode.
#[derive(Deserialize, Default)]
struct PoolingConfig {
    pooling_mode: Option<OneOrMore>,
    include_prompt: Option<bool>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Folder {
    /// Reads the descriptions in `path`; see [`super::BertEmbedder::open`].
    pub(super) fn read(path: &Path, prompt: &str) -> Result<Self, AugmentError> {
        let modules: Option<Vec<Module>> = read_json_if_there(&path.join(MODULES))?;
        let (mut transformer, mut pooling_folder, mut steps) = (None, None, Vec::new());
        for Module { path: part, r#type } in modules.iter().flatten() {
            let folder = path.join(part);
            match r#type.rsplit('.').next().unwrap_or_default() {
                "Transformer" if transformer.is_none() => transformer = Some(folder),
                "Pooling" if pooling_folder.is_none() && steps.is_empty() => {
                    pooling_folder = Some(folder);
                }
                "Dense" if pooling_folder.is_some() => steps.push(Step::Dense(folder)),
                "Normalize" if pooling_folder.is_some() => steps.push(Step::Normalize),
                _ => {
                    let problem = format!("its module `{type}` (`{part}`) is not supported");
                    return Err(unsupported(path, problem));
                }
            }
        }
        let transformer = transformer.unwrap_or_else(|| path.to_owned());
        let (pooling, include_prompt) = match (&pooling_folder, &modules) {
            (None, Some(_)) => {
                return Err(unsupported(path, format!("`{MODULES}` names no pooling")));
            }
            (Some(folder), _) => read_pooling(&folder.join(CONFIG))?,
            (None, None) => match path.join(DEFAULT_POOLING).join(CONFIG) {
                config if config.exists() => read_pooling(&config)?,
                _ => (vec![Pooling::Mean], true),
            },
        };
        let prompt = chosen_prompt(path, prompt)?;
        if !include_prompt && !prompt.is_empty() {
            let problem = "its pooling leaves the prompt out (`include_prompt`)".into();
            return Err(unsupported(path, problem));
        }
        let architecture = Architecture::read(&transformer.join(CONFIG))?;
        require_safetensors(&transformer)?;
        let (max_tokens, lower_case) = lengths(&transformer, &architecture)?;
        Ok(Self {
            path: path.to_owned(),
            transformer,
            architecture,
            pooling,
            steps,
            prompt,
            max_tokens,
            lower_case,
        })
    }

    pub(super) fn weights(&self) -> PathBuf {
        self.transformer.join(WEIGHTS)
    }

    pub(super) fn tokenizer(&self) -> PathBuf {
        self.transformer.join(TOKENIZER)
    }

    /// Changes with every file and setting that a vector depends on.
    pub(super) fn fingerprint(&self, method: &str) -> Result<String, AugmentError> {
        let mut hasher = Sha256::new();
        // What the small files say, rather than their bytes: a key that is not used here changes nothing.
        hasher.update(format!(
            "{method}\n{:?}\n{:?}\n{:?}\n{} {}\n",
            self.architecture, self.pooling, self.prompt, self.max_tokens, self.lower_case
        ));
        hash_file(&self.tokenizer(), &mut hasher)?;
        hash_file(&self.weights(), &mut hasher)?;
        for step in &self.steps {
            match step {
                Step::Normalize => hasher.update("normalize\n"),
                Step::Dense(folder) => {
                    hash_file(&folder.join(CONFIG), &mut hasher)?;
                    hash_file(&folder.join(WEIGHTS), &mut hasher)?;
                }
            }
        }
        Ok(hex(&hasher.finalize()))
    }
}

fn require_safetensors(folder: &Path) -> Result<(), AugmentError> {
    if folder.join(WEIGHTS).exists() || !folder.join(PICKLED_WEIGHTS).exists() {
        return Ok(()); // a file that is missing altogether is named when it is read
    }
    let problem = format!(
        "it has `{PICKLED_WEIGHTS}`, which is not read, and no `{WEIGHTS}`; \
         `SentenceTransformer(folder).save(new_folder)` in Python writes one"
    );
    Err(unsupported(folder, problem))
}

/// The most tokens of a text, special ones included, and whether texts are put into lower case.
fn lengths(folder: &Path, architecture: &Architecture) -> Result<(usize, bool), AugmentError> {
    let file = LENGTHS
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists());
    let config: LengthConfig = file
        .map(|path| read_json(&path))
        .transpose()?
        .unwrap_or_default();
    let tokenizer: TokenizerConfig =
        read_json_if_there(&folder.join(TOKENIZER_CONFIG))?.unwrap_or_default();
    let of_tokenizer = || tokenizer.model_max_length.map(|length| length as usize); // saturates
    let stated = config
        .max_seq_length
        .or_else(of_tokenizer)
        .unwrap_or(usize::MAX);
    Ok((stated.min(architecture.max_tokens()), config.do_lower_case))
}

fn chosen_prompt(folder: &Path, wanted: &str) -> Result<String, AugmentError> {
    let path = folder.join(PROMPTS);
    let mut config: PromptConfig = read_json_if_there(&path)?.unwrap_or_default();
    let name = match wanted {
        "" => match config.default_prompt_name {
            Some(name) => name,
            None => return Ok(String::new()),
        },
        wanted => wanted.to_owned(),
    };
    match config.prompts.remove(&name) {
        Some(prompt) => Ok(prompt.unwrap_or_default()),
        None if name.ends_with([' ', ':']) => Ok(name),
        None => Err(AugmentError::UnknownPrompt {
            path: folder.to_owned(),
            prompt: name,
            known: config.prompts.into_keys().collect(),
        }),
    }
}

/// How tokens become a vector, and whether the prompt's tokens count.
fn read_pooling(path: &Path) -> Result<(Vec<Pooling>, bool), AugmentError> {
    let config: PoolingConfig = read_json(path)?;
    let names = match config.pooling_mode {
        Some(OneOrMore::One(name)) => vec![name],
        Some(OneOrMore::More(names)) => names,
        None => {
            let set = |key: &str| config.others.get(key) == Some(&true.into());
            let old = OLD_MODES.iter().filter(|(key, _)| set(key));
            let names: Vec<String> = old.map(|(_, name)| (*name).to_owned()).collect();
            let states_none = !config
                .others
                .keys()
                .any(|key| key.starts_with("pooling_mode_"));
            if names.is_empty() && states_none {
                vec!["mean".into()]
            } else {
                names
            }
        }
    };
    let modes = names.iter().map(|name| {
        Pooling::named(name).ok_or_else(|| unsupported(path, format!("its pooling is `{name}`")))
    });
    let modes = modes.collect::<Result<Vec<_>, _>>()?;
    if modes.is_empty() {
        return Err(unsupported(path, "its pooling has no mode".into()));
    }
    Ok((modes, config.include_prompt.unwrap_or(true)))
}

/// In the order in which sentence-transformers puts several side by side.
const OLD_MODES: &[(&str, &str)] = &[
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];
