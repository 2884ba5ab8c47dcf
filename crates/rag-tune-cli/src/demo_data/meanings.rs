//! Made-up sentences about made-up video games, with their meaning representations in ViGGO's grammar.
//!
//! A meaning is a function with attributes, such as `inform(name[Tin Harbor], genres[puzzle, sport])`. [`meanings`] draws
//! meanings that all differ and says each in [`SENTENCES_PER_MEANING`] ways; what the words are is in
//! [`meaning_words`](super::meaning_words).

use std::collections::HashSet;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::meaning_words::{
    ATTRIBUTES, DEVELOPERS, ESRB, FUNCTIONS, Function, GENRES, MONTHS, NAME_ENDS, NAME_STARTS,
    PERSPECTIVES, PLATFORMS, RATINGS, SPECIFIERS, asking, phrase,
};
use super::rng::Rng;
use super::wording::{list, sentence, with_article};

/// A row of the data set, in the columns of ViGGO that the task `functional` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// The function's name; not part of the data set.
    #[serde(skip)]
    pub kind: &'static str,
    /// The function with its attributes.
    pub meaning_representation: String,
    /// The sentence.
    pub target: String,
}

/// Rows of the same meaning, next to each other.
pub const SENTENCES_PER_MEANING: usize = 2;

/// Draws that may fail in a row before there is nothing new to say.
const DRAWS: usize = 1000;

/// `count` different meanings with all their sentences.
///
/// # Errors
/// If there are not so many.
pub fn meanings(seed: u64, count: usize) -> Result<Vec<[Meaning; SENTENCES_PER_MEANING]>> {
    let mut rng = Rng::named(seed, "meanings");
    let mut seen = HashSet::new();
    let mut meanings = Vec::with_capacity(count);
    for function in FUNCTIONS
        .iter()
        .flat_map(|f| vec![f; f.weight])
        .cycle()
        .take(count)
    {
        // A function that has said everything leaves its turn to `inform`.
        let new = [function, &FUNCTIONS[0]].into_iter().find_map(|function| {
            (0..DRAWS).find_map(|_| {
                let draft = Draft::draw(function, &mut rng);
                let said = draft.say(&mut rng)?;
                seen.insert(draft.representation()).then_some(said)
            })
        });
        meanings.extend(new);
    }
    let found = meanings.len();
    ensure!(found == count, "only {found} of {count} meanings");
    // Else those of functions that soon have said everything would all be near the start, in one split.
    rng.shuffle(&mut meanings);
    Ok(meanings)
}

/// A meaning before it is put into words.
struct Draft {
    function: &'static Function,
    /// Attributes with their values, in the order of [`ATTRIBUTES`].
    attributes: Vec<(&'static str, Vec<String>)>,
}

impl Draft {
    fn draw(function: &'static Function, rng: &mut Rng) -> Self {
        let (fewest, most) = function.further;
        let count = rng.between(fewest, most);
        let mut chosen = rng.sample(function.optional, count);
        chosen.extend(function.always);
        let attributes = ATTRIBUTES
            .into_iter()
            .filter(|attribute| chosen.contains(attribute))
            .map(|attribute| {
                let asked = function.name == "request_attribute";
                (
                    attribute,
                    if asked {
                        Vec::new()
                    } else {
                        values(attribute, rng)
                    },
                )
            })
            .collect();
        Self {
            function,
            attributes,
        }
    }

    fn representation(&self) -> String {
        let attributes: Vec<String> = self
            .attributes
            .iter()
            .map(|(name, values)| format!("{name}[{}]", values.join(", ")))
            .collect();
        format!("{}({})", self.function.name, attributes.join(", "))
    }

    /// The rows, or nothing where chance gave the same sentence twice.
    fn say(&self, rng: &mut Rng) -> Option<[Meaning; SENTENCES_PER_MEANING]> {
        let rows = [0; SENTENCES_PER_MEANING].map(|_| Meaning {
            kind: self.function.name,
            meaning_representation: self.representation(),
            target: self.sentence(rng),
        });
        (rows[0].target != rows[1].target).then_some(rows)
    }

    fn sentence(&self, rng: &mut Rng) -> String {
        if self.function.name == "request_attribute" {
            let wordings = self
                .attributes
                .first()
                .map_or(&[][..], |(name, _)| asking(name));
            return rng
                .pick(wordings)
                .map_or_else(String::new, |text| (*text).to_owned());
        }
        let game = self.game(rng);
        let gaps = [
            ("name", self.value("name")),
            ("game", game.clone()),
            ("a game", with_article(&game)),
            ("extras", self.extras(rng)),
            ("verdict", self.phrase("rating", rng)),
            ("specifier", self.value("specifier")),
        ];
        let gaps: Vec<(&str, &str)> = gaps
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let wording = rng
            .pick(self.function.wordings)
            .copied()
            .unwrap_or_default();
        sentence(wording, &gaps)
    }

