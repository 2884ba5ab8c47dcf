//! Plain reads: columns, counts of rows, distinct values, one row looked up.

use super::super::schema::Role;
use super::super::sql::literal;
use super::Kind;
use super::asker::{Asker, Draft, its};

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "select columns",
        ask: columns,
    },
    Kind {
        name: "count rows",
        ask: count_rows,
    },
    Kind {
        name: "distinct",
        ask: distinct,
    },
    Kind {
        name: "count distinct",
        ask: count_distinct,
    },
    Kind {
        name: "look up a row",
        ask: lookup,
    },
];

fn columns(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let shown = asker.shown(&mut used, table, 3, "");
    let words = asker.table(table);
    let question = asker.say(
        &[
            "What are the {cols} of all {many}?",
            "List the {cols} of all {many}.",
            "Show the {col} of every {one}.",
            "Give the {col} of each {one}.",
            "For each {one}, return {its} {col}.",
            "Find the {cols} of the {many}.",
            "I need the {cols} of all the {many}.",
            "What is the {col} of each {one}?",
        ],
        &[
            ("cols", &shown.many),
            ("col", &shown.one),
            ("many", &words.many()),
            ("one", &words.one()),
            ("its", its(words)),
        ],
    );
    let answer = format!("SELECT {} FROM {}", shown.sql, used.table(table));
    Some(Draft::new(question, answer, &used))
}

fn count_rows(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let question = asker.say(
        &[
            "How many {many} are there?",
            "How many {many} are there in total?",
            "Count the {many}.",
            "What is the number of {many}?",
            "Find the total number of {many}.",
            "How many {many} does the database hold?",
            "Return the number of {many} on record.",
        ],
        &[("many", &asker.table(table).many())],
    );
    let answer = format!("SELECT count(*) FROM {}", used.table(table));
    Some(Draft::new(question, answer, &used))
}

fn distinct(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let question = asker.say(
        &[
            "What are the different {cols} of the {many}?",
            "List all distinct {cols} of {many}.",
            "Show the different {cols} that {many} have.",
            "Which {cols} occur among the {many}?",
            "Return every {col} of the {many} once.",
            "Give me the {cols} found among the {many}, without repeats.",
        ],
        &[
            ("cols", &asker.column(table, column).many()),
            ("col", &asker.column(table, column).one()),
            ("many", &asker.table(table).many()),
        ],
    );
    let name = used.column(table, column, "");
    let answer = format!("SELECT DISTINCT {name} FROM {}", used.table(table));
    Some(Draft::new(question, answer, &used))
}

fn count_distinct(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let question = asker.say(
        &[
            "How many different {cols} are there among the {many}?",
            "Count the distinct {cols} of {many}.",
            "What is the number of different {cols} of the {many}?",
            "How many distinct {cols} do the {many} have?",
            "Find how many different {cols} occur among {many}.",
        ],
        &[
            ("cols", &asker.column(table, column).many()),
            ("many", &asker.table(table).many()),
        ],
    );
    let name = used.column(table, column, "");
    let answer = format!("SELECT count(DISTINCT {name}) FROM {}", used.table(table));
    Some(Draft::new(question, answer, &used))
}

fn lookup(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let (value, named) = asker.any_named(table)?;
    let facts = asker
        .table(table)
        .columns_where(|role| matches!(role, Role::Category(_)) || role.measure().is_some());
    let count = asker.rng.between(1, 2);
    let chosen = asker.rng.sample(&facts, count);
    let shown = asker.show(&mut used, table, &chosen, "");
    let is = if chosen.len() > 1 { "are" } else { "is" };
    let question = asker.say(
        &[
            "What {is} the {col} of {named}?",
            "Find the {col} of {named}.",
            "Show the {col} of {named}.",
            "Tell me the {col} of {named}.",
            "Look up the {col} of {named}.",
            "For {named}, give the {col}.",
        ],
        &[("is", is), ("col", &shown.one), ("named", &named)],
    );
    let label = used.column(table, asker.table(table).label()?, "");
    let table = used.table(table);
    let answer = format!(
        "SELECT {} FROM {table} WHERE {label} = {}",
        shown.sql,
        literal(value)
    );
    Some(Draft::new(question, answer, &used))
}
