//! Sentence encoders of the BERT family, such as all-MiniLM-L6-v2, in sentence-transformers' folder format.
//!
//! `vector = normalise(dense layers(pooling(encoder(prompt + text))))`
//!
//! - [`folder`]: what the model's own files say: modules, pooling, prompts, lengths
//! - [`architecture`]: `config.json` and tensor names of each family, in one form
//! - [`tokens`]: texts become token ids
//! - [`forward`]: token ids become hidden states, many texts end to end (operations: rag-tune-kernels)
//! - [`pooling`]: hidden states become one vector per text

mod architecture;
mod distance;
mod folder;
mod forward;
mod pooling;
mod tokens;
mod weights;

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use rag_tune_kernels::Compute;
use rayon::prelude::*;

use super::{Done, Embedder, Embeddings};
use crate::AugmentError;
use folder::Folder;
use forward::Encoder;
use pooling::Head;
use tokens::TextTokenizer;

/// A sentence encoder of the BERT family.
pub struct BertEmbedder {
    folder: Folder,
    compute: Compute,
    fingerprint: String,
    /// Loaded when the first text is embedded: a run whose vectors are all known needs none.
    loaded: OnceLock<Loaded>,
}

struct Loaded {
    tokenizer: TextTokenizer,
    encoder: Encoder,
    head: Head,
}

/// Texts that are tokenised before the encoder sees the first: bounds memory.
const TEXTS_AT_A_TIME: usize = 8192;

/// Tokens that go through the encoder together on one core: few enough that the activations stay near the cache. f32
/// products pack the weights anew for each batch, which has to be worth it.
fn tokens_per_batch(compute: Compute) -> usize {
    if compute == Compute::F32 { 512 } else { 256 }
}

/// Part of every fingerprint: raise it when the code comes to give other vectors.
const METHOD: &str = "packed encoder, pooling, L2-normalised, 3";

impl BertEmbedder {
    /// Finds the model in `folder`, in the format of sentence-transformers: `config.json`, `tokenizer.json` and
    /// `model.safetensors`, and where they exist `modules.json` with the folders it names, `sentence_bert_config.json`
    /// and `config_sentence_transformers.json`. Without `modules.json`, pooling is the mean unless there is
    /// `1_Pooling/config.json`.
    ///
    /// `prompt` goes before each text: the name of one of the model's own prompts, or a prompt that ends in a space or
    /// colon; empty is the model's default.
    ///
    /// `compute` is what the encoder's linear layers run in; its vectors are others, and so is the fingerprint.
    ///
    /// # Errors
    /// [`AugmentError::Read`] for a missing file, [`AugmentError::BadJson`], [`AugmentError::UnsupportedEmbedder`],
    /// [`AugmentError::UnknownPrompt`].
    pub fn open(folder: &Path, prompt: &str, compute: Compute) -> Result<Self, AugmentError> {
        let folder = Folder::read(folder, prompt)?;
        Ok(Self {
            fingerprint: folder.fingerprint(&format!("{METHOD}, {compute:?}"))?,
            folder,
            compute,
            loaded: OnceLock::new(),
        })
    }

    fn loaded(&self) -> Result<&Loaded, AugmentError> {
        if self.loaded.get().is_none() {
            // Two threads may load it at a time; one of the two is kept.
            let loaded = Loaded::load(&self.folder, self.compute)?;
            self.loaded.get_or_init(|| loaded);
        }
        Ok(self.loaded.get().expect("just set"))
    }
}

impl Loaded {
    fn load(folder: &Folder, compute: Compute) -> Result<Self, AugmentError> {
        let encoder = Encoder::load(&folder.weights(), &folder.architecture, compute)?;
        Ok(Self {
            tokenizer: TextTokenizer::load(folder)?,
            head: Head::load(folder, encoder.hidden_size())?,
            encoder,
        })
    }

    /// Vectors of the texts of one batch, `[texts, dimension]`, flat.
    fn vectors(&self, texts: &[Vec<u32>]) -> Result<Vec<f32>, String> {
        let hidden = self.encoder.forward(texts)?;
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        self.head.vectors(&hidden, &lengths)
    }
}

impl Embedder for BertEmbedder {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        let loaded = self.loaded()?;
        let failed = |problem| AugmentError::Embedder {
            path: self.folder.path.clone(),
            problem,
        };
        for (chunk, texts) in texts.chunks(TEXTS_AT_A_TIME).enumerate() {
            let ids = texts
                .par_iter()
                .map(|text| loaded.tokenizer.ids(text))
                .collect::<Result<Vec<_>, _>>()
                .map_err(failed)?;
            batches(&ids, tokens_per_batch(self.compute))
                .into_par_iter()
                .try_for_each(|batch| {
                    let vectors = loaded.vectors(&ids[batch.clone()]).map_err(failed)?;
                    let first = chunk * TEXTS_AT_A_TIME;
                    let positions: Vec<usize> = batch.map(|text| first + text).collect();
                    done(
                        &positions,
                        &Embeddings::new(loaded.head.dimension(), vectors),
                    )
                })?;
        }
        Ok(())
    }
}

/// Texts that follow each other, at most `most_tokens` together; at least one text.
fn batches(ids: &[Vec<u32>], most_tokens: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (text, ids) in ids.iter().enumerate() {
        if text > start && tokens + ids.len() > most_tokens {
            batches.push(start..text);
            (start, tokens) = (text, 0);
        }
        tokens += ids.len();
    }
    if start < ids.len() {
        batches.push(start..ids.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_batch_and_no_batch_is_large(
            lengths in prop::collection::vec(0_usize..900, 0..60)
        ) {
            let ids: Vec<Vec<u32>> = lengths.iter().map(|length| vec![0; *length]).collect();
            let batches = batches(&ids, 512);
            let texts: Vec<usize> = batches.iter().cloned().flatten().collect();
            prop_assert_eq!(texts, (0..ids.len()).collect::<Vec<_>>());
            for batch in batches {
                let tokens: usize = lengths[batch.clone()].iter().sum();
                prop_assert!(batch.len() == 1 || tokens <= 512);
            }
        }
    }
}
