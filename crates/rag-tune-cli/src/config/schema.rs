//! Which sections and keys a config has, taken from the structs themselves.

use rag_tune_augment::{DataConfig, RetrievalConfig};
use rag_tune_eval::EvalConfig;
use rag_tune_model::config::ModelConfig;
use rag_tune_train::config::{LogConfig, LoraConfig, TrainConfig, ValidationConfig};
use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};

use super::RunConfig;

/// A section of the config and its keys, in the order of the struct.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// As in `[name]`; empty for the keys above the first section.
    pub name: &'static str,
    /// The struct that holds it.
    pub type_name: &'static str,
    /// Its keys. The top level also lists the sections.
    pub keys: &'static [&'static str],
}

/// All sections, the top level first.
pub fn sections() -> [Section; 9] {
    [
        section::<RunConfig>(""),
        section::<ModelConfig>("model"),
        section::<DataConfig>("data"),
        section::<RetrievalConfig>("retrieval"),
        section::<LoraConfig>("lora"),
        section::<TrainConfig>("train"),
        section::<ValidationConfig>("validation"),
        section::<EvalConfig>("eval"),
        section::<LogConfig>("log"),
    ]
}

/// The section of that name.
pub fn find(name: &str) -> Option<Section> {
    sections().into_iter().find(|section| section.name == name)
}

/// What the user probably meant by a key that `section` does not have.
pub fn suggest_key(section: &Section, unknown: &str) -> Option<String> {
    if let Some(near) = nearest(unknown, section.keys.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let owner = sections()
        .into_iter()
        .find(|other| other.keys.contains(&unknown))?;
    Some(match owner.name {
        "" => format!("`{unknown}` belongs above the first section"),
        name => format!("`{unknown}` belongs to `[{name}]`"),
    })
}

/// The section whose name is nearest to `unknown`.
pub fn suggest_section(unknown: &str) -> Option<&'static str> {
    nearest(unknown, sections().into_iter().map(|section| section.name))
}

/// The candidate with the fewest typing mistakes, if they are few for the word's length.
fn nearest(word: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let best = candidates.min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= word.chars().count() / 3).then_some(best)
}

fn section<T: for<'de> Deserialize<'de>>(name: &'static str) -> Section {
    let mut section = Section {
        name,
        type_name: "",
        keys: &[],
    };
    let listened = T::deserialize(Probe {
        section: &mut section,
    });
    debug_assert!(
        listened.is_err(),
        "the probe answers every struct with an error"
    );
    section
}

/// A deserializer that only listens which struct and fields are asked of it.
struct Probe<'a> {
    section: &'a mut Section,
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.section.type_name = name;
        self.section.keys = fields;
        Err(Error::custom("only listening"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_the_structs() {
        let lora = find("lora").unwrap();
        assert_eq!(lora.type_name, "LoraConfig");
        assert_eq!(lora.keys[..3], ["rank", "alpha", "dropout"]);
        let top = find("").unwrap();
        for section in &sections()[1..] {
            assert!(top.keys.contains(&section.name), "{section:?}");
        }
    }

    #[test]
    fn suggestions_need_likeness() {
        let train = find("train").unwrap();
        assert_eq!(
            suggest_key(&train, "learning_rat").unwrap(),
            "did you mean `learning_rate`?"
        );
        assert_eq!(
            suggest_key(&train, "rank").unwrap(),
            "`rank` belongs to `[lora]`"
        );
        assert_eq!(suggest_key(&train, "zzz"), None);
        assert_eq!(suggest_section("trian"), Some("train"));
        assert_eq!(suggest_section("x"), None);
    }
}
