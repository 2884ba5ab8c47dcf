//! Which layers `adapter_config.json` means, as PEFT's `check_target_module_exists` reads it.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;

use crate::error::ModelError;
use crate::lora::{Place, Projection};
use crate::lora_settings::{LoraSettings, module_name};

/// Modules of a Llama that have a weight, and are never adapted here.
const OTHERS: [&str; 2] = ["lm_head", "model.embed_tokens"];
/// PEFT's word for every linear layer but the head.
const ALL_LINEAR: &str = "all-linear";

/// Whether a module is meant.
type Test<'a> = Box<dyn Fn(&str) -> bool + 'a>;

/// A regular expression for whole names, or names and their ends after a dot.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Modules {
    Pattern(String),
    Names(Vec<String>),
}

impl Modules {
    /// Whether each module is meant.
    fn matcher(&self, path: &Path, key: &str) -> Result<Test<'_>, ModelError> {
        match self {
            Self::Pattern(pattern) => {
                let regex = whole(path, key, pattern)?;
                Ok(Box::new(move |module| regex.is_match(module)))
            }
            Self::Names(names) => Ok(Box::new(move |module| {
                names.iter().any(|name| {
                    let rest = module.strip_suffix(name.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                })
            })),
        }
    }
}

fn whole(path: &Path, key: &str, pattern: &str) -> Result<Regex, ModelError> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let detail = format!("`{key}`: `{pattern}` is no regular expression: {error}");
        ModelError::corrupt(path, detail)
    })
}

/// The keys that choose layers.
pub(super) struct Wanted {
    pub(super) target: Option<Modules>,
    pub(super) exclude: Option<Modules>,
    pub(super) layers: Option<Vec<usize>>,
    pub(super) layers_pattern: Option<Vec<String>>,
}

impl Wanted {
    /// The layers that are meant, of a model of so many blocks.
    pub(super) fn places(&self, path: &Path, blocks: usize) -> Result<BTreeSet<Place>, ModelError> {
        let Some(target) = &self.target else {
            let detail = "it names no `target_modules`";
            return Err(ModelError::corrupt(path, detail));
        };
        let excluded: Test<'_> = match &self.exclude {
            Some(exclude) => exclude.matcher(path, "exclude_modules")?,
            None => Box::new(|_| false),
        };
        let all_linear =
            matches!(target, Modules::Pattern(word) if word.eq_ignore_ascii_case(ALL_LINEAR));
        let targeted: Test<'_> = match all_linear {
            true => Box::new(|module| !OTHERS.contains(&module)),
            false => target.matcher(path, "target_modules")?,
        };
        let in_layers = self.in_layers(path, target)?;
        let wanted = |module: &str| targeted(module) && !excluded(module) && in_layers(module);
        if let Some(module) = OTHERS.into_iter().find(|module| wanted(module)) {
            return Err(ModelError::AdapterOutsideBlocks {
                path: path.to_owned(),
                module,
            });
        }
        let all =
            (0..blocks).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
        let places: BTreeSet<Place> = all.filter(|place| wanted(&module_name(*place))).collect();
        if places.is_empty() {
            return Err(ModelError::AdapterMismatch {
                path: path.to_owned(),
                detail: "`target_modules` names no layer of it".to_owned(),
            });
        }
        Ok(places)
    }

    /// `layers_to_transform`, which PEFT takes with a list of names only.
    fn in_layers(&self, path: &Path, target: &Modules) -> Result<Test<'_>, ModelError> {
        let Some(layers) = self.layers.as_ref().filter(|layers| !layers.is_empty()) else {
            return Ok(Box::new(|_| true));
        };
        if let Modules::Pattern(pattern) = target {
            let detail = format!("`layers_to_transform` goes with a list, not with `{pattern}`");
            return Err(ModelError::corrupt(path, detail));
        }
        let patterns = self.layers_pattern.iter().flatten();
        let patterns = patterns.filter(|pattern| !pattern.is_empty());
        let mut regexes = patterns
            .map(|pattern| {
                whole(
                    path,
                    "layers_pattern",
                    &format!(r"(?:.*?\.)?{pattern}\.(\d+)\..*"),
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        if regexes.is_empty() {
            regexes.push(whole(path, "layers_pattern", r".*?\.[^.]*\.(\d+)\..*")?);
        }
        Ok(Box::new(move |module| {
            let found = regexes.iter().find_map(|regex| regex.captures(module));
            let index = found.and_then(|found| found[1].parse().ok());
            index.is_some_and(|index| layers.contains(&index))
        }))
    }
}

/// The keys that choose an adapter's layers, for writing.
pub(super) struct Selection {
    pub(super) target_modules: Vec<String>,
    pub(super) layers_to_transform: Option<Vec<usize>>,
}

impl Selection {
    /// Names of layers in all or some blocks; where that is not enough, full names.
    pub(super) fn of(settings: &LoraSettings) -> Self {
        let names = || {
            settings
                .targets
                .iter()
                .map(|target| target.name().to_owned())
        };
        let Some(only) = &settings.only else {
            return Self {
                target_modules: names().collect(),
                layers_to_transform: None,
            };
        };
        let layers: BTreeSet<usize> = only.iter().map(|(layer, _)| *layer).collect();
        if layers.len() * settings.targets.len() == only.len() {
            return Self {
                target_modules: names().collect(),
                layers_to_transform: Some(layers.into_iter().collect()),
            };
        }
        Self {
            target_modules: only.iter().map(|place| module_name(*place)).collect(),
            layers_to_transform: None,
        }
    }
}
