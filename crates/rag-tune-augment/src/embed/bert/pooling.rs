//! Hidden states become one vector per text: pooling, the model's own dense layers, length 1.

use std::path::Path;

use rag_tune_kernels::{Compute, Tensor};
use serde::Deserialize;

use super::folder::{Folder, Step};
use super::weights::{Linear, Weights};
use crate::AugmentError;
use crate::embed::{normalise, read_json, unsupported};

/// How the hidden states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The first token's.
    Cls,
    /// The largest of each component.
    Max,
    /// Their mean.
    Mean,
    /// Their sum divided by the square root of their number.
    MeanSqrtLength,
    /// Their mean, where token n counts n times.
    WeightedMean,
    /// The last token's.
    Last,
}

impl Pooling {
    /// As sentence-transformers calls it.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "cls" => Some(Self::Cls),
            "max" => Some(Self::Max),
            "mean" => Some(Self::Mean),
            "mean_sqrt_len_tokens" => Some(Self::MeanSqrtLength),
            "weightedmean" => Some(Self::WeightedMean),
            "lasttoken" => Some(Self::Last),
            _ => None,
        }
    }

    /// `states` is `[tokens, size]`, of at least one token; returns `[size]`.
    fn pool(self, states: &[f32], size: usize) -> Vec<f32> {
        let count = (states.len() / size) as f32;
        let weighted = |weight: &dyn Fn(f32) -> f32| {
            let mut sum = vec![0.0; size];
            for (token, state) in states.chunks_exact(size).enumerate() {
                let weight = weight(token as f32);
                sum.iter_mut()
                    .zip(state)
                    .for_each(|(sum, x)| *sum += weight * x);
            }
            sum
        };
        match self {
            Self::Cls => states[..size].to_vec(),
            Self::Last => states[states.len() - size..].to_vec(),
            Self::Mean => weighted(&|_| 1.0 / count),
            Self::MeanSqrtLength => weighted(&|_| 1.0 / count.sqrt()),
            Self::WeightedMean => weighted(&|token| (token + 1.0) / (count * (count + 1.0) / 2.0)),
            Self::Max => {
                let mut max = states[..size].to_vec();
                for state in states.chunks_exact(size) {
                    max.iter_mut()
                        .zip(state)
                        .for_each(|(max, x)| *max = max.max(*x));
                }
                max
            }
        }
    }
}

/// What follows the encoder.
pub(super) struct Head {
    hidden_size: usize,
    pooling: Vec<Pooling>,
    steps: Vec<LoadedStep>,
    dimension: usize,
}

enum LoadedStep {
    Dense { linear: Linear, tanh: bool },
    Normalize,
}

/// `config.json` of a dense module.
#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
    module_input_name: Option<String>,
    module_output_name: Option<String>,
}

fn yes() -> bool {
    true
}

impl Head {
    pub(super) fn load(folder: &Folder, hidden_size: usize) -> Result<Self, AugmentError> {
        let mut dimension = hidden_size * folder.pooling.len();
        let mut steps = Vec::new();
        for step in &folder.steps {
            steps.push(match step {
                Step::Normalize => LoadedStep::Normalize,
                Step::Dense(folder) => load_dense(folder, &mut dimension)?,
            });
        }
        Ok(Self {
            hidden_size,
            pooling: folder.pooling.clone(),
            steps,
            dimension,
        })
    }

    /// Length of a vector.
    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Vectors of length 1.
    ///
    /// # Shapes
    /// - `hidden`: `[tokens, hidden_size]`, texts end to end; `lengths`: tokens of each text
    /// - returns `[texts, dimension]`
    pub(super) fn vectors(&self, hidden: &Tensor, lengths: &[usize]) -> Result<Vec<f32>, String> {
        let (mut pooled, mut rest) = (Vec::new(), hidden.data());
        for tokens in lengths {
            let (states, others) = rest.split_at(tokens * self.hidden_size);
            rest = others;
            if !states.is_empty() {
                let modes = self.pooling.iter();
                pooled.extend(modes.flat_map(|pooling| pooling.pool(states, self.hidden_size)));
            }
        }
        let width = self.hidden_size * self.pooling.len();
        let mut vectors = Tensor::from_vec(pooled.len() / width, width, pooled)
            .map_err(|error| error.to_string())?;
        for step in &self.steps {
            match step {
                LoadedStep::Normalize => normalise_rows(&mut vectors),
                LoadedStep::Dense { linear, tanh } => {
                    vectors = linear
                        .forward(&vectors)
                        .map_err(|error| error.to_string())?;
                    let rows = vectors.data_mut().chunks_exact_mut(linear.bias.len());
                    for (x, bias) in rows.flat_map(|row| row.iter_mut().zip(&linear.bias)) {
                        *x += bias;
                        if *tanh {
                            *x = x.tanh();
                        }
                    }
                }
            }
        }
        normalise_rows(&mut vectors);
        Ok(self.with_empty_texts(&vectors, lengths))
    }

