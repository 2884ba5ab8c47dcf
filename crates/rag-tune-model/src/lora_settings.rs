//! How an adapter is shaped and scaled: ranks, alphas, targets, in PEFT's terms.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::error::ModelError;
use crate::lora::{Place, Projection};

/// The settings of an adapter that its tensors depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSettings {
    /// Rank of the updates that no pattern names.
    pub rank: usize,
    /// Numerator of `scaling` of the updates that no pattern names.
    pub alpha: f32,
    /// The layers of each block that are adapted.
    pub targets: BTreeSet<Projection>,
    /// All that are adapted, where those are not the `targets` of every block, as an adapter made
    /// with PEFT's `layers_to_transform` or `exclude_modules` may have it.
    pub only: Option<BTreeSet<Place>>,
    /// Ranks of some layers, by a pattern as PEFT reads it: see [`LoraSettings::rank_at`].
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of some layers, by a pattern as PEFT reads it.
    pub alpha_pattern: BTreeMap<String, f32>,
    /// `scaling = alpha / sqrt(rank)` (arXiv:2312.03732) in place of `alpha / rank`.
    pub use_rslora: bool,
    /// DoRA (arXiv:2402.09353): every row of an adapted weight has a learned length.
    pub use_dora: bool,
}

impl LoraSettings {
    /// One rank and one alpha for all of `targets`.
    pub fn uniform(rank: usize, alpha: f32, targets: impl IntoIterator<Item = Projection>) -> Self {
        Self {
            rank,
            alpha,
            targets: targets.into_iter().collect(),
            only: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
        }
    }

    /// The layers that are adapted in a model of so many blocks.
    pub fn places(&self, blocks: usize) -> BTreeSet<Place> {
        match &self.only {
            Some(only) => only.clone(),
            None => (0..blocks)
                .flat_map(|layer| self.targets.iter().map(move |target| (layer, *target)))
                .collect(),
        }
    }

    /// The rank of one layer: that of the first pattern, by name, that matches its module name
    /// (`model.layers.3.self_attn.q_proj`) from its start or from a dot, to its end.
    pub fn rank_at(&self, place: Place) -> usize {
        matching(&self.rank_pattern, place).unwrap_or(self.rank)
    }

    /// The alpha of one layer, as [`LoraSettings::rank_at`].
    pub fn alpha_at(&self, place: Place) -> f32 {
        matching(&self.alpha_pattern, place).unwrap_or(self.alpha)
    }

    /// Checks that every pattern is of a layer that is adapted, in a model of so many blocks.
    ///
    /// # Errors
    /// [`ModelError::PatternMatchesNothing`]: a slip, without which the layer would have another rank or alpha.
    pub fn check_patterns(&self, blocks: usize) -> Result<(), ModelError> {
        let places = self.places(blocks);
        let names: Vec<String> = places.into_iter().map(module_name).collect();
        for pattern in self.rank_pattern.keys().chain(self.alpha_pattern.keys()) {
            let regex = compiled(pattern);
            if !regex.is_ok_and(|regex| names.iter().any(|name| regex.is_match(name))) {
                let pattern = pattern.clone();
                return Err(ModelError::PatternMatchesNothing { pattern });
            }
        }
        Ok(())
    }

    /// What one layer's update is multiplied by.
    pub fn scaling_at(&self, place: Place) -> f32 {
        let rank = self.rank_at(place) as f32;
        let divisor = if self.use_rslora { rank.sqrt() } else { rank };
        self.alpha_at(place) / divisor
    }
}

/// Checks a pattern of `rank_pattern` or `alpha_pattern`.
///
/// # Errors
/// What is wrong with it as a regular expression.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    compiled(pattern)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// PEFT's `get_pattern_key`: `re.match(rf"(.*\.)?({key})$", name)`.
pub(crate) fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
}

/// A layer's name among the modules of Hugging Face's Llama: `model.layers.3.self_attn.q_proj`.
pub(crate) fn module_name((layer, projection): Place) -> String {
    format!("model.layers.{layer}.{}", projection.path())
}

fn matching<T: Copy>(patterns: &BTreeMap<String, T>, place: Place) -> Option<T> {
    let name = module_name(place);
    let found = patterns
        .iter()
        .find(|(pattern, _)| compiled(pattern).is_ok_and(|regex| regex.is_match(&name)));
    found.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_a_layer_or_a_kind_of_layer() {
        let mut settings = LoraSettings::uniform(8, 16.0, Projection::ALL);
        settings.rank_pattern = [
            ("q_proj".to_owned(), 4),
            ("layers.1.mlp.up_proj".to_owned(), 2),
        ]
        .into();
        settings.alpha_pattern = [(r"model.layers.\d+.self_attn.[qk]_proj".to_owned(), 6.0)].into();
        assert_eq!(settings.rank_at((0, Projection::Q)), 4);
        assert_eq!(settings.rank_at((1, Projection::Up)), 2);
        assert_eq!(settings.rank_at((0, Projection::Up)), 8);
        assert_eq!(settings.rank_at((11, Projection::Up)), 8, "11 is not 1");
        assert_eq!(settings.alpha_at((0, Projection::K)), 6.0);
        assert_eq!(settings.scaling_at((0, Projection::Q)), 1.5);
        settings.use_rslora = true;
        assert_eq!(settings.scaling_at((0, Projection::Q)), 3.0);
        assert!(check_pattern("q_proj(").is_err());
    }

    #[test]
    fn a_pattern_of_no_adapted_layer_is_named() {
        let mut settings = LoraSettings::uniform(8, 16.0, [Projection::Q, Projection::V]);
        settings.rank_pattern = [("q_proj".to_owned(), 4)].into();
        settings.alpha_pattern = [("layers.1.self_attn.v_proj".to_owned(), 2.0)].into();
        settings.check_patterns(2).unwrap();
        // The second block is not there; up_proj does not learn.
        assert!(settings.check_patterns(1).is_err());
        settings.rank_pattern = [("up_proj".to_owned(), 4)].into();
        let error = settings.check_patterns(2).unwrap_err().to_string();
        assert!(error.contains("`up_proj`"), "{error}");
    }
}
