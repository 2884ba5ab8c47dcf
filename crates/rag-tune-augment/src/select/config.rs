//! The `[retrieval]` section.

use serde::{Deserialize, Serialize};

use super::condition;

/// `[retrieval]`: how many examples a prompt gets, and which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Examples in each prompt; 0 is the zero-shot arm.
    pub examples: usize,
    /// How examples are chosen: `semantic` (nearest question), `masked` (nearest question after schema words, names
    /// and numbers were masked), `bm25` (shared words), `hybrid` (semantic and bm25 fused), `skeleton` (likest
    /// answer), `mmr` (near and unlike each other), or `random`.
    pub selector: Selector,
    /// Whether the closest example stands first or last in the prompt: `closest_first` or `closest_last`.
    pub order: Order,
    /// The embedding model: a hub id or folder of a BERT-family encoder or of static embeddings, a file of
    /// vectors, or the model's name at `endpoint`.
    pub embedder: String,
    /// Which of the model's own prompts goes before each text (`query`, say); empty: the model's default.
    pub embedder_prompt: String,
    /// Arithmetic of an encoder's linear layers: `auto`, `f32` or `bf16`.
    pub embedder_compute: EmbedderCompute,
    /// Address of an OpenAI-compatible embedding service, such as `https://api.openai.com/v1`. Empty: embed locally.
    pub endpoint: String,
    /// Environment variable that holds the endpoint's key.
    pub endpoint_key: String,
    /// Where vectors are searched: `exact` (in this process) or `chroma` (a Chroma server).
    pub store: StoreKind,
    /// Folder of the exact store; empty: in the cache.
    pub store_folder: String,
    /// Address of the Chroma server.
    pub chroma_url: String,
    /// Columns in which an example must differ from the row, such as `["db_id"]`.
    pub different: Vec<String>,
    /// Columns in which an example must equal the row.
    pub same: Vec<String>,
    /// A condition on row and example (a minijinja expression that is true or false), such as
    /// `example.level <= row.level`; empty: none.
    pub r#where: String,
    /// Examples whose question shares this much of its words with the row's (Jaccard index: words in both over words
    /// in either) are ruled out as near duplicates; 1 rules out equal texts only.
    pub near_duplicate: f32,
    /// `mmr`: 1 looks at nearness alone, 0 at unlikeness alone.
    pub mmr_lambda: f32,
    /// `skeleton`: the file of draft answers for the eval split, a prediction a row, such as an earlier evaluation's
    /// `predictions.jsonl` (JSON lines with `prediction`; a file of another ending is plain text, a draft a line).
    pub drafts: String,
    /// Share of training rows whose examples are drawn at random instead, so that the adapter learns not to trust them.
    pub noise_random: f32,
    /// Share of training rows that get no examples.
    pub noise_none: f32,
    /// Whether that noise is drawn `once`, or anew for `each_epoch`.
    pub noise_draw: NoiseDraw,
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        Self {
            examples: 1,
            selector: Selector::Semantic,
            order: Order::ClosestFirst,
            embedder: "sentence-transformers/all-MiniLM-L6-v2".into(),
            embedder_prompt: String::new(),
            embedder_compute: EmbedderCompute::Auto,
            endpoint: String::new(),
            endpoint_key: "OPENAI_API_KEY".into(),
            store: StoreKind::Exact,
            store_folder: String::new(),
            chroma_url: "http://127.0.0.1:8000".into(),
            different: Vec::new(),
            same: Vec::new(),
            r#where: String::new(),
            near_duplicate: 1.0,
            mmr_lambda: 0.5,
            drafts: String::new(),
            noise_random: 0.0,
            noise_none: 0.0,
            noise_draw: NoiseDraw::Once,
        }
    }
}

impl RetrievalConfig {
    /// Whether examples are found by meaning, so that an embedder is needed. `skeleton` needs one too:
    /// many answers are equally like, and of those the nearest question's is taken.
    pub fn needs_embedder(&self) -> bool {
        self.examples > 0 && !matches!(self.selector, Selector::Bm25 | Selector::Random)
    }

    /// Whether draft answers are read for splits other than the train split.
    pub fn reads_drafts(&self) -> bool {
        self.examples > 0 && self.selector == Selector::Skeleton
    }

    /// Whether some training rows get other examples than the selector's.
    pub fn has_noise(&self) -> bool {
        self.examples > 0 && self.noise_random + self.noise_none > 0.0
    }

    /// Whether each epoch sees other prompts.
    pub fn draws_each_epoch(&self) -> bool {
        self.has_noise() && self.noise_draw == NoiseDraw::EachEpoch
    }

