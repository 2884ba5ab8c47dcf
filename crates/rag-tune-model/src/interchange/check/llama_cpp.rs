//! The rules of llama.cpp's `convert_lora_to_gguf.py`, and of loading what it writes.
//!
//! `rag-tune export --format gguf` is another way to the same file, which reads what this one does not.

use serde_json::Value;

use super::folder::{Folder, projection_of};
use super::{Outcome, Rule};

pub fn rules(folder: &Folder<'_>) -> Vec<Rule> {
    let rule = |name, outcome| Rule { name, outcome };
    vec![
        rule("`lora_alpha` is there", alpha(folder)),
        rule("no DoRA", dora(folder)),
        rule("only LoRA factors", tensor_names(folder)),
        rule("every factor is there", folder.completeness()),
        rule("modules of its Llama", modules(folder)),
        rule("shapes", shapes(folder)),
        rule("no rsLoRA", unread(folder, "use_rslora")),
        rule("no alpha pattern", unread(folder, "alpha_pattern")),
        rule("types", Outcome::wrong(&folder.odd_types())),
    ]
}

fn alpha(folder: &Folder<'_>) -> Outcome {
    match folder.config.get("lora_alpha").and_then(Value::as_f64) {
        None => Outcome::Refused("the converter asks for it".to_owned()),
        Some(0.0) => {
            Outcome::Wrong("it is 0, for which llama.cpp does not scale at all".to_owned())
        }
        Some(_) => Outcome::Holds,
    }
}

fn dora(folder: &Folder<'_>) -> Outcome {
    match folder.is_set("use_dora") {
        true => Outcome::Refused("llama.cpp knows no magnitudes; merge the adapter".to_owned()),
        false => Outcome::Holds,
    }
}

fn tensor_names(folder: &Folder<'_>) -> Outcome {
    let is_norm = |module: &str| module.contains("_layernorm") || module.contains(".norm");
    let (mut refused, mut unused) = (Vec::new(), Vec::new());
    for (module, rest) in &folder.others {
        if rest == "base_layer.weight" {
            continue; // the converter skips the weight of an adapted embedding
        }
        if is_norm(module) {
            unused.push(format!("`{module}.{rest}` is carried along and not used"));
        } else {
            refused.push(format!("`{module}.{rest}` is none"));
        }
    }
    match Outcome::refused(&refused) {
        Outcome::Holds => Outcome::wrong(&unused),
        refused => refused,
    }
}

fn modules(folder: &Folder<'_>) -> Outcome {
    let mut refused = Vec::new();
    let mut ties = None;
    for module in folder.pairs.keys() {
        match module.as_str() {
            "model.embed_tokens" => {}
            "lm_head" => ties = Some(folder.base.map(|base| base.tie_word_embeddings)),
            _ if projection_of(module).is_some() => {}
            _ => refused.push(format!("`{module}` is none")),
        }
    }
    match (Outcome::refused(&refused), ties) {
        (Outcome::Holds, Some(Some(true))) => {
            Outcome::Refused("`lm_head` is the base's embedding, which it leaves out".to_owned())
        }
        (Outcome::Holds, Some(None)) => Outcome::Note(
            "an adapter on `lm_head` is refused where the base ties it to its embedding".to_owned(),
        ),
        (outcome, _) => outcome,
    }
}

/// Each pair must fit together and to the base; the config's rank is not read.
fn shapes(folder: &Folder<'_>) -> Outcome {
    let apart = folder.pairs.iter().filter_map(|(module, pair)| {
        let (a, b) = (pair.a.as_ref()?, pair.b.as_ref()?);
        (a.len() != 2 || b.len() != 2 || a[0] != b[1])
            .then(|| format!("`{module}` has factors of {a:?} and {b:?}"))
    });
    match Outcome::refused(&apart.collect::<Vec<_>>()) {
        Outcome::Holds => Outcome::refused(&folder.base_shape_problems()),
        refused => refused,
    }
}

fn unread(folder: &Folder<'_>, key: &str) -> Outcome {
    match folder.is_set(key) {
        true => Outcome::Wrong(format!(
            "the converter does not read `{key}`; `rag-tune export --format gguf` does"
        )),
        false => Outcome::Holds,
    }
}
