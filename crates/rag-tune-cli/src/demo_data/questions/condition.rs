//! Conditions: a piece of WHERE, and the words that follow a plural noun for it.

use super::super::schema::Role;
use super::super::sql::{Used, literal, plain};
use super::super::wording::{fill, list, with_article};
use super::asker::Asker;

/// A piece of WHERE and its words, which follow a plural noun: "whose price is above 5".
#[derive(Debug, Clone)]
pub struct Condition {
    /// In SQL.
    pub sql: String,
    /// In English.
    pub words: String,
}

/// Which words a condition may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Any, the domain's own phrase preferred.
    Free,
    /// A clause with "whose", which joins others with "or".
    Whose,
}

/// Where a condition stands: a table, and the alias before its columns.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The table.
    pub table: usize,
    /// "", "T1." or the like.
    pub alias: &'static str,
}

impl Place {
    /// A table that a query names without alias.
    pub fn plain(table: usize) -> Self {
        Self { table, alias: "" }
    }
}

impl Asker<'_> {
    /// Any condition on any column of `place` that conditions can be put on.
    pub fn any_condition(&mut self, used: &mut Used<'_>, place: Place) -> Option<Condition> {
        let column = self.any_column(place.table, is_filter)?;
        self.condition(used, place, column, Style::Free)
    }

    /// Conditions on two different columns.
    pub fn two_conditions(
        &mut self,
        used: &mut Used<'_>,
        place: Place,
        style: Style,
    ) -> Option<[Condition; 2]> {
        let columns = self.table(place.table).columns_where(is_filter);
        let chosen = self.rng.sample(&columns, 2);
        let [first, second] = chosen.as_slice() else {
            return None;
        };
        let first = self.condition(used, place, *first, style)?;
        Some([first, self.condition(used, place, *second, style)?])
    }

    /// Any condition on this column.
    pub fn condition(
        &mut self,
        used: &mut Used<'_>,
        place: Place,
        column: usize,
        style: Style,
    ) -> Option<Condition> {
        match &self.column(place.table, column).role {
            Role::Category(_) => self.equals(used, place, column, style),
            role if role.measure().is_some() => self.compares(used, place, column, style),
            _ => None,
        }
    }

    /// A category has one value.
    pub fn equals(
        &mut self,
        used: &mut Used<'_>,
        place: Place,
        column: usize,
        style: Style,
    ) -> Option<Condition> {
        let value = self.any_value(place.table, column)?;
        let sql = format!(
            "{} = {}",
            used.column(place.table, column, place.alias),
            literal(value)
        );
        let words = self.equals_words(place.table, column, &plain(value), style);
        Some(Condition { sql, words })
    }

    fn equals_words(&mut self, table: usize, column: usize, value: &str, style: Style) -> String {
        let description = self.column(table, column);
        let own = match &description.role {
            Role::Category(category) => category.is.as_deref(),
            _ => None,
        };
        match own {
            Some(phrase) if style == Style::Free && self.rng.chance(70) => fill(phrase, value),
            _ if self.rng.chance(20) => format!("whose {} is '{value}'", description.one()),
            _ => format!("whose {} is {value}", description.one()),
        }
    }

    /// A category has any value but one.
    pub fn differs(&mut self, used: &mut Used<'_>, place: Place) -> Option<Condition> {
        let column = self.any_category(place.table)?;
        let value = self.any_value(place.table, column)?;
        let name = used.column(place.table, column, place.alias);
        let (noun, text) = (self.column(place.table, column).one(), plain(value));
        let words = [
            format!("whose {noun} is not {text}"),
            format!("with {} other than {text}", with_article(&noun)),
            format!("whose {noun} is anything but {text}"),
            format!("that do not have {text} as {noun}"),
        ];
        let words = self
            .rng
            .pick(&words)?
            .replace("that", self.table(place.table).who());
        Some(Condition {
            sql: format!("{name} != {}", literal(value)),
            words,
        })
    }

    /// A category has one of two or three values, written with OR or with IN.
    pub fn one_of(&mut self, used: &mut Used<'_>, place: Place, count: usize) -> Option<Condition> {
        let column = self.any_category(place.table)?;
        let values = self.distinct_values(place.table, column);
        if values.len() <= count {
            return None;
        }
        let values = self.rng.sample(&values, count);
        let texts: Vec<String> = values.iter().map(|value| plain(value)).collect();
        let name = used.column(place.table, column, place.alias);
        let sql = if count == 2 {
            let either: Vec<String> = values
                .iter()
                .map(|value| format!("{name} = {}", literal(value)))
                .collect();
            either.join(" OR ")
        } else {
            let literals: Vec<String> = values.iter().map(|value| literal(value)).collect();
            format!("{name} IN ({})", literals.join(", "))
        };
        let words = format!(
            "whose {} is {}",
            self.column(place.table, column).one(),
            list(&texts, "or")
        );
        Some(Condition { sql, words })
    }

    /// A label starts with, ends with or contains some letters.
    pub fn like(&mut self, used: &mut Used<'_>, place: Place) -> Option<Condition> {
        let column = self.table(place.table).label()?;
        let text = plain(self.any_value(place.table, column)?);
        let word = text.split(' ').rfind(|word| word.len() >= 3)?.to_owned();
        let letters: Vec<char> = word.chars().collect();
        if !letters.iter().all(|letter| letter.is_alphabetic()) {
            return None;
        }
        let first: String = text.chars().take(1).collect();
        let part: String = letters[letters.len() - 3..].iter().collect();
        let noun = self.column(place.table, column).one();
        let (pattern, words) = match self.rng.below(5) {
            0 => (
                format!("{first}%"),
                format!("whose {noun} starts with '{first}'"),
            ),
            1 => (
                format!("{first}%"),
                format!("whose {noun} begins with the letter {first}"),
            ),
            2 => (
                format!("%{part}%"),
                format!("whose {noun} contains '{part}'"),
            ),
            3 => (
                format!("%{part}%"),
                format!("with '{part}' in their {noun}"),
            ),
            _ => (
                format!("%{word}%"),
                format!("whose {noun} includes '{word}'"),
            ),
        };
        let name = used.column(place.table, column, place.alias);
        Some(Condition {
            sql: format!("{name} LIKE '{pattern}'"),
            words,
        })
    }
}

