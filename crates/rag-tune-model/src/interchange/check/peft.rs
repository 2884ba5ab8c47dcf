//! PEFT's rules: `PeftModel.from_pretrained` on the base model.

use serde_json::Value;

use super::folder::Folder;
use super::{Outcome, Rule};

pub fn rules(folder: &Folder<'_>) -> Vec<Rule> {
    let rule = |name, outcome| Rule { name, outcome };
    vec![
        rule("`peft_type` is LORA", kind(folder)),
        rule("ranks are positive", ranks(folder)),
        rule("target modules", targets(folder)),
        rule("shapes", Outcome::refused(&folder.shape_problems())),
        rule("every factor is there", missing(folder)),
        rule("no tensor is left over", left_over(folder)),
        rule("types", Outcome::wrong(&folder.odd_types())),
        rule("base model's name", base_name(folder)),
    ]
}

fn kind(folder: &Folder<'_>) -> Outcome {
    match folder.config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Outcome::Holds,
        Some(other) => Outcome::Refused(format!("it is `{other}`; only LORA is checked")),
        None => Outcome::Refused("the key is missing".to_owned()),
    }
}

fn ranks(folder: &Folder<'_>) -> Outcome {
    match folder.largest_rank() {
        Some(_) => Outcome::Holds,
        None => Outcome::Refused("`r` or a `rank_pattern` is not a positive number".to_owned()),
    }
}

fn targets(folder: &Folder<'_>) -> Outcome {
    if !folder.is_set("target_modules") {
        // PEFT then uses a list of its own by architecture: q_proj and v_proj for a Llama.
        return Outcome::Wrong("`target_modules` is missing; PEFT guesses".to_owned());
    }
    if folder.targeted_projections().is_empty() && folder.base.is_some() {
        return Outcome::Refused("`target_modules` names no layer of the base model".to_owned());
    }
    Outcome::Holds
}

/// PEFT warns, and leaves what is missing as it was before training.
fn missing(folder: &Folder<'_>) -> Outcome {
    let mut problems = folder.halves();
    problems.extend(folder.absent());
    for module in folder.targeted_projections() {
        let has_magnitude = || {
            let mut others = folder.others.iter();
            others.any(|(of, rest)| *of == module && rest.starts_with("lora_magnitude_vector"))
        };
        if folder.is_set("use_dora") && !has_magnitude() {
            problems.push(format!("`{module}` has no `lora_magnitude_vector`"));
        }
    }
    Outcome::wrong(&problems)
}

/// PEFT ignores them without a word.
fn left_over(folder: &Folder<'_>) -> Outcome {
    let pairs = folder
        .pairs
        .keys()
        .filter(|module| !folder.is_target(module));
    let mut problems: Vec<String> = pairs
        .map(|module| format!("`{module}` is no target module; its factors are ignored"))
        .collect();
    for (module, rest) in &folder.others {
        if !is_expected(folder, module, rest) {
            problems.push(format!("`{module}.{rest}` is ignored"));
        }
    }
    Outcome::wrong(&problems)
}

fn is_expected(folder: &Folder<'_>, module: &str, rest: &str) -> bool {
    let saved = folder
        .config
        .get("modules_to_save")
        .and_then(Value::as_array);
    let is_saved = || {
        let mut names = saved.into_iter().flatten().filter_map(Value::as_str);
        names.any(|name| module.ends_with(name))
    };
    match rest {
        "bias" if module.ends_with(".lora_B") => folder.is_set("lora_bias"),
        "bias" => folder.config.get("bias").and_then(Value::as_str) != Some("none") || is_saved(),
        "base_layer.weight" => true,
        _ if rest.starts_with("lora_magnitude_vector") => {
            folder.is_set("use_dora") && folder.is_target(module)
        }
        _ => is_saved(),
    }
}

fn base_name(folder: &Folder<'_>) -> Outcome {
    let key = "`base_model_name_or_path`";
    match folder
        .config
        .get("base_model_name_or_path")
        .and_then(Value::as_str)
    {
        None | Some("") => Outcome::Note(format!("{key} is missing; only AutoPeftModel needs it")),
        Some(name) if name.starts_with(['/', '~', '.']) || name.contains('\\') => Outcome::Note(
            format!("{key} is a path, which other machines do not have: `{name}`"),
        ),
        Some(_) => Outcome::Holds,
    }
}
