//! vLLM's rules: `PEFTHelper.validate_legal`, `LoRAModel.from_local_checkpoint`, and what its Llama
//! layers do with the tensors (`vllm/lora/`).

use serde_json::Value;

use super::folder::Folder;
use super::{Outcome, Rule};

/// Modules of vLLM's Llama that take an adapter, by the names in adapters.
const MODULES: [&str; 9] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "embed_tokens",
    "lm_head",
];

/// What vLLM takes as `--max-lora-rank` (`MaxLoRARanks` in `vllm/config/lora.py`).
const RANK_LIMITS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

/// Starts that leave the base's weights as they are.
const PLAIN_STARTS: [&str; 5] = ["gaussian", "eva", "orthogonal", "mica", "lora_ga"];

pub fn rules(folder: &Folder<'_>, max_lora_rank: usize) -> Vec<Rule> {
    let rule = |name, outcome| Rule { name, outcome };
    vec![
        rule("required keys", required(folder)),
        rule("rank <= max_lora_rank", rank(folder, max_lora_rank)),
        rule("no DoRA", unset(folder, "use_dora")),
        rule("no `modules_to_save`", saved_modules(folder)),
        rule("no bias", bias(folder)),
        rule("no variant of LoRA", variant(folder)),
        rule("only LoRA factors", tensor_names(folder)),
        rule("modules of its Llama", modules(folder)),
        rule("every factor is there", folder.completeness()),
        rule("shapes", shapes(folder, max_lora_rank)),
        rule("types", Outcome::wrong(&folder.odd_types())),
        rule("rank and alpha patterns", patterns(folder)),
    ]
}

fn required(folder: &Folder<'_>) -> Outcome {
    let keys = ["r", "lora_alpha", "target_modules"];
    let missing = keys.into_iter().filter(|key| !folder.has(key));
    let missing: Vec<String> = missing.map(|key| format!("`{key}` is missing")).collect();
    Outcome::refused(&missing)
}

fn rank(folder: &Folder<'_>, max_lora_rank: usize) -> Outcome {
    if !RANK_LIMITS.contains(&max_lora_rank) {
        return Outcome::Refused(format!(
            "vLLM takes no --max-lora-rank {max_lora_rank}; it takes {RANK_LIMITS:?}"
        ));
    }
    match folder.largest_rank() {
        None => Outcome::Refused("a rank is not a positive number".to_owned()),
        Some(rank) if rank > max_lora_rank => {
            let large_enough = RANK_LIMITS.into_iter().find(|limit| *limit >= rank);
            let hint = match large_enough {
                Some(limit) => format!("start vLLM with --max-lora-rank {limit}"),
                None => "vLLM serves no more than 512".to_owned(),
            };
            Outcome::Refused(format!("rank {rank} is above {max_lora_rank}; {hint}"))
        }
        Some(_) => Outcome::Holds,
    }
}

fn unset(folder: &Folder<'_>, key: &str) -> Outcome {
    match folder.is_set(key) {
        true => Outcome::Refused(format!("`{key}` is set")),
        false => Outcome::Holds,
    }
}

fn saved_modules(folder: &Folder<'_>) -> Outcome {
    let saved = folder
        .config
        .get("modules_to_save")
        .and_then(Value::as_array);
    let names = saved.into_iter().flatten().filter_map(Value::as_str);
    // For classifiers, which a Llama that writes text is not; vLLM lets them through here.
    let refused = names.filter(|name| !["classifier", "score"].contains(name));
    let refused: Vec<String> = refused.map(|name| format!("it holds `{name}`")).collect();
    Outcome::refused(&refused)
}

fn bias(folder: &Folder<'_>) -> Outcome {
    match folder.config.get("bias").and_then(Value::as_str) {
        None | Some("none") => unset(folder, "lora_bias"),
        Some(bias) => Outcome::Refused(format!("`bias` is `{bias}`")),
    }
}

fn variant(folder: &Folder<'_>) -> Outcome {
    let keys = [
        "alora_invocation_tokens",
        "layer_replication",
        "use_bdlora",
        "use_qalora",
    ];
    if let Some(key) = keys.into_iter().find(|key| folder.is_set(key)) {
        return Outcome::Refused(format!("`{key}` is set"));
    }
    match folder
        .config
        .get("init_lora_weights")
        .and_then(Value::as_str)
    {
        Some(start) if !PLAIN_STARTS.contains(&start.to_ascii_lowercase().as_str()) => {
            Outcome::Refused(format!(
                "`init_lora_weights` is `{start}`, which changes the base's weights"
            ))
        }
        _ => Outcome::Holds,
    }
}

fn tensor_names(folder: &Folder<'_>) -> Outcome {
    let is_base_embedding = |module: &str, rest: &str| {
        rest == "base_layer.weight"
            && (module.ends_with("embed_tokens") || module.ends_with("lm_head"))
    };
    let others = folder.others.iter();
    let refused = others.filter(|(module, rest)| !is_base_embedding(module, rest));
    let refused: Vec<String> = refused
        .map(|(module, rest)| format!("`{module}.{rest}` is none"))
        .collect();
    Outcome::refused(&refused)
}

fn modules(folder: &Folder<'_>) -> Outcome {
    let is_known = |module: &&String| {
        let name = module.rsplit('.').next().unwrap_or_default();
        MODULES.contains(&name)
    };
    let unknown = folder.pairs.keys().filter(|module| !is_known(module));
    let unknown: Vec<String> = unknown
        .map(|module| format!("`{module}` is none"))
        .collect();
    Outcome::refused(&unknown)
}

/// vLLM copies each factor into a buffer of `max_lora_rank` and the base's width, and scales by the
/// config's rank whatever the tensors' is.
fn shapes(folder: &Folder<'_>, max_lora_rank: usize) -> Outcome {
    let too_large = folder.pairs.iter().filter_map(|(module, pair)| {
        let rank = *pair.a.as_ref()?.first()?;
        (rank > max_lora_rank).then(|| format!("`{module}` has rank {rank}"))
    });
    match Outcome::refused(&too_large.collect::<Vec<_>>()) {
        Outcome::Holds => Outcome::wrong(&folder.shape_problems()),
        refused => refused,
    }
}

fn patterns(folder: &Folder<'_>) -> Outcome {
    if folder.is_set("rank_pattern") || folder.is_set("alpha_pattern") {
        return Outcome::Note(
            "older releases (0.11 for one) ignore patterns, without a word, and scale every layer \
             by `lora_alpha` and `r`"
                .to_owned(),
        );
    }
    Outcome::Holds
}
