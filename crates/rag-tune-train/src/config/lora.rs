//! `[lora]`: which layers learn, and how much.

use std::collections::{BTreeMap, BTreeSet};

use rag_tune_model::lora::{BLOCKS_ONLY, Projection};
use rag_tune_model::lora_settings::{LoraSettings, check_pattern};
use serde::{Deserialize, Serialize};

/// `[lora]`: which layers learn, and how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of `A` and `B`. Memory and time grow with it; 8 to 64 is usual.
    pub rank: usize,
    /// Numerator of `scaling = alpha / rank`.
    pub alpha: f32,
    /// Probability with which an input of `A` is dropped in training, in `[0, 1)`.
    pub dropout: f32,
    /// Layers that get an adapter: any of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or
    /// "all-linear" for all seven, which excludes lm_head as in PEFT (why: docs/adapters.md).
    pub target_modules: Targets,
    /// Ranks of some layers in place of `rank`, by name or regular expression as in PEFT, such as
    /// `{ "layers.0.self_attn.q_proj" = 32 }`.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of some layers in place of `alpha`, as `rank_pattern`.
    pub alpha_pattern: BTreeMap<String, f32>,
    /// rsLoRA: `scaling = alpha / sqrt(rank)`, which keeps high ranks learning.
    pub use_rslora: bool,
    /// DoRA: every row of an adapted layer also has a learned length. Learns more at small ranks, for half again
    /// as much time in these layers; with `dropout` above 0 two and a half times as much.
    pub use_dora: bool,
    /// LoRA+: `B`, and DoRA's lengths, learn at this multiple of the learning rate; 16 is usual, 1 is plain LoRA.
    pub loraplus_lr_ratio: f32,
}

impl Default for LoraConfig {
    fn default() -> Self {
        use Projection::{K, O, Q, V};
        Self {
            rank: 16,
            alpha: 16.0,
            dropout: 0.05,
            target_modules: Targets::Named(BTreeSet::from([Q, K, V, O])),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            loraplus_lr_ratio: 1.0,
        }
    }
}

impl LoraConfig {
    /// Every problem of the section, each naming its key.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                problems.push(text);
            }
        };
        check(
            (1..=1024).contains(&self.rank),
            format!("`lora.rank` must be 1 to 1024, got {}", self.rank),
        );
        check(
            self.alpha > 0.0 && self.alpha.is_finite(),
            format!("`lora.alpha` must be above 0, got {}", self.alpha),
        );
        check(
            (0.0..1.0).contains(&self.dropout),
            format!(
                "`lora.dropout` must be at least 0 and below 1, got {}",
                self.dropout
            ),
        );
        check(
            !self.target_modules.projections().is_empty(),
            "`lora.target_modules` must name at least one layer".to_owned(),
        );
        check(
            self.loraplus_lr_ratio > 0.0 && self.loraplus_lr_ratio.is_finite(),
            format!(
                "`lora.loraplus_lr_ratio` must be above 0, got {}",
                self.loraplus_lr_ratio
            ),
        );
        for (key, pattern) in &self.rank_pattern {
            check(
                (1..=1024).contains(pattern),
                format!(
                    "`lora.rank_pattern`: the rank of `{key}` must be 1 to 1024, got {pattern}"
                ),
            );
        }
        for (key, alpha) in &self.alpha_pattern {
            check(
                *alpha > 0.0 && alpha.is_finite(),
                format!("`lora.alpha_pattern`: the alpha of `{key}` must be above 0, got {alpha}"),
            );
        }
        for key in self.rank_pattern.keys().chain(self.alpha_pattern.keys()) {
            if let Err(problem) = check_pattern(key) {
                problems.push(format!(
                    "`lora`: the pattern `{key}` is no regular expression: {problem}"
                ));
            }
        }
        problems
    }

    /// What the adapter's tensors depend on.
    pub fn settings(&self) -> LoraSettings {
        LoraSettings {
            rank: self.rank,
            alpha: self.alpha,
            targets: self.target_modules.projections(),
            only: None,
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
        }
    }
}

/// Which layers of each block learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "TargetNames")]
pub enum Targets {
    /// These.
    Named(BTreeSet<Projection>),
    /// All seven.
    All(AllLinear),
}

/// The word for all layers, PEFT's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllLinear {
    /// Every linear layer of the blocks.
    #[serde(rename = "all-linear")]
    AllLinear,
}

/// [`Targets`] before the names are known to be names.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"all-linear\" or a list of layers")]
enum TargetNames {
    Word(String),
    List(Vec<String>),
}

impl TryFrom<TargetNames> for Targets {
    type Error = String;

    fn try_from(names: TargetNames) -> Result<Self, String> {
        let names = match names {
            TargetNames::Word(word) if word == "all-linear" => {
                return Ok(Self::All(AllLinear::AllLinear));
            }
            TargetNames::Word(word) => vec![word],
            TargetNames::List(names) => {
                if let Ok(known) = names
                    .iter()
                    .map(|name| projection(name).ok_or(()))
                    .collect()
                {
                    return Ok(Self::Named(known));
                }
                names
            }
        };
        if names
            .iter()
            .any(|name| name == "lm_head" || name == "embed_tokens")
        {
            return Err(BLOCKS_ONLY.to_owned());
        }
        let all = Projection::ALL.map(Projection::name).join(", ");
        Err(format!(
            "expected \"all-linear\" or a list of layers: any of {all}"
        ))
    }
}

fn projection(name: &str) -> Option<Projection> {
    let mut all = Projection::ALL.into_iter();
    all.find(|projection| projection.name() == name)
}

impl Targets {
    /// The layers, in the order of a block's forward pass.
    pub fn projections(&self) -> BTreeSet<Projection> {
        match self {
            Self::Named(named) => named.clone(),
            Self::All(_) => Projection::ALL.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_original_experiment() {
        let config = LoraConfig::default();
        assert!(config.validate().is_empty());
        assert_eq!(config.settings().scaling_at((0, Projection::Q)), 1.0);
    }

    #[test]
    fn all_linear_is_all_seven() {
        let config: LoraConfig = toml::from_str("target_modules = \"all-linear\"").unwrap();
        assert_eq!(config.settings().targets.len(), 7);
        let error = toml::from_str::<LoraConfig>("target_modules = \"all\"").unwrap_err();
        assert!(
            error.to_string().contains("\"all-linear\" or a list"),
            "{error}"
        );
    }

    #[test]
    fn the_head_is_refused_with_the_reason() {
        for (value, said) in [
            ("[\"q_proj\", \"lm_head\"]", "may be the embedding itself"),
            ("\"lm_head\"", "llama.cpp refuses"),
            ("[\"query\"]", "any of q_proj, k_proj"),
            ("7", "\"all-linear\" or a list"),
        ] {
            let error = toml::from_str::<LoraConfig>(&format!("target_modules = {value}"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(said), "{value}: {error}");
        }
    }

    #[test]
    fn patterns_are_checked() {
        let config = LoraConfig {
            rank_pattern: [("q_proj(".to_owned(), 0)].into(),
            alpha_pattern: [("k_proj".to_owned(), f32::NAN)].into(),
            ..Default::default()
        };
        assert_eq!(config.validate().len(), 3, "{:?}", config.validate());
    }
}
