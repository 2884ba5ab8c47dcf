//! Rows in order, and the first of them.

use super::super::schema::{Column, Order};
use super::super::sql::Used;
use super::Kind;
use super::asker::{Asker, Draft, its};
use super::bound::Side;
use super::condition::Place;

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "order ascending",
        ask: ascending,
    },
    Kind {
        name: "order descending",
        ask: descending,
    },
    Kind {
        name: "order alphabetically",
        ask: alphabetical,
    },
    Kind {
        name: "first by order",
        ask: top_one,
    },
    Kind {
        name: "first few by order",
        ask: top_few,
    },
    Kind {
        name: "first by order, filtered",
        ask: filtered_top,
    },
];

const ORDERED: &[&str] = &[
    "What are the {cols} of the {many}, {order}?",
    "List the {cols} of all {many} {order}.",
    "Show the {cols} of the {many} {order}.",
    "Give me all {many} with their {cols}, {order}.",
    "Return the {col} of every {one}, {order}.",
    "I need the {cols} of all {many}, {order}.",
];

fn ascending(asker: &mut Asker<'_>) -> Option<Draft> {
    ordered(asker, Side::Below)
}

fn descending(asker: &mut Asker<'_>) -> Option<Draft> {
    ordered(asker, Side::Above)
}

/// All rows, those on the `first` side of the measure at the top.
fn ordered(asker: &mut Asker<'_>, first: Side) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_column(table, |role| role.measure().is_some())?;
    let shown = asker.shown(&mut used, table, 2, "");
    let order = order_words(asker, asker.column(table, column), first)?;
    let name = used.column(table, column, "");
    let direction = match first {
        Side::Above => " DESC",
        Side::Below if asker.rng.chance(50) => " ASC",
        Side::Below => "",
    };
    let table_name = used.table(table);
    let answer = format!(
        "SELECT {} FROM {table_name} ORDER BY {name}{direction}",
        shown.sql
    );
    let question = say_ordered(asker, table, &shown.one, &shown.many, &order);
    let untied = format!("SELECT {name} FROM {table_name}");
    Some(Draft::new(question, answer, &used).untied(untied))
}

fn alphabetical(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let label = asker.table(table).label()?;
    let shown = asker.shown(&mut used, table, 2, "");
    let noun = asker.column(table, label).one();
    let orders = [
        format!("in alphabetical order of {noun}"),
        format!("sorted alphabetically by {noun}"),
        format!("ordered by {noun} from A to Z"),
    ];
    let order = asker.rng.pick(&orders)?.clone();
    let name = used.column(table, label, "");
    let answer = format!(
        "SELECT {} FROM {} ORDER BY {name}",
        shown.sql,
        used.table(table)
    );
    let question = say_ordered(asker, table, &shown.one, &shown.many, &order);
    Some(Draft::new(question, answer, &used))
}

fn say_ordered(asker: &mut Asker<'_>, table: usize, col: &str, cols: &str, order: &str) -> String {
    let (one, many) = (asker.table(table).one(), asker.table(table).many());
    let gaps = [
        ("cols", cols),
        ("col", col),
        ("one", &one),
        ("many", &many),
        ("order", order),
    ];
    asker.say(ORDERED, &gaps)
}

fn order_words(asker: &mut Asker<'_>, column: &Column, first: Side) -> Option<String> {
    let (_, order) = column.role.measure()?;
    let noun = column.one();
    let words = match (order, first) {
        (Order::Amount, Side::Below) => [
            format!("in ascending order of {noun}"),
            format!("sorted by {noun} from lowest to highest"),
            format!("ordered by {noun}, lowest first"),
        ],
        (Order::Amount, Side::Above) => [
            format!("in descending order of {noun}"),
            format!("sorted by {noun} from highest to lowest"),
            format!("ordered by {noun}, highest first"),
        ],
        (Order::Time, Side::Below) => [
            format!("in ascending order of {noun}"),
            format!("sorted by {noun} from earliest to latest"),
            format!("ordered by {noun}, oldest first"),
        ],
        (Order::Time, Side::Above) => [
            format!("in descending order of {noun}"),
            format!("sorted by {noun} from latest to earliest"),
            format!("ordered by {noun}, most recent first"),
        ],
    };
    asker.rng.pick(&words).cloned()
}

/// A superlative in words, and the ORDER BY that finds it.
pub struct Superlative {
    /// "the longest book", "the book with the highest price".
    pub words: String,
    /// `ORDER BY pages DESC`.
    pub order_by: String,
    /// The column that is ordered by, as named in the query.
    pub column: String,
}

