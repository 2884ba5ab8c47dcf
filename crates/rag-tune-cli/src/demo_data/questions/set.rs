//! Results combined: in both, in one but not the other, in either.

use super::super::schema::Role;
use super::super::sql::Used;
use super::Kind;
use super::asker::{Asker, Draft};
use super::bound::Side;
use super::condition::{Condition, Place, Style, is_filter};

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "intersect",
        ask: intersect,
    },
    Kind {
        name: "intersect, children of both kinds",
        ask: intersect_children,
    },
    Kind {
        name: "except",
        ask: except,
    },
    Kind {
        name: "except, no such children",
        ask: except_children,
    },
    Kind {
        name: "union",
        ask: union,
    },
];

/// Two conditions on one measure that no row meets both: a high bound and a low one.
fn high_and_low(
    asker: &mut Asker<'_>,
    used: &mut Used<'_>,
    place: Place,
) -> Option<[Condition; 2]> {
    let column = asker.any_column(place.table, |role| role.measure().is_some())?;
    let (high, low) = (asker.rng.between(50, 70), asker.rng.between(30, 50));
    let high = asker.bounded(used, place, column, Side::Above, high)?;
    Some([high, asker.bounded(used, place, column, Side::Below, low)?])
}

fn intersect(asker: &mut Asker<'_>) -> Option<Draft> {
    let templates = [
        "Which {cats} are shared by {many} {a} and {many} {b}?",
        "Find the {cats} that have both {many} {a} and {many} {b}.",
        "List the {cats} that occur among {many} {a} as well as among {many} {b}.",
        "What are the {cats} of both {many} {a} and {many} {b}?",
        "Show the {cats} found for {many} {a} and also for {many} {b}.",
    ];
    categories(asker, "INTERSECT", &templates)
}

fn except(asker: &mut Asker<'_>) -> Option<Draft> {
    let templates = [
        "Which {cats} occur among {many} {a} but not among {many} {b}?",
        "Find the {cats} that have {many} {a} but no {many} {b}.",
        "List the {cats} of {many} {a} that no {many} {b} have.",
        "What are the {cats} of {many} {a}, leaving out those of {many} {b}?",
        "Show the {cats} found for {many} {a} but not for any {many} {b}.",
    ];
    categories(asker, "EXCEPT", &templates)
}

/// A category's values among two sets of rows, combined by `operator`.
fn categories(asker: &mut Asker<'_>, operator: &str, templates: &[&str]) -> Option<Draft> {
    let (table, mut used) = (asker.any_table(), asker.used());
    let column = asker.any_category(table)?;
    let name = used.column(table, column, "");
    let [a, b] = high_and_low(asker, &mut used, Place::plain(table))?;
    let question = asker.say(
        templates,
        &[
            ("cats", &asker.column(table, column).many()),
            ("many", &asker.table(table).many()),
            ("a", &a.words),
            ("b", &b.words),
        ],
    );
    let table = used.table(table);
    let select = |cond: &Condition| format!("SELECT {name} FROM {table} WHERE {}", cond.sql);
    let answer = format!("{} {operator} {}", select(&a), select(&b));
    Some(Draft::new(question, answer, &used))
}

