//! Rows of one table grouped by a category.

use super::Kind;
use super::aggregate::any_aggregate;
use super::asker::{Asker, Draft};
use super::bound::Side;
use super::condition::Place;

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "group and count",
        ask: count,
    },
    Kind {
        name: "group and count, filtered",
        ask: filtered_count,
    },
    Kind {
        name: "group and aggregate",
        ask: aggregate,
    },
    Kind {
        name: "group and having",
        ask: having,
    },
    Kind {
        name: "most common group",
        ask: most_common,
    },
    Kind {
        name: "most common group with count",
        ask: most_common_with_count,
    },
    Kind {
        name: "least common group",
        ask: least_common,
    },
];

fn count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let question = asker.say(
        &[
            "How many {many} are there for each {cat}?",
            "For each {cat}, count the {many}.",
            "Show each {cat} and the number of {many} with it.",
            "What is the number of {many} per {cat}?",
            "Count the {many} by {cat}.",
            "Group the {many} by {cat} and return each {cat} with its count.",
            "List all {cats} together with how many {many} have them.",
        ],
        &[
            ("many", &asker.table(table).many()),
            ("cat", &asker.column(table, column).one()),
            ("cats", &asker.column(table, column).many()),
        ],
    );
    let name = used.column(table, column, "");
    let answer = format!(
        "SELECT {name}, count(*) FROM {} GROUP BY {name}",
        used.table(table)
    );
    Some(Draft::new(question, answer, &used))
}

fn filtered_count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let name = used.column(table, column, "");
    let cond = asker.any_condition(&mut used, Place::plain(table))?;
    if cond.sql.starts_with(&name) {
        return None;
    }
    let question = asker.say(
        &[
            "For each {cat}, how many {many} {cond} are there?",
            "Count the {many} {cond} for each {cat}.",
            "Show each {cat} with the number of {many} {cond}.",
            "What is the number of {many} {cond} per {cat}?",
            "Looking only at {many} {cond}, count them by {cat}.",
        ],
        &[
            ("many", &asker.table(table).many()),
            ("cat", &asker.column(table, column).one()),
            ("cond", &cond.words),
        ],
    );
    let table = used.table(table);
    let answer = format!(
        "SELECT {name}, count(*) FROM {table} WHERE {} GROUP BY {name}",
        cond.sql
    );
    Some(Draft::new(question, answer, &used))
}

fn aggregate(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let name = used.column(table, column, "");
    let aggregate = any_aggregate(asker, &mut used, Place::plain(table))?;
    let question = asker.say(
        &[
            "What is the {agg} of the {many} for each {cat}?",
            "For each {cat}, find the {agg} of {many}.",
            "Show the {agg} of {many} by {cat}.",
            "List each {cat} with the {agg} of its {many}.",
            "Give the {agg} of the {many} per {cat}.",
            "Group the {many} by {cat} and show the {agg} of each group.",
        ],
        &[
            ("agg", &aggregate.words),
            ("many", &asker.table(table).many()),
            ("cat", &asker.column(table, column).one()),
        ],
    );
    let table = used.table(table);
    let answer = format!(
        "SELECT {name}, {} FROM {table} GROUP BY {name}",
        aggregate.sql
    );
    Some(Draft::new(question, answer, &used))
}

/// How many rows a group must have.
pub struct Quota {
    /// `count(*) >= 3`.
    pub sql: String,
    /// "at least 3".
    pub words: String,
}

/// A quota that some groups of equal values in `column` meet, and where they differ, not all.
pub fn any_quota(asker: &mut Asker<'_>, table: usize, column: usize) -> Option<Quota> {
    let counts = asker.occurrences(table, column);
    let (rarest, most) = (*counts.first()?, *counts.last()?);
    let low = most.min(rarest + 1).max(2);
    if most < low {
        return None;
    }
    let least = asker.rng.between(low, most);
    // "more than 1 books" is no English, hence from 3.
    Some(if least > 2 && asker.rng.chance(50) {
        let bound = least - 1;
        Quota {
            sql: format!("count(*) > {bound}"),
            words: format!("more than {bound}"),
        }
    } else {
        Quota {
            sql: format!("count(*) >= {least}"),
            words: format!("at least {least}"),
        }
    })
}

fn having(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let quota = any_quota(asker, table, column)?;
    let question = asker.say(
        &[
            "Which {cats} have {n} {many}?",
            "List the {cats} that occur for {n} {many}.",
            "Find the {cats} shared by {n} {many}.",
            "What are the {cats} with {n} {many}?",
            "Show every {cat} that {n} {many} have.",
            "Return the {cats} that {n} {many} have in common.",
        ],
        &[
            ("cats", &asker.column(table, column).many()),
            ("cat", &asker.column(table, column).one()),
            ("many", &asker.table(table).many()),
            ("n", &quota.words),
        ],
    );
    let name = used.column(table, column, "");
    let table = used.table(table);
    let groups = format!("FROM {table} GROUP BY {name} HAVING {}", quota.sql);
    let answer = format!("SELECT {name} {groups}");
    Some(Draft::new(question, answer, &used))
}

fn most_common(asker: &mut Asker<'_>) -> Option<Draft> {
    let templates = [
        "What is the most common {cat} among the {many}?",
        "Which {cat} occurs most often among the {many}?",
        "Find the {cat} that the largest number of {many} have.",
        "Show the most frequent {cat} of the {many}.",
        "Which {cat} has the most {many}?",
        "Return the {cat} with the largest number of {many}.",
    ];
    ranked_group(asker, &templates, Side::Above, "")
}

fn most_common_with_count(asker: &mut Asker<'_>) -> Option<Draft> {
    let templates = [
        "Which {cat} has the most {many}, and how many are there?",
        "Show the most common {cat} of the {many} and how often it occurs.",
        "Find the {cat} with the largest number of {many}, together with that number.",
        "What is the most frequent {cat} among {many}, and for how many of them?",
        "Return the {cat} that most {many} have, with the count.",
    ];
    ranked_group(asker, &templates, Side::Above, ", count(*)")
}

fn least_common(asker: &mut Asker<'_>) -> Option<Draft> {
    let templates = [
        "What is the least common {cat} among the {many}?",
        "Which {cat} occurs least often among the {many}?",
        "Find the {cat} with the fewest {many}.",
        "Show the rarest {cat} of the {many}.",
        "Which {cat} has the smallest number of {many}?",
    ];
    ranked_group(asker, &templates, Side::Below, "")
}

/// The group with the most or fewest rows, `also` being selected beside its name.
fn ranked_group(
    asker: &mut Asker<'_>,
    templates: &[&str],
    side: Side,
    also: &str,
) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let question = asker.say(
        templates,
        &[
            ("cat", &asker.column(table, column).one()),
            ("many", &asker.table(table).many()),
        ],
    );
    let name = used.column(table, column, "");
    let direction = if side == Side::Above { "DESC" } else { "ASC" };
    let from = format!(
        "FROM {} GROUP BY {name} ORDER BY count(*) {direction}",
        used.table(table)
    );
    let answer = format!("SELECT {name}{also} {from} LIMIT 1");
    Some(Draft::new(question, answer, &used).untied(format!("SELECT count(*) {from} LIMIT 2")))
}
