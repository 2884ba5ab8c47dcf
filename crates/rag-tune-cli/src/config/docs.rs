//! The explanation of each key: the doc comment of its field, read from the source that was compiled.
//!
//! One text serves the code's reader and the user, so they cannot drift apart.

/// The files that hold the section structs.
const SOURCES: [&str; 9] = [
    include_str!("mod.rs"),
    include_str!("../../../rag-tune-model/src/config.rs"),
    include_str!("../../../rag-tune-augment/src/dataset/mod.rs"),
    include_str!("../../../rag-tune-augment/src/select/config.rs"),
    include_str!("../../../rag-tune-train/src/config/log.rs"),
    include_str!("../../../rag-tune-train/src/config/lora.rs"),
    include_str!("../../../rag-tune-train/src/config/train.rs"),
    include_str!("../../../rag-tune-train/src/config/validation.rs"),
    include_str!("../../../rag-tune-eval/src/config.rs"),
];

/// The doc comment of `field` in the struct `type_name`, a line a string; empty where there is none.
pub fn of_field(type_name: &str, field: &str) -> Vec<&'static str> {
    let opening = format!("pub struct {type_name} {{");
    let declaration = format!("pub {field}:");
    // A field whose name is a keyword of Rust.
    let raw_declaration = format!("pub r#{field}:");
    let Some(body) = SOURCES
        .iter()
        .find_map(|source| source.split_once(&opening))
        .map(|(_, body)| body)
    else {
        return Vec::new();
    };
    let mut comment = Vec::new();
    for line in body.lines().map(str::trim).take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim());
        } else if line.starts_with(&declaration) || line.starts_with(&raw_declaration) {
            return comment;
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    #[test]
    fn every_key_is_explained() {
        for section in schema::sections() {
            for key in section.keys {
                assert!(
                    !of_field(section.type_name, key).is_empty(),
                    "{}: {key}",
                    section.type_name
                );
            }
        }
    }
}
