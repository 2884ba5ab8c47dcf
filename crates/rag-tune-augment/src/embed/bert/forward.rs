//! The encoder: token ids of many texts, end to end and without padding, become hidden states.
//!
//! A layer is `x = norm(x + output(attention(x)))`, `x = norm(x + down(activation(up(x))))` (Vaswani et al. 2017,
//! arXiv:1706.03762; post-norm, as in BERT).

use std::path::Path;

use rag_tune_kernels::encoder_attention::DistanceBias;
use rag_tune_kernels::layer_norm::LayerNorm;
use rag_tune_kernels::{
    Compute, KernelError, Sequences, Tensor, activation, encoder_attention, layer_norm,
};

use super::architecture::{Architecture, Family};
use super::distance::distance_bias;
use super::weights::{Linear, Weights};
use crate::AugmentError;

/// An encoder's weights.
pub(super) struct Encoder {
    architecture: Architecture,
    /// `[vocabulary, hidden_size]`.
    words: Vec<f32>,
    /// `[positions, hidden_size]`: the embedding of a position, and of the first token type where there are types.
    positions: Vec<f32>,
    norm: LayerNorm,
    distance_bias: Option<DistanceBias>,
    layers: Vec<Layer>,
}

struct Layer {
    /// Side by side: `[3 * hidden_size, hidden_size]`.
    query_key_value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

const WORDS: &str = "embeddings.word_embeddings.weight";

impl Encoder {
    /// Reads the weights, for products in `compute`.
    ///
    /// # Errors
    /// [`AugmentError::Read`]; [`AugmentError::Embedder`] for a tensor that is missing or has another shape.
    pub(super) fn load(
        path: &Path,
        architecture: &Architecture,
        compute: Compute,
    ) -> Result<Self, AugmentError> {
        let weights = Weights::open(path, WORDS)?;
        let hidden = architecture.hidden_size;
        let position_shape = [architecture.positions, hidden];
        let mut positions =
            weights.tensor("embeddings.position_embeddings.weight", &position_shape)?;
        if architecture.family == Family::Bert {
            let types = weights.table("embeddings.token_type_embeddings.weight", hidden)?;
            for position in positions.chunks_exact_mut(hidden) {
                add(position, &types[..hidden.min(types.len())]);
            }
        }
        let distance_bias = architecture.relative_buckets.map(|buckets| {
            let name = "encoder.relative_attention_bias.weight";
            let table = weights.tensor(name, &[buckets, architecture.heads])?;
            let longest = architecture.max_tokens();
            Ok::<_, AugmentError>(distance_bias(&table, buckets, longest))
        });
        let layers = (0..architecture.layers)
            .map(|layer| Layer::load(&weights, architecture, layer, compute));
        Ok(Self {
            words: weights.table(WORDS, hidden)?,
            positions,
            norm: weights.norm("embeddings.LayerNorm", hidden, architecture.layer_norm_eps)?,
            distance_bias: distance_bias.transpose()?,
            layers: layers.collect::<Result<_, _>>()?,
            architecture: architecture.clone(),
        })
    }

    /// Width of a hidden state.
    pub(super) fn hidden_size(&self) -> usize {
        self.architecture.hidden_size
    }

    /// The last hidden states of the texts' tokens, `[tokens of all texts, hidden_size]`.
    ///
    /// # Errors
    /// A token that the model has no embedding for, a text that is too long: the tokenizer belongs to another model.
    pub(super) fn forward(&self, texts: &[Vec<u32>]) -> Result<Tensor, String> {
        let x = self.embed(texts)?;
        self.layers(x, texts).map_err(|error| error.to_string())
    }

    fn layers(&self, embedded: Vec<f32>, texts: &[Vec<u32>]) -> Result<Tensor, KernelError> {
        let hidden = self.hidden_size();
        let lengths = texts.iter().map(Vec::len).filter(|length| *length > 0);
        let sequences = Sequences::from_lengths(&lengths.collect::<Vec<_>>())?;
        let mut x = Tensor::from_vec(sequences.tokens(), hidden, embedded)?;
        layer_norm::forward(&mut x, &self.norm)?;
        for layer in &self.layers {
            x = layer.forward(&x, &sequences, self)?;
        }
        Ok(x)
    }

    /// The sum of each token's and its position's embedding.
    fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<f32>, String> {
        let hidden = self.hidden_size();
        let vocabulary = self.words.len() / hidden;
        let mut x = Vec::with_capacity(texts.iter().map(Vec::len).sum::<usize>() * hidden);
        for text in texts {
            if text.len() > self.architecture.max_tokens() {
                return Err(format!("a text of {} tokens is too long", text.len()));
            }
            for (position, &id) in text.iter().enumerate() {
                let id = id as usize;
                if id >= vocabulary {
                    return Err(format!(
                        "its tokenizer gave token {id}, and it has embeddings for {vocabulary}"
                    ));
                }
                let start = x.len();
                x.extend_from_slice(&self.words[id * hidden..][..hidden]);
                let row = (self.architecture.first_position + position) * hidden;
                add(&mut x[start..], &self.positions[row..][..hidden]);
            }
        }
        Ok(x)
    }
}

impl Layer {
    fn load(
        weights: &Weights,
        architecture: &Architecture,
        layer: usize,
        compute: Compute,
    ) -> Result<Self, AugmentError> {
        let names = architecture.layer_names(layer);
        let eps = architecture.layer_norm_eps;
        let (hidden, wide) = (architecture.hidden_size, architecture.intermediate_size);
        let query_key_value = names.query_key_value.each_ref().map(String::as_str);
        let linear =
            |names: &[&str], inputs, outputs| weights.linear(names, inputs, outputs, compute);
        Ok(Self {
            query_key_value: linear(&query_key_value, hidden, hidden)?,
            output: linear(&[&names.output], hidden, hidden)?,
            attention_norm: weights.norm(&names.attention_norm, hidden, eps)?,
            up: linear(&[&names.up], hidden, wide)?,
            down: linear(&[&names.down], wide, hidden)?,
            norm: weights.norm(&names.norm, hidden, eps)?,
        })
    }