    /// An empty text, of a tokenizer that adds nothing, is zero: near to no text at all.
    fn with_empty_texts(&self, vectors: &Tensor, lengths: &[usize]) -> Vec<f32> {
        let mut all = Vec::with_capacity(lengths.len() * self.dimension);
        let mut rows = vectors.data().chunks_exact(self.dimension);
        for tokens in lengths {
            if *tokens == 0 {
                all.resize(all.len() + self.dimension, 0.0);
            } else {
                all.extend_from_slice(rows.next().expect("a vector for every text of tokens"));
            }
        }
        all
    }
}

fn normalise_rows(vectors: &mut Tensor) {
    let width = vectors.cols();
    vectors
        .data_mut()
        .chunks_exact_mut(width)
        .for_each(normalise);
}

/// `dimension` is that of what goes in, and becomes that of what comes out.
fn load_dense(folder: &Path, dimension: &mut usize) -> Result<LoadedStep, AugmentError> {
    let config: DenseConfig = read_json(&folder.join("config.json"))?;
    let activation = config.activation_function.as_deref().unwrap_or("Tanh");
    let tanh = match activation.rsplit('.').next() {
        Some("Tanh") => true,
        Some("Identity") => false,
        _ => {
            return Err(unsupported(
                folder,
                format!("its activation is `{activation}`"),
            ));
        }
    };
    let of_the_sentence = |name: &Option<String>| {
        name.as_deref()
            .is_none_or(|name| name == "sentence_embedding")
    };
    if config.use_residual
        || !of_the_sentence(&config.module_input_name)
        || !of_the_sentence(&config.module_output_name)
    {
        let problem =
            "its dense layer is not a plain one (`use_residual`, `module_input_name`)".into();
        return Err(unsupported(folder, problem));
    }
    if config.in_features != *dimension || config.out_features == 0 {
        let problem = format!(
            "it takes {} features and gets {dimension}",
            config.in_features
        );
        return Err(unsupported(folder, problem));
    }
    let weights = Weights::open(&folder.join("model.safetensors"), "linear.weight")?;
    let shape = [config.out_features, config.in_features];
    let weight = weights.tensor("linear.weight", &shape)?;
    let bias = match config.bias {
        true => weights.tensor("linear.bias", &shape[..1])?,
        false => vec![0.0; config.out_features],
    };
    *dimension = config.out_features;
    // One row a text: nothing is won by less than f32.
    let linear = Linear::new(weight, bias, config.in_features, Compute::F32);
    let linear = linear.map_err(|error| unsupported(folder, error.to_string()))?;
    Ok(LoadedStep::Dense { linear, tanh })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pooling_is_its_formula() {
        let states = [1.0, 6.0, 3.0, 4.0, 5.0, -1.0]; // three tokens of two components
        let pool = |name: &str| Pooling::named(name).unwrap().pool(&states, 2);
        assert_eq!(pool("cls"), [1.0, 6.0]);
        assert_eq!(pool("lasttoken"), [5.0, -1.0]);
        assert_eq!(pool("max"), [5.0, 6.0]);
        let close = |name: &str, expected: [f32; 2]| {
            let pooled = pool(name);
            let near = pooled
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(near, "{name}: {pooled:?}");
        };
        close("mean", [3.0, 3.0]);
        close(
            "mean_sqrt_len_tokens",
            [9.0 / 3.0_f32.sqrt(), 9.0 / 3.0_f32.sqrt()],
        );
        close("weightedmean", [22.0 / 6.0, 11.0 / 6.0]);
    }
}