fn intersect_children(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown_label(&mut used, relation.parent, "T1.");
    let from = relation.parent_first(&mut used);
    let place = Place {
        table: relation.child,
        alias: "T2.",
    };
    let column = asker.any_category(relation.child)?;
    let a = asker.equals(&mut used, place, column, Style::Free)?;
    let b = asker.equals(&mut used, place, column, Style::Free)?;
    if a.sql == b.sql {
        return None;
    }
    let parent = asker.table(relation.parent);
    let question = asker.say(
        &[
            "Which {parents} have {done} both {many} {a} and {many} {b}? Give their {cols}.",
            "What are the {cols} of {parents} {who} have {done} {many} {a} and also {many} {b}?",
            "List the {cols} of the {parents} {who} have {done} {many} {a} as well as {many} {b}.",
            "Find the {cols} of all {parents} {who} have {done} both {many} {a} and {many} {b}.",
            "Show the {cols} shared by {parents} with {many} {a} and {parents} with {many} {b}.",
        ],
        &[
            ("parents", &parent.many()),
            ("who", parent.who()),
            ("done", &relation.words.done),
            ("many", &asker.table(relation.child).many()),
            ("cols", &shown.many),
            ("a", &a.words),
            ("b", &b.words),
        ],
    );
    let select = |cond: &Condition| format!("SELECT {} FROM {from} WHERE {}", shown.sql, cond.sql);
    let answer = format!("{} INTERSECT {}", select(&a), select(&b));
    Some(Draft::new(question, answer, &used))
}

fn except_children(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let label = asker.table(relation.parent).label()?;
    let all = format!(
        "SELECT {} FROM {}",
        used.column(relation.parent, label, ""),
        used.table(relation.parent)
    );
    let shown = asker.shown_label(&mut used, relation.parent, "T1.");
    let from = relation.parent_first(&mut used);
    let place = Place {
        table: relation.child,
        alias: "T2.",
    };
    let cond = asker.any_condition(&mut used, place)?;
    let parent = asker.table(relation.parent);
    let question = asker.say(
        &[
            "Which {parents} have not {done} any {many} {cond}? Give their {cols}.",
            "What are the {cols} of the {parents} {who} have {done} no {many} {cond}?",
            "List the {cols} of {parents} {who} have {done} no {many} {cond}.",
            "Find the {cols} of all {parents}, except those {who} have {done} {many} {cond}.",
            "Show the {cols} of every one of the {parents} without {many} {cond}.",
        ],
        &[
            ("parents", &parent.many()),
            ("who", parent.who()),
            ("done", &relation.words.done),
            ("many", &asker.table(relation.child).many()),
            ("cols", &shown.many),
            ("cond", &cond.words),
        ],
    );
    let with = format!("SELECT {} FROM {from} WHERE {}", shown.sql, cond.sql);
    Some(Draft::new(question, format!("{all} EXCEPT {with}"), &used))
}

/// Labels of two tables in one list.
fn union(asker: &mut Asker<'_>) -> Option<Draft> {
    let mut used = asker.used();
    let tables = asker.rng.sample(&[0, 1, 2, 3], 2);
    let [a, b] = tables.as_slice() else {
        return None;
    };
    let (a, b) = (
        labelled(asker, &mut used, *a)?,
        labelled(asker, &mut used, *b)?,
    );
    let question = asker.say(
        &[
            "List the {a} together with the {b}.",
            "What are the {a} and the {b}, in one list?",
            "Show the {a} as well as the {b} in a single list.",
            "Return one list with the {a} and the {b}.",
            "Combine the {a} with the {b}.",
        ],
        &[("a", &a.words), ("b", &b.words)],
    );
    Some(Draft::new(
        question,
        format!("{} UNION {}", a.sql, b.sql),
        &used,
    ))
}

/// The labels of some rows of a table: a whole query, and "names of doctors older than 50".
fn labelled(asker: &mut Asker<'_>, used: &mut Used<'_>, table: usize) -> Option<Condition> {
    let words = asker.database.domain.tables.get(table)?;
    let label = words.label()?;
    let column = asker.any_column(table, |role| {
        !matches!(role, Role::Date(_)) && is_filter(role)
    })?;
    let name = used.column(table, label, "");
    let cond = asker.condition(used, Place::plain(table), column, Style::Free)?;
    Some(Condition {
        sql: format!(
            "SELECT {name} FROM {} WHERE {}",
            used.table(table),
            cond.sql
        ),
        words: format!(
            "{} of {} {}",
            asker.column(table, label).many(),
            words.many(),
            cond.words
        ),
    })
}
