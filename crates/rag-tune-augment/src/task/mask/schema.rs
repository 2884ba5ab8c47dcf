//! The words of a schema, from the statements that create it.

use std::collections::HashSet;

use super::Specific;
use super::pieces::{Kind, Piece};
use super::words::is_function_word;

/// The words that tables and columns are named by.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// Each word of each name, in every number: `roomName` gives `room`, `rooms`, `name`, `names`.
    words: HashSet<String>,
    /// Each name as one word, so that "constructor id" is found in `constructorid`.
    names: HashSet<String>,
}

impl Schema {
    /// The schema of `CREATE TABLE` statements. What cannot be read as one adds nothing.
    pub(super) fn of(statements: &str) -> Self {
        let mut schema = Self::default();
        for name in names(statements) {
            let parts = name_parts(name);
            schema.names.extend(forms(&parts.concat()));
            for part in parts {
                if !is_function_word(&part) {
                    schema.words.extend(forms(&part));
                }
            }
        }
        schema
    }

    /// Marks the schema's words among `pieces`.
    pub(super) fn mark(&self, pieces: &[Piece<'_>], marks: &mut [Option<Specific>]) {
        let words: Vec<(usize, String)> = pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| matches!(piece.kind, Kind::Word | Kind::Number))
            .map(|(at, piece)| (at, piece.text.to_lowercase()))
            .collect();
        for (index, (at, word)) in words.iter().enumerate() {
            if is_function_word(word) {
                continue;
            }
            if forms(word).any(|form| self.words.contains(&form)) {
                marks[*at] = Some(Specific::SchemaWord);
            }
            let Some((next_at, next)) = words.get(index + 1) else {
                continue;
            };
            let neighbours = *next_at == at + 2 && pieces[at + 1].text == " ";
            if neighbours && forms(&format!("{word}{next}")).any(|form| self.names.contains(&form))
            {
                marks[*at] = Some(Specific::SchemaWord);
                marks[*next_at] = Some(Specific::SchemaWord);
            }
        }
    }
}

/// A word as it is and, where its ending allows, in the singular.
fn forms(word: &str) -> impl Iterator<Item = String> {
    let singular = |ending: &str, instead: &str| {
        let stem = word.strip_suffix(ending).filter(|stem| stem.len() >= 2);
        stem.map(|stem| format!("{stem}{instead}"))
    };
    let singulars = [
        singular("s", "").filter(|_| !word.ends_with("ss")),
        singular("es", ""),
        singular("ies", "y"),
    ];
    std::iter::once(word.to_owned()).chain(singulars.into_iter().flatten().collect::<Vec<_>>())
}

/// The words of an identifier, in small letters: split at what is no letter or digit, and before capitals.
fn name_parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut last_is_small = false;
    for character in name.chars() {
        if !character.is_alphanumeric() || (character.is_uppercase() && last_is_small) {
            parts.push(String::new());
        }
        if character.is_alphanumeric() {
            let part = parts.last_mut().expect("it begins with one part");
            part.extend(character.to_lowercase());
        }
        last_is_small = character.is_lowercase();
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// The names of tables and columns in `CREATE TABLE` statements.
fn names(statements: &str) -> Vec<&str> {
    let tokens = tokens(statements);
    let mut names = Vec::new();
    let (mut depth, mut is_table, mut last) = (0_usize, false, "");
    for token in tokens {
        match token {
            "(" => {
                // `CREATE TABLE name (`, also with `IF NOT EXISTS` or a database's name before it.
                if depth == 0 && is_table {
                    names.push(last);
                }
                depth += 1;
            }
            ")" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => is_table = false,
            _ if depth == 0 => is_table |= token.eq_ignore_ascii_case("table"),
            _ if is_table && depth == 1 && matches!(last, "(" | ",") && !is_constraint(token) => {
                names.push(token);
            }
            _ => {}
        }
        last = token;
    }
    names
}

fn is_constraint(token: &str) -> bool {
    const CONSTRAINTS: [&str; 6] = ["primary", "foreign", "unique", "check", "constraint", "key"];
    let is = |word: &&str| token.eq_ignore_ascii_case(word);
    CONSTRAINTS.iter().any(is)
}

/// In characters.
const LONGEST_NAME: usize = 200;

/// Identifiers, quoted ones without their quotes, and single other characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let closing = match first {
            '"' | '`' | '\'' => Some(first),
            '[' => Some(']'),
            _ => None,
        };
        // Near enough: a quote that is never closed must not be searched for to the end again and again.
        let near = || rest.char_indices().skip(1).take(LONGEST_NAME);
        let end = closing.and_then(|closing| near().find(|&(_, character)| character == closing));
        let token;
        (token, rest) = match end {
            Some((end, _)) => (&rest[1..end], &rest[end + 1..]),
            None => {
                let other =
                    rest.find(|character: char| !(character.is_alphanumeric() || character == '_'));
                rest.split_at(other.unwrap_or(rest.len()).max(first.len_utf8()))
            }
        };
        tokens.push(token);
        rest = rest.trim_start();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_tables_and_columns_only() {
        assert_eq!(
            names(
                "CREATE TABLE roller_coaster (Status VARCHAR(10), LENGTH DECIMAL(10, 2), PRIMARY KEY (Status)); \
                 create table if not exists \"my pets\" (`pet id` INTEGER, [date] TEXT)"
            ),
            [
                "roller_coaster",
                "Status",
                "LENGTH",
                "my pets",
                "pet id",
                "date"
            ]
        );
        assert!(names("there is no table here (or there)").contains(&"here"));
        assert!(names("nothing (to see)").is_empty());
    }

    #[test]
    fn names_split_into_words() {
        assert_eq!(name_parts("date_of_birth"), ["date", "of", "birth"]);
        assert_eq!(name_parts("roomName2"), ["room", "name2"]);
        assert_eq!(name_parts("constructorId"), ["constructor", "id"]);
        assert_eq!(name_parts("GDP"), ["gdp"]);
        assert!(name_parts("__").is_empty());
    }
}
