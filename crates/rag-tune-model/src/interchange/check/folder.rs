//! What the programs' rules ask of an adapter folder.

use std::collections::BTreeMap;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value};

use super::super::{AdapterFiles, StoredFactor};
use super::Outcome;
use crate::config::LlamaConfig;
use crate::lora::Projection;
use crate::lora_settings::compiled;

/// What PEFT puts before the names of the base model's modules.
const PREFIX: &str = "base_model.model.";

/// An adapter folder, its tensors sorted by module.
pub struct Folder<'a> {
    pub config: &'a Map<String, Value>,
    pub base: Option<&'a LlamaConfig>,
    /// Every tensor.
    pub tensors: Vec<StoredFactor>,
    /// The pairs of factors by module name, for instance `model.layers.0.self_attn.q_proj`.
    pub pairs: BTreeMap<String, Pair>,
    /// Tensors that are no factor of a pair: their module, and what they are of it.
    pub others: Vec<(String, String)>,
}

/// `A` and `B` of one module.
#[derive(Debug, Default, Clone)]
pub struct Pair {
    /// `[rank, in]`
    pub a: Option<Vec<usize>>,
    /// `[out, rank]`
    pub b: Option<Vec<usize>>,
}

impl<'a> Folder<'a> {
    pub fn new(files: &'a AdapterFiles, base: Option<&'a LlamaConfig>) -> Self {
        let tensors = files.stored();
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        let mut others = Vec::new();
        for tensor in &tensors {
            let name = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
            let factor = |suffixes: [&str; 2]| {
                let mut found = suffixes.iter().filter_map(|end| name.strip_suffix(end));
                found.next().map(str::to_owned)
            };
            if let Some(module) = factor([".lora_A.weight", ".lora_embedding_A"]) {
                pairs.entry(module).or_default().a = Some(tensor.shape.clone());
            } else if let Some(module) = factor([".lora_B.weight", ".lora_embedding_B"]) {
                pairs.entry(module).or_default().b = Some(tensor.shape.clone());
            } else {
                others.push(module_and_rest(name));
            }
        }
        Self {
            config: files.config(),
            base,
            tensors,
            pairs,
            others,
        }
    }