/// The row of `place` that is first in some order; `noun` is what its rows are called.
pub fn superlative(
    asker: &mut Asker<'_>,
    used: &mut Used<'_>,
    place: Place,
    noun: &str,
) -> Option<Superlative> {
    let column = asker.any_column(place.table, |role| role.measure().is_some())?;
    let side = if asker.rng.chance(60) {
        Side::Above
    } else {
        Side::Below
    };
    let description = asker.column(place.table, column);
    let (measure, order) = description.role.measure()?;
    let own = if side == Side::Above {
        &measure.most
    } else {
        &measure.least
    };
    let words = match own {
        Some(own) if asker.rng.chance(70) => format!("{own} {noun}"),
        _ => format!(
            "{noun} with the {} {}",
            extreme(order, side),
            description.one()
        ),
    };
    let column = used.column(place.table, column, place.alias);
    let direction = if side == Side::Above { "DESC" } else { "ASC" };
    Some(Superlative {
        words,
        order_by: format!("ORDER BY {column} {direction}"),
        column,
    })
}

/// "highest", "earliest" and so on.
pub fn extreme(order: Order, side: Side) -> &'static str {
    match (order, side) {
        (Order::Amount, Side::Above) => "highest",
        (Order::Amount, Side::Below) => "lowest",
        (Order::Time, Side::Above) => "latest",
        (Order::Time, Side::Below) => "earliest",
    }
}

fn top_one(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let shown = asker.shown_label(&mut used, table, "");
    let words = asker.table(table);
    let best = superlative(asker, &mut used, Place::plain(table), &words.one())?;
    let question = asker.say(
        &[
            "What is the {col} of the {best}?",
            "Show the {col} of the {best}.",
            "Give the {col} of the {best}.",
            "Find the {best} and return {its} {col}.",
            "I want to know the {col} of the {best}.",
            "Tell me the {col} of the {best}.",
        ],
        &[
            ("col", &shown.one),
            ("best", &best.words),
            ("its", its(words)),
        ],
    );
    let table = used.table(table);
    let answer = format!(
        "SELECT {} FROM {table} {} LIMIT 1",
        shown.sql, best.order_by
    );
    let untied = format!(
        "SELECT {} FROM {table} {} LIMIT 2",
        best.column, best.order_by
    );
    Some(Draft::new(question, answer, &used).untied(untied))
}

fn top_few(asker: &mut Asker<'_>) -> Option<Draft> {
    const NUMBERS: [&str; 4] = ["two", "three", "four", "five"];
    let (table, mut used) = (asker.any_table(), asker.used());
    let shown = asker.shown_label(&mut used, table, "");
    let count = asker.rng.between(2, 5);
    let word = if asker.rng.chance(50) {
        NUMBERS[count - 2].to_owned()
    } else {
        count.to_string()
    };
    let best = superlative(
        asker,
        &mut used,
        Place::plain(table),
        &asker.table(table).many(),
    )?;
    let question = asker.say(
        &[
            "What are the {cols} of the {count} {best}?",
            "List the {cols} of the {count} {best}.",
            "Show the {cols} of the {count} {best}.",
            "Find the {count} {best} and give their {cols}.",
            "Return the {cols} of the top {count} {best}.",
        ],
        &[
            ("cols", &shown.many),
            ("best", &best.words),
            ("count", &word),
        ],
    );
    let table = used.table(table);
    let answer = format!(
        "SELECT {} FROM {table} {} LIMIT {count}",
        shown.sql, best.order_by
    );
    let untied = format!(
        "SELECT {} FROM {table} {} LIMIT {}",
        best.column,
        best.order_by,
        count + 1
    );
    Some(Draft::new(question, answer, &used).untied(untied))
}

fn filtered_top(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let place = Place::plain(table);
    let shown = asker.shown_label(&mut used, table, "");
    let cond = asker.any_condition(&mut used, place)?;
    let best = superlative(asker, &mut used, place, "one")?;
    if cond.sql.contains(&best.column) {
        return None;
    }
    let words = asker.table(table);
    let question = asker.say(
        &[
            "Among the {many} {cond}, what is the {col} of the {best}?",
            "Of all {many} {cond}, show the {col} of the {best}.",
            "Considering only {many} {cond}, find the {best} and give {its} {col}.",
            "Take the {many} {cond}: what is the {col} of the {best}?",
            "Look at the {many} {cond} and return the {col} of the {best}.",
        ],
        &[
            ("many", &words.many()),
            ("cond", &cond.words),
            ("col", &shown.one),
            ("best", &best.words),
            ("its", its(words)),
        ],
    );
    let from = format!(
        "FROM {} WHERE {} {}",
        used.table(table),
        cond.sql,
        best.order_by
    );
    let answer = format!("SELECT {} {from} LIMIT 1", shown.sql);
    let untied = format!("SELECT {} {from} LIMIT 2", best.column);
    Some(Draft::new(question, answer, &used).untied(untied))
}
