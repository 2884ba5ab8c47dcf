//! A query inside a query: against an average, or against the rows of another table.

use super::super::sql::{Relation, Used};
use super::super::wording::with_article;
use super::Kind;
use super::asker::{Asker, Draft};
use super::condition::{Condition, Place, Style};
use super::filter::{counting, listing};

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "nested, against the average",
        ask: against_average,
    },
    Kind {
        name: "nested, against a group's average",
        ask: against_group_average,
    },
    Kind {
        name: "nested, without children",
        ask: without_children,
    },
    Kind {
        name: "nested, count without children",
        ask: without_children_count,
    },
    Kind {
        name: "nested, in subquery",
        ask: in_subquery,
    },
];

fn against_average(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_number(table)?;
    let noun = asker.column(table, column).one();
    let (operator, words) = asker.rng.pick(&[
        (">", "whose {} is above the average"),
        (">", "whose {} is higher than the average {}"),
        (">", "with a higher {} than the average"),
        (">", "with a {} above the average {}"),
        ("<", "whose {} is below the average"),
        ("<", "whose {} is lower than the average {}"),
        ("<", "with a lower {} than the average"),
    ])?;
    let words = words
        .replace("a {}", &with_article(&noun))
        .replace("{}", &noun);
    let name = used.column(table, column, "");
    let average = format!("(SELECT avg({name}) FROM {})", used.table(table));
    let cond = Condition {
        sql: format!("{name} {operator} {average}"),
        words,
    };
    Some(listing(asker, used, table, &cond))
}

fn against_group_average(asker: &mut Asker<'_>) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let (number, category) = (asker.any_number(table)?, asker.any_category(table)?);
    let (noun, many) = (asker.column(table, number).one(), asker.table(table).many());
    let name = used.column(table, number, "");
    let group = asker.equals(&mut used, Place::plain(table), category, Style::Free)?;
    let (operator, word) = if asker.rng.chance(60) {
        (">", "higher")
    } else {
        ("<", "lower")
    };
    let average = format!(
        "(SELECT avg({name}) FROM {} WHERE {})",
        used.table(table),
        group.sql
    );
    let cond = Condition {
        sql: format!("{name} {operator} {average}"),
        words: format!(
            "whose {noun} is {word} than the average {noun} of {many} {}",
            group.words
        ),
    };
    Some(listing(asker, used, table, &cond))
}

fn without_children(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let cond = childless(asker, &mut used, &relation)?;
    Some(listing(asker, used, relation.parent, &cond))
}

fn without_children_count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let cond = childless(asker, &mut used, &relation)?;
    Some(counting(asker, used, relation.parent, &cond))
}

/// "who have not written any books".
fn childless(
    asker: &mut Asker<'_>,
    used: &mut Used<'_>,
    relation: &Relation<'_>,
) -> Option<Condition> {
    let child = asker.table(relation.child);
    let (one, many, done) = (child.one(), child.many(), &relation.words.done);
    let who = asker.table(relation.parent).who();
    let choices = if done.is_empty() {
        [
            format!("{who} have no {many}"),
            format!("{who} do not have any {many}"),
            format!("without any {many}"),
        ]
    } else {
        [
            format!("{who} have not {done} any {many}"),
            format!("{who} have {done} no {many}"),
            format!("{who} have never {done} {}", with_article(&one)),
        ]
    };
    let words = asker.rng.pick(&choices)?.clone();
    let key = used.column(relation.parent, 0, "");
    let foreign = used.column(relation.child, relation.column, "");
    let sql = format!(
        "{key} NOT IN (SELECT {foreign} FROM {})",
        used.table(relation.child)
    );
    Some(Condition { sql, words })
}

fn in_subquery(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let key = used.column(relation.parent, 0, "");
    let foreign = used.column(relation.child, relation.column, "");
    let cond = asker.any_condition(&mut used, Place::plain(relation.child))?;
    let (child, parent) = (asker.table(relation.child), asker.table(relation.parent));
    let words = format!(
        "{} have {} {} {}",
        parent.who(),
        relation.words.done,
        child.many(),
        cond.words
    );
    let children = format!(
        "SELECT {foreign} FROM {} WHERE {}",
        used.table(relation.child),
        cond.sql
    );
    let cond = Condition {
        sql: format!("{key} IN ({children})"),
        words,
    };
    Some(listing(asker, used, relation.parent, &cond))
}