    /// The game without its name: "first person racing game by Ten Crows from 2011".
    fn game(&self, rng: &mut Rng) -> String {
        let mut words = vec![
            self.value("player_perspective"),
            self.value("genres"),
            "game".to_owned(),
        ];
        let mut behind = [
            "developer",
            "release_year",
            "exp_release_date",
            "esrb",
            "platforms",
        ]
        .map(|name| self.phrase(name, rng));
        rng.shuffle(&mut behind);
        words.extend(behind);
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }

    /// A sentence about what the game has and has not, if the meaning says so.
    fn extras(&self, rng: &mut Rng) -> String {
        let names = [
            "has_multiplayer",
            "available_on_steam",
            "has_linux_release",
            "has_mac_release",
        ];
        let mut phrases = names.map(|name| self.phrase(name, rng)).to_vec();
        phrases.retain(|phrase| !phrase.is_empty());
        rng.shuffle(&mut phrases);
        if phrases.is_empty() {
            String::new()
        } else {
            format!("It {}.", list(&phrases, "and"))
        }
    }

    /// The values of an attribute in words; empty without the attribute.
    fn value(&self, attribute: &str) -> String {
        let found = self.attributes.iter().find(|(name, _)| *name == attribute);
        found.map_or_else(String::new, |(_, values)| list(values, "and"))
    }

    /// An attribute with its values, in one of its wordings; empty without the attribute.
    fn phrase(&self, attribute: &str, rng: &mut Rng) -> String {
        let value = self.value(attribute);
        let wording = rng
            .pick(phrase(attribute, &value))
            .copied()
            .unwrap_or_default();
        wording.replace("{}", &value)
    }
}

fn values(attribute: &str, rng: &mut Rng) -> Vec<String> {
    let mut one = |pool: &[&str]| {
        rng.pick(pool)
            .map(|value| (*value).to_owned())
            .into_iter()
            .collect()
    };
    match attribute {
        "name" => vec![game_name(rng)],
        "exp_release_date" => {
            let month = rng.pick(&MONTHS).copied().unwrap_or_default();
            vec![format!(
                "{month} {}, {}",
                rng.between(1, 28),
                rng.between(2019, 2021)
            )]
        }
        "release_year" => vec![rng.between(1992, 2018).to_string()],
        "developer" => one(&DEVELOPERS),
        "esrb" => one(&ESRB),
        "rating" => one(&RATINGS),
        "specifier" => one(&SPECIFIERS),
        "genres" => some(&GENRES, rng),
        "player_perspective" => some(&PERSPECTIVES, rng),
        "platforms" => some(&PLATFORMS, rng),
        _ => one(&["yes", "no"]),
    }
}

/// One to three of `pool`, in its order.
fn some(pool: &[&str], rng: &mut Rng) -> Vec<String> {
    let count = 1 + rng.skewed(3);
    let chosen = rng.sample(pool, count);
    let chosen = pool.iter().filter(|value| chosen.contains(value));
    chosen.map(|value| (*value).to_owned()).collect()
}

fn game_name(rng: &mut Rng) -> String {
    let start = rng.pick(&NAME_STARTS).copied().unwrap_or_default();
    let end = rng.pick(&NAME_ENDS).copied().unwrap_or_default();
    format!("{start}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings_differ_and_so_do_the_sentences_of_each() {
        let meanings = meanings(42, 500).unwrap();
        let texts: HashSet<&str> = meanings
            .iter()
            .map(|m| m[0].meaning_representation.as_str())
            .collect();
        assert_eq!(texts.len(), 500);
        for [first, second] in &meanings {
            assert_eq!(first.meaning_representation, second.meaning_representation);
            assert_ne!(first.target, second.target);
        }
        for function in &FUNCTIONS {
            assert!(
                meanings.iter().any(|m| m[0].kind == function.name),
                "{}",
                function.name
            );
        }
    }

    #[test]
    fn a_sentence_says_every_value_and_leaves_no_gap_open() {
        for meaning in meanings(3, 300).unwrap().iter().flatten() {
            let Meaning {
                target,
                meaning_representation,
                ..
            } = meaning;
            assert!(
                !target.contains(['{', '}']) && !target.contains("  "),
                "{target}"
            );
            assert!(
                target.ends_with(['.', '?', '!']) && !target.contains(" ,"),
                "{target}"
            );
            let inside = meaning_representation.split(['[', ']']).skip(1).step_by(2);
            for value in inside.flat_map(|values| values.split(", ")) {
                // These are said in other words: a rating as praise or blame, yes and no as has and has not.
                if !["yes", "no"].contains(&value) && !RATINGS.contains(&value) {
                    assert!(target.contains(value), "{value}: {target}");
                }
            }
        }
    }
}