    /// All problems of this section; none if the list is empty.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.needs_embedder() && self.embedder.trim().is_empty() {
            problems.push("`retrieval.embedder` must name a hub id or a folder".into());
        }
        for (name, columns) in [("different", &self.different), ("same", &self.same)] {
            for (position, column) in columns.iter().enumerate() {
                if column.is_empty() {
                    problems.push(format!(
                        "`retrieval.{name}` must not have an empty column name"
                    ));
                } else if columns[..position].contains(column) {
                    problems.push(format!("`retrieval.{name}` has `{column}` twice"));
                }
            }
        }
        if let Err(error) = condition::check_condition(&self.r#where) {
            problems.push(error.to_string());
        }
        if self.reads_drafts() && self.drafts.trim().is_empty() {
            problems.push(
                "`retrieval.drafts` must name a file of draft answers for selector `skeleton`"
                    .into(),
            );
        }
        // At 0 every pair would share enough words.
        if !(self.near_duplicate > 0.0 && self.near_duplicate <= 1.0) {
            problems.push("`retrieval.near_duplicate` must be above 0 and at most 1".into());
        }
        for (name, share) in [
            ("mmr_lambda", self.mmr_lambda),
            ("noise_random", self.noise_random),
            ("noise_none", self.noise_none),
        ] {
            if !(0.0..=1.0).contains(&share) {
                problems.push(format!("`retrieval.{name}` must be from 0 to 1"));
            }
        }
        if self.noise_random + self.noise_none > 1.0 {
            problems.push(
                "`retrieval.noise_random` and `retrieval.noise_none` add up to more than 1".into(),
            );
        }
        problems
    }
}

/// Arithmetic of an encoder's linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbedderCompute {
    /// bf16 where the processor has instructions for it, else f32. Either way the vectors are told apart.
    Auto,
    /// 32-bit floating point: within 2e-5 of sentence-transformers.
    F32,
    /// bfloat16 products, summed in f32: nearly the same neighbours in half the time.
    Bf16,
}

/// How examples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Nearest by the cosine of the embedded questions.
    Semantic,
    /// As semantic, after schema words, names, values and numbers were masked.
    Masked,
    /// BM25 over the words of the questions.
    Bm25,
    /// Semantic and BM25, joined by reciprocal rank fusion.
    Hybrid,
    /// Likest skeleton of the answer: the gold answer's for train rows, a draft's for others.
    Skeleton,
    /// Maximal marginal relevance: near to the question and unlike each other.
    Mmr,
    /// Drawn by the seed: the control that says what nearness is worth.
    Random,
}

impl Selector {
    /// As the config spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Masked => "masked",
            Self::Bm25 => "bm25",
            Self::Hybrid => "hybrid",
            Self::Skeleton => "skeleton",
            Self::Mmr => "mmr",
            Self::Random => "random",
        }
    }
}

/// Where the closest example stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// At the top.
    ClosestFirst,
    /// Next to the question.
    ClosestLast,
}

/// Where vectors are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In this process, exactly.
    Exact,
    /// In a Chroma server, through its index.
    Chroma,
}

/// How often the noise of training prompts is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseDraw {
    /// Once for all epochs.
    Once,
    /// Anew for each epoch.
    EachEpoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_all_named() {
        let config = RetrievalConfig {
            selector: Selector::Skeleton,
            embedder: " ".into(),
            different: vec!["a".into(), String::new(), "a".into()],
            r#where: "example.level <".into(),
            near_duplicate: 0.0,
            mmr_lambda: f32::NAN,
            noise_random: 0.75,
            noise_none: 0.5,
            ..RetrievalConfig::default()
        };
        let mut problems = config.validate();
        let condition = problems.remove(3);
        assert!(
            condition.starts_with("`retrieval.where = \"example.level <\"` "),
            "{condition}"
        );
        assert_eq!(
            problems,
            [
                "`retrieval.embedder` must name a hub id or a folder",
                "`retrieval.different` must not have an empty column name",
                "`retrieval.different` has `a` twice",
                "`retrieval.drafts` must name a file of draft answers for selector `skeleton`",
                "`retrieval.near_duplicate` must be above 0 and at most 1",
                "`retrieval.mmr_lambda` must be from 0 to 1",
                "`retrieval.noise_random` and `retrieval.noise_none` add up to more than 1",
            ]
        );
        assert_eq!(RetrievalConfig::default().validate(), [""; 0]);
    }

    #[test]
    fn without_examples_neither_embedder_nor_drafts_are_asked_for() {
        let config = RetrievalConfig {
            examples: 0,
            selector: Selector::Skeleton,
            embedder: String::new(),
            noise_none: 1.0,
            ..RetrievalConfig::default()
        };
        assert_eq!(config.validate(), [""; 0]);
        assert!(!config.has_noise() && !config.reads_drafts());
    }
}
