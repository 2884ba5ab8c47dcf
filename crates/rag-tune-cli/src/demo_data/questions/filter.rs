//! One table, rows chosen by a condition: listed or counted.

use super::super::sql::Used;
use super::Kind;
use super::asker::{Asker, Draft};
use super::condition::{Condition, Place, Style, both, either};

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "filter by equality",
        ask: equality,
    },
    Kind {
        name: "count by equality",
        ask: equality_count,
    },
    Kind {
        name: "comparison",
        ask: comparison,
    },
    Kind {
        name: "count by comparison",
        ask: comparison_count,
    },
    Kind {
        name: "filter by inequality",
        ask: inequality,
    },
    Kind {
        name: "two conditions, and",
        ask: and,
    },
    Kind {
        name: "count, and",
        ask: and_count,
    },
    Kind {
        name: "two conditions, or",
        ask: or,
    },
    Kind {
        name: "in a list",
        ask: in_list,
    },
    Kind {
        name: "between",
        ask: between,
    },
    Kind {
        name: "like",
        ask: like,
    },
];

/// Questions for columns of rows under a condition, which follows the plural noun.
pub const LISTING: &[&str] = &[
    "What are the {cols} of the {many} {cond}?",
    "What are the {cols} of {many} {cond}?",
    "List the {cols} of all {many} {cond}.",
    "Show the {cols} of {many} {cond}.",
    "Find the {cols} of all the {many} {cond}.",
    "Give me the {cols} of the {many} {cond}.",
    "Return the {cols} of all {many} {cond}.",
    "For all {many} {cond}, show the {cols}.",
    "I would like to see the {cols} of the {many} {cond}.",
    "Look up the {many} {cond} and list their {cols}.",
];

/// Questions for the number of rows under a condition.
pub const COUNTING: &[&str] = &[
    "How many {many} {cond} are there?",
    "Count the {many} {cond}.",
    "What is the number of {many} {cond}?",
    "Find the number of {many} {cond}.",
    "Tell me how many {many} {cond} there are.",
    "Give the total number of {many} {cond}.",
];

/// Lists some columns of the rows of one table that meet a condition.
pub fn listing(asker: &mut Asker<'_>, mut used: Used<'_>, table: usize, cond: &Condition) -> Draft {
    let shown = asker.shown(&mut used, table, 2, "");
    let gaps = [
        ("cols", shown.many.as_str()),
        ("many", &asker.table(table).many()),
        ("cond", &cond.words),
    ];
    let question = asker.say(LISTING, &gaps);
    let answer = format!(
        "SELECT {} FROM {} WHERE {}",
        shown.sql,
        used.table(table),
        cond.sql
    );
    Draft::new(question, answer, &used)
}

/// Counts the rows of one table that meet a condition.
pub fn counting(
    asker: &mut Asker<'_>,
    mut used: Used<'_>,
    table: usize,
    cond: &Condition,
) -> Draft {
    let gaps = [
        ("many", asker.table(table).many()),
        ("cond", cond.words.clone()),
    ];
    let question = asker.say(
        COUNTING,
        &gaps.each_ref().map(|(gap, text)| (*gap, text.as_str())),
    );
    let answer = format!(
        "SELECT count(*) FROM {} WHERE {}",
        used.table(table),
        cond.sql
    );
    Draft::new(question, answer, &used)
}

fn equal(asker: &mut Asker<'_>, used: &mut Used<'_>, table: usize) -> Option<Condition> {
    let column = asker.any_category(table)?;
    asker.equals(used, Place::plain(table), column, Style::Free)
}

fn compared(asker: &mut Asker<'_>, used: &mut Used<'_>, table: usize) -> Option<Condition> {
    let column = asker.any_column(table, |role| role.measure().is_some())?;
    asker.compares(used, Place::plain(table), column, Style::Free)
}

fn equality(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = equal(asker, &mut used, table)?;
    Some(listing(asker, used, table, &cond))
}

fn equality_count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = equal(asker, &mut used, table)?;
    Some(counting(asker, used, table, &cond))
}

fn comparison(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = compared(asker, &mut used, table)?;
    Some(listing(asker, used, table, &cond))
}

fn comparison_count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = compared(asker, &mut used, table)?;
    Some(counting(asker, used, table, &cond))
}

fn inequality(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = asker.differs(&mut used, Place::plain(table))?;
    Some(listing(asker, used, table, &cond))
}

fn and(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = both(&asker.two_conditions(&mut used, Place::plain(table), Style::Free)?);
    Some(listing(asker, used, table, &cond))
}

fn and_count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = both(&asker.two_conditions(&mut used, Place::plain(table), Style::Free)?);
    Some(counting(asker, used, table, &cond))
}

fn or(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = if asker.rng.chance(40) {
        asker.one_of(&mut used, Place::plain(table), 2)?
    } else {
        either(&asker.two_conditions(&mut used, Place::plain(table), Style::Whose)?)
    };
    Some(listing(asker, used, table, &cond))
}

fn in_list(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = asker.one_of(&mut used, Place::plain(table), 3)?;
    Some(listing(asker, used, table, &cond))
}

fn between(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = asker.between(&mut used, Place::plain(table))?;
    Some(listing(asker, used, table, &cond))
}

fn like(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let cond = asker.like(&mut used, Place::plain(table))?;
    Some(listing(asker, used, table, &cond))
}