/// Whether [`Asker::condition`] has something to say about a column.
pub fn is_filter(role: &Role) -> bool {
    matches!(role, Role::Category(_)) || role.measure().is_some()
}

/// Both conditions: a clause stands after a plain phrase and then needs no "and", as in "tickets
/// of low priority that took 5 hours".
pub fn both(conditions: &[Condition; 2]) -> Condition {
    let [first, second] = conditions;
    let (first, second) = if clause(first) > clause(second) {
        (second, first)
    } else {
        (first, second)
    };
    let and = if clause(first) == 0 && clause(second) > 0 {
        " "
    } else {
        " and "
    };
    Condition {
        sql: format!("{} AND {}", first.sql, second.sql),
        words: format!("{}{and}{}", first.words, second.words),
    }
}

/// 0 for a phrase such as "from Norway", 1 for "that cost ...", 2 for "whose price is ...".
fn clause(condition: &Condition) -> usize {
    match condition.words.split(' ').next() {
        Some("whose") => 2,
        Some("that" | "who") => 1,
        _ => 0,
    }
}

/// Either condition.
pub fn either([first, second]: &[Condition; 2]) -> Condition {
    Condition {
        sql: format!("{} OR {}", first.sql, second.sql),
        words: format!("{} or {}", first.words, second.words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(sql: &str, words: &str) -> Condition {
        Condition {
            sql: sql.to_owned(),
            words: words.to_owned(),
        }
    }

    #[test]
    fn clauses_stand_last_and_phrases_of_one_sort_are_joined_by_and() {
        let whose = condition("age > 3", "whose age is above 3");
        let from = condition("town = 'Graz'", "from Graz");
        let who = condition("pay < 5", "who earn less than 5");
        let words = |a: &Condition, b: &Condition| both(&[a.clone(), b.clone()]).words;
        assert_eq!(words(&whose, &from), "from Graz whose age is above 3");
        assert_eq!(words(&from, &who), "from Graz who earn less than 5");
        assert_eq!(
            words(&whose, &who),
            "who earn less than 5 and whose age is above 3"
        );
        assert_eq!(words(&from, &from), "from Graz and from Graz");
    }
}
