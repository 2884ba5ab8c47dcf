//! One number for many rows: averages, extremes and sums.

use super::super::schema::{Measure, Order, Role};
use super::super::sql::Used;
use super::Kind;
use super::asker::{Asker, Draft};
use super::condition::{Place, Style};

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "aggregate",
        ask: whole_table,
    },
    Kind {
        name: "two aggregates",
        ask: two,
    },
    Kind {
        name: "aggregate, filtered",
        ask: filtered,
    },
];

/// Questions for one number over rows under a condition, which follows the plural noun.
pub const AGGREGATING: &[&str] = &[
    "What is the {agg} of all {many} {cond}?",
    "What is the {agg} of the {many} {cond}?",
    "Find the {agg} of the {many} {cond}.",
    "Give the {agg} across all {many} {cond}.",
    "Compute the {agg} of {many} {cond}.",
    "Show me the {agg} among the {many} {cond}.",
    "Work out the {agg} for {many} {cond}.",
];

/// One number made of a column.
pub struct Aggregate {
    /// `avg(price)`.
    pub sql: String,
    /// "average price".
    pub words: String,
}

/// An aggregate of any column of `place`.
pub fn any_aggregate(
    asker: &mut Asker<'_>,
    used: &mut Used<'_>,
    place: Place,
) -> Option<Aggregate> {
    let column = asker.any_column(place.table, |role| role.measure().is_some())?;
    let description = asker.column(place.table, column);
    let (measure, order) = description.role.measure()?;
    let (function, words) = *asker.rng.pick(&functions(measure, order))?;
    let word = *asker.rng.pick(words)?;
    let name = used.column(place.table, column, place.alias);
    Some(Aggregate {
        sql: format!("{function}({name})"),
        words: format!("{word} {}", description.one()),
    })
}

fn functions(measure: &Measure, order: Order) -> Vec<(&'static str, &'static [&'static str])> {
    let mut functions: Vec<(&str, &[&str])> = match order {
        Order::Amount => vec![
            ("avg", &["average", "average", "mean"]),
            ("max", &["highest", "maximum"]),
            ("min", &["lowest", "minimum"]),
        ],
        Order::Time => vec![("max", &["latest"]), ("min", &["earliest"])],
    };
    if measure.total {
        functions.push(("sum", &["total", "combined"]));
    }
    functions
}

fn whole_table(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let aggregate = any_aggregate(asker, &mut used, Place::plain(table))?;
    let gaps = [
        ("agg", aggregate.words.as_str()),
        ("many", &asker.table(table).many()),
        ("cond", ""),
    ];
    let question = asker.say(AGGREGATING, &gaps);
    let answer = format!("SELECT {} FROM {}", aggregate.sql, used.table(table));
    Some(Draft::new(question, answer, &used))
}

fn filtered(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let aggregate = any_aggregate(asker, &mut used, Place::plain(table))?;
    let column = asker.any_category(table)?;
    let cond = asker.condition(&mut used, Place::plain(table), column, Style::Free)?;
    let gaps = [
        ("agg", aggregate.words.as_str()),
        ("many", &asker.table(table).many()),
        ("cond", &cond.words),
    ];
    let question = asker.say(AGGREGATING, &gaps);
    let answer = format!(
        "SELECT {} FROM {} WHERE {}",
        aggregate.sql,
        used.table(table),
        cond.sql
    );
    Some(Draft::new(question, answer, &used))
}

/// Two functions of one column, or the same function of two columns.
fn two(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let numbers = asker
        .table(table)
        .columns_where(|role| matches!(role, Role::Number(_)));
    let chosen = asker.rng.sample(&numbers, 2);
    let (sql, words) = match chosen.as_slice() {
        [first, second] if asker.rng.chance(40) => {
            let names = [first, second].map(|&column| used.column(table, column, ""));
            let nouns = [first, second].map(|&column| asker.column(table, column).one());
            let sql = format!("avg({}), avg({})", names[0], names[1]);
            (
                sql,
                format!("average {} and average {}", nouns[0], nouns[1]),
            )
        }
        [column, ..] => {
            let (name, noun) = (
                used.column(table, *column, ""),
                asker.column(table, *column).one(),
            );
            let pairs = [
                (
                    format!("min({name}), max({name})"),
                    format!("minimum and maximum {noun}"),
                ),
                (
                    format!("min({name}), max({name})"),
                    format!("lowest and highest {noun}"),
                ),
                (
                    format!("avg({name}), max({name})"),
                    format!("average and maximum {noun}"),
                ),
                (
                    format!("avg({name}), min({name})"),
                    format!("average and lowest {noun}"),
                ),
            ];
            asker.rng.pick(&pairs)?.clone()
        }
        [] => return None,
    };
    let question = asker.say(
        &[
            "What are the {agg} of all {many}?",
            "What are the {agg} of the {many}?",
            "Find the {agg} of the {many}.",
            "Give the {agg} across all {many}.",
            "Show both the {agg} among the {many}.",
            "Compute the {agg} of {many}.",
        ],
        &[("agg", &words), ("many", &asker.table(table).many())],
    );
    let answer = format!("SELECT {sql} FROM {}", used.table(table));
    Some(Draft::new(question, answer, &used))
}