    /// `x` is `[tokens, hidden_size]`, and so is the result.
    fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        encoder: &Encoder,
    ) -> Result<Tensor, KernelError> {
        let Encoder {
            architecture,
            distance_bias,
            ..
        } = encoder;
        let context = encoder_attention::forward(
            &self.query_key_value.forward(x)?,
            &self.query_key_value.bias,
            sequences,
            architecture.heads,
            distance_bias.as_ref(),
        )?;
        let mut attended = self.output.forward(&context)?;
        layer_norm::add_forward(&mut attended, &self.output.bias, x, &self.attention_norm)?;
        let mut wide = self.up.forward(&attended)?;
        activation::forward(&mut wide, &self.up.bias, architecture.activation)?;
        let mut y = self.down.forward(&wide)?;
        layer_norm::add_forward(&mut y, &self.down.bias, &attended, &self.norm)?;
        Ok(y)
    }
}

fn add(to: &mut [f32], what: &[f32]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += what;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::VarBuilder;
    use candle_transformers::models::bert::BertModel;

    /// Hidden states of the reference, text by text.
    fn candle(folder: &Path, texts: &[Vec<u32>]) -> Vec<f32> {
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
        let builder =
            VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
        let model = BertModel::load(builder, &serde_json::from_slice(&config).unwrap()).unwrap();
        let of_text = |ids: &Vec<u32>| {
            let ids = candle_core::Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
            let hidden = model
                .forward(&ids, &ids.zeros_like().unwrap(), None)
                .unwrap();
            hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        texts.iter().flat_map(of_text).collect()
    }

    fn texts(vocabulary: u32, lengths: &[usize]) -> Vec<Vec<u32>> {
        let id = |text: usize, position: usize| (text * 31 + position * 17) as u32 % vocabulary;
        let texts = lengths.iter().enumerate();
        texts
            .map(|(text, length)| (0..*length).map(|position| id(text, position)).collect())
            .collect()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(b)
            .fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
    }

    #[test]
    fn hidden_states_equal_those_of_candle() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders/bge");
        let mirror = std::env::var_os("RAG_TUNE_MIRROR").unwrap_or_default();
        let mini_lm = Path::new(&mirror).join("models/sentence-transformers/all-MiniLM-L6-v2");
        for (folder, texts) in [
            (fixture, texts(160, &[1, 40, 7, 0, 13])),
            (mini_lm, texts(30_000, &[3, 256, 0, 57])),
        ] {
            if !folder.exists() {
                continue;
            }
            let expected = candle(
                &folder,
                &texts
                    .iter()
                    .filter(|text| !text.is_empty())
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            let architecture = Architecture::read(&folder.join("config.json")).unwrap();
            let encoder = Encoder::load(
                &folder.join("model.safetensors"),
                &architecture,
                Compute::F32,
            )
            .unwrap();
            let largest = largest_difference(encoder.forward(&texts).unwrap().data(), &expected);
            assert!(largest < 1e-5, "{} is off by {largest}", folder.display());
        }
    }

    /// Texts of a batch do not see each other.
    #[test]
    fn a_texts_hidden_states_do_not_depend_on_its_neighbours() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders/mpnet");
        let architecture = Architecture::read(&folder.join("config.json")).unwrap();
        let encoder = Encoder::load(
            &folder.join("model.safetensors"),
            &architecture,
            Compute::F32,
        )
        .unwrap();
        let texts = texts(100, &[5, 40, 1, 17]);
        let alone: Vec<f32> = texts
            .iter()
            .flat_map(|text| {
                let hidden = encoder.forward(std::slice::from_ref(text)).unwrap();
                hidden.into_vec()
            })
            .collect();
        let together = encoder.forward(&texts).unwrap();
        assert!(largest_difference(&alone, together.data()) < 1e-5);
    }

    #[test]
    fn a_tokenizer_of_another_model_is_an_error() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders/bge");
        let architecture = Architecture::read(&folder.join("config.json")).unwrap();
        let encoder = Encoder::load(
            &folder.join("model.safetensors"),
            &architecture,
            Compute::F32,
        )
        .unwrap();
        let problem = encoder.forward(&[vec![5, 160]]).unwrap_err();
        assert_eq!(
            problem,
            "its tokenizer gave token 160, and it has embeddings for 160"
        );
        assert!(
            encoder
                .forward(&[vec![5; 41]])
                .unwrap_err()
                .contains("41 tokens")
        );
    }
}