    /// Whether a key is true, or a list, map or text with something in it.
    pub fn is_set(&self, key: &str) -> bool {
        match self.config.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(set)) => *set,
            Some(Value::Array(values)) => !values.is_empty(),
            Some(Value::Object(values)) => !values.is_empty(),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        }
    }

    /// Whether the key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.config.contains_key(key)
    }

    /// `r`, 8 where it is left out as in PEFT; `None` where it is no positive number.
    pub fn rank(&self) -> Option<usize> {
        match self.config.get("r") {
            None => Some(8),
            Some(value) => positive(value),
        }
    }

    /// The rank that the config gives a module.
    pub fn rank_at(&self, module: &str) -> Option<usize> {
        match self.pattern("rank_pattern", module) {
            Some(value) => positive(value),
            None => self.rank(),
        }
    }

    /// The largest rank in the config.
    pub fn largest_rank(&self) -> Option<usize> {
        let patterns = self.config.get("rank_pattern").and_then(Value::as_object);
        let ranks = patterns.into_iter().flat_map(Map::values).map(positive);
        ranks
            .chain([self.rank()])
            .try_fold(0, |largest, rank| Some(largest.max(rank?)))
    }

    /// The value of the first key of a pattern map, in the file's order, that matches as PEFT matches it.
    fn pattern(&self, key: &str, module: &str) -> Option<&Value> {
        let patterns = self.config.get(key)?.as_object()?;
        let matches = |pattern: &str| compiled(pattern).is_ok_and(|regex| regex.is_match(module));
        let found = patterns.iter().find(|(pattern, _)| matches(pattern));
        found.map(|(_, value)| value)
    }

    /// Whether PEFT puts an adapter on a module.
    pub fn is_target(&self, module: &str) -> bool {
        self.is_layer_target(module)
            && match self.config.get("target_modules") {
                Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => {
                    projection_of(module).is_some()
                }
                Some(Value::String(pattern)) => regex::Regex::new(&format!("^(?:{pattern})$"))
                    .is_ok_and(|regex| regex.is_match(module)),
                Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(|name| {
                    module == name
                        || module
                            .strip_suffix(name)
                            .is_some_and(|rest| rest.ends_with('.'))
                }),
                _ => false,
            }
    }

    fn is_layer_target(&self, module: &str) -> bool {
        let index = module
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        match (self.config.get("layers_to_transform"), index) {
            (None | Some(Value::Null), _) => true,
            (Some(Value::Number(only)), Some(index)) => only.as_u64() == Some(index),
            (Some(Value::Array(layers)), Some(index)) => {
                layers.iter().any(|layer| layer.as_u64() == Some(index))
            }
            _ => false,
        }
    }

    /// The linear layers of the base's blocks that PEFT would put an adapter on. Without the base, as
    /// many blocks are assumed as tensors speak of.
    pub fn targeted_projections(&self) -> Vec<String> {
        let layers = match self.base {
            Some(base) => base.num_hidden_layers,
            None => {
                let last = self.pairs.keys().filter_map(|module| projection_of(module));
                last.map(|(layer, _)| layer + 1).max().unwrap_or(0)
            }
        };
        let modules = (0..layers).flat_map(|layer| {
            Projection::ALL.map(|projection| format!("model.layers.{layer}.{}", projection.path()))
        });
        modules.filter(|module| self.is_target(module)).collect()
    }

    /// `[out, in]` of a module's weight, where the base is known and has it.
    fn weight_shape(&self, module: &str) -> Option<[usize; 2]> {
        let base = self.base?;
        let (layer, projection) = projection_of(module)?;
        (layer < base.num_hidden_layers).then(|| projection.shape(base))
    }

    /// Pairs that do not fit the config's ranks or the base's weights.
    pub fn shape_problems(&self) -> Vec<String> {
        self.misfits(|module| self.rank_at(module))
    }

    /// Pairs that do not fit the base's weights.
    pub fn base_shape_problems(&self) -> Vec<String> {
        self.misfits(|_| None)
    }

    fn misfits(&self, rank_at: impl Fn(&str) -> Option<usize>) -> Vec<String> {
        let mut problems = Vec::new();
        for (module, pair) in &self.pairs {
            let rank = rank_at(module);
            let [out_features, in_features] = match self.weight_shape(module) {
                Some(shape) => shape.map(Some),
                None => [None, None],
            };
            let expected = [
                ("lora_A", &pair.a, [rank, in_features]),
                ("lora_B", &pair.b, [out_features, rank]),
            ];
            for (factor, shape, expected) in expected {
                let Some(shape) = shape else { continue };
                if !fits(shape, expected) {
                    let expected = expected
                        .map(|size| size.map_or_else(|| "any".to_owned(), |size| size.to_string()));
                    problems.push(format!(
                        "`{factor}` of `{module}` is {shape:?}, expected [{}]",
                        expected.join(", ")
                    ));
                }
            }
        }
        problems
    }

    /// Modules with one factor only.
    pub fn halves(&self) -> Vec<String> {
        let halves = self.pairs.iter().filter_map(|(module, pair)| {
            let missing = match (&pair.a, &pair.b) {
                (None, _) => "lora_A",
                (_, None) => "lora_B",
                _ => return None,
            };
            Some(format!("`{module}` has no `{missing}`"))
        });
        halves.collect()
    }

    /// Layers that PEFT would put an adapter on, and that have none.
    pub fn absent(&self) -> Vec<String> {
        let targeted = self.targeted_projections().into_iter();
        let absent = targeted.filter(|module| !self.pairs.contains_key(module));
        absent
            .map(|module| format!("`{module}` has no factors"))
            .collect()
    }

    /// What programs say that refuse half a pair, and do not miss a whole one.
    pub fn completeness(&self) -> Outcome {
        match Outcome::refused(&self.halves()) {
            Outcome::Holds => Outcome::wrong(&self.absent()),
            refused => refused,
        }
    }

    /// Tensors that are not of plain floating point numbers.
    pub fn odd_types(&self) -> Vec<String> {
        let is_float = |dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64);
        let odd = self.tensors.iter().filter(|tensor| !is_float(tensor.dtype));
        odd.map(|tensor| format!("`{}` is of type {:?}", tensor.name, tensor.dtype))
            .collect()
    }
}

fn fits(shape: &[usize], expected: [Option<usize>; 2]) -> bool {
    shape.len() == 2
        && shape
            .iter()
            .zip(expected)
            .all(|(size, expected)| expected.is_none_or(|expected| *size == expected))
}

fn positive(value: &Value) -> Option<usize> {
    let number = value.as_u64().filter(|number| *number > 0)?;
    usize::try_from(number).ok()
}

/// `model.layers.0.mlp.up_proj.lora_magnitude_vector` is of the module `model.layers.0.mlp.up_proj`.
fn module_and_rest(name: &str) -> (String, String) {
    for part in [
        ".lora_magnitude_vector",
        ".base_layer.weight",
        ".weight",
        ".bias",
    ] {
        if let Some(at) = name.find(part) {
            return (name[..at].to_owned(), name[at + 1..].to_owned());
        }
    }
    (name.to_owned(), String::new())
}

/// The block and the layer that a module's name stands for.
pub fn projection_of(module: &str) -> Option<(usize, Projection)> {
    let (layer, path) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let mut all = Projection::ALL.into_iter();
    let projection = all.find(|projection| projection.path() == path)?;
    Some((layer.parse().ok()?, projection))
}
