//! What others may know of a name in a config: hub ids, and no folders of this machine.

use std::path::{Component, Path};

/// How a base model, data set or embedder is called in files that are meant for others: a hub id as
/// it is, of a path the last part without `.gguf`.
pub fn public_name(name: &str) -> String {
    if is_hub_id(name) {
        return name.to_owned();
    }
    let path = Path::new(name);
    // `.` and `..` have no name of their own.
    let ends_in_dots = !matches!(path.components().next_back(), Some(Component::Normal(_)));
    let resolved = ends_in_dots.then(|| path.canonicalize().ok()).flatten();
    let path = resolved.as_deref().unwrap_or(path);
    let is_gguf = path
        .extension()
        .is_some_and(|extension| extension == "gguf");
    let own = if is_gguf {
        path.file_stem()
    } else {
        path.file_name()
    };
    own.map_or_else(
        || "unnamed".to_owned(),
        |own| own.to_string_lossy().into_owned(),
    )
}

/// Whether a name is `OWNER/NAME` and no path here.
pub fn is_hub_id(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.split_once('/')
        .is_some_and(|(owner, own)| is_part(owner) && is_part(own))
        && !name.ends_with(".gguf")
        && !Path::new(name).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_its_last_part_only() {
        assert_eq!(public_name("owner/llama-7b.v1"), "owner/llama-7b.v1");
        assert_eq!(public_name("/home/me/models/llama"), "llama");
        assert_eq!(public_name("../llama/"), "llama");
        assert_eq!(public_name("models/llama.Q8_0.gguf"), "llama.Q8_0");
        assert_eq!(public_name("llama"), "llama");
        assert_eq!(public_name("~/x/llama"), "llama");
        // An existing folder is meant as one, however much it looks like an id.
        assert_eq!(public_name("src/commands"), "commands");
        assert_eq!(public_name("."), "rag-tune-cli");
        assert_eq!(public_name("/"), "unnamed");
    }
}
