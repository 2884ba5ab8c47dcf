//! Two or three tables, row by row: children chosen by their parents, or shown beside them.

use super::super::sql::{Relation, literal};
use super::super::wording::fill;
use super::Kind;
use super::aggregate::{AGGREGATING, any_aggregate};
use super::asker::{Asker, Draft, its};
use super::condition::Place;
use super::filter::{COUNTING, LISTING};
use super::order::superlative;

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "join, named parent",
        ask: named,
    },
    Kind {
        name: "join, filter by parent",
        ask: filtered,
    },
    Kind {
        name: "join, count by parent",
        ask: count,
    },
    Kind {
        name: "join, columns of both",
        ask: columns,
    },
    Kind {
        name: "join, aggregate",
        ask: aggregate,
    },
    Kind {
        name: "join, first by order",
        ask: first,
    },
    Kind {
        name: "join of three tables, two parents",
        ask: two_parents,
    },
    Kind {
        name: "join of three tables, grandparent",
        ask: grandparent,
    },
];

fn child(table: usize) -> Place {
    Place {
        table,
        alias: "T1.",
    }
}

fn parent(table: usize) -> Place {
    Place {
        table,
        alias: "T2.",
    }
}

fn named(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown(&mut used, relation.child, 2, "T1.");
    let from = relation.child_first(&mut used);
    let (value, name) = asker.any_named(relation.parent)?;
    let label = used.column(
        relation.parent,
        asker.table(relation.parent).label()?,
        "T2.",
    );
    let question = asker.say(
        LISTING,
        &[
            ("cols", &shown.many),
            ("many", &asker.table(relation.child).many()),
            ("cond", &fill(&relation.words.by, &name)),
        ],
    );
    let answer = format!(
        "SELECT {} FROM {from} WHERE {label} = {}",
        shown.sql,
        literal(value)
    );
    Some(Draft::new(question, answer, &used))
}

fn filtered(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown(&mut used, relation.child, 2, "T1.");
    let from = relation.child_first(&mut used);
    let cond = asker.any_condition(&mut used, parent(relation.parent))?;
    let question = asker.say(
        LISTING,
        &[
            ("cols", &shown.many),
            ("many", &asker.table(relation.child).many()),
            ("cond", &by_parents(asker, &relation, &cond.words)),
        ],
    );
    let answer = format!("SELECT {} FROM {from} WHERE {}", shown.sql, cond.sql);
    Some(Draft::new(question, answer, &used))
}

/// "written by authors from Norway".
fn by_parents(asker: &Asker<'_>, relation: &Relation<'_>, condition: &str) -> String {
    let parents = asker.table(relation.parent).many();
    fill(&relation.words.by, &format!("{parents} {condition}"))
}

fn count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let from = relation.child_first(&mut used);
    let (sql, cond) = if asker.rng.chance(50) {
        let (value, name) = asker.any_named(relation.parent)?;
        let label = used.column(
            relation.parent,
            asker.table(relation.parent).label()?,
            "T2.",
        );
        (
            format!("{label} = {}", literal(value)),
            fill(&relation.words.by, &name),
        )
    } else {
        let cond = asker.any_condition(&mut used, parent(relation.parent))?;
        let words = by_parents(asker, &relation, &cond.words);
        (cond.sql, words)
    };
    let many = asker.table(relation.child).many();
    let question = asker.say(COUNTING, &[("many", &many), ("cond", &cond)]);
    let answer = format!("SELECT count(*) FROM {from} WHERE {sql}");
    Some(Draft::new(question, answer, &used))
}

fn columns(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown_label(&mut used, relation.child, "T1.");
    let beside = asker.shown(&mut used, relation.parent, 1, "T2.");
    let from = relation.child_first(&mut used);
    let words = asker.table(relation.child);
    let question = asker.say(
        &[
            "For each {one}, show {its} {col} and the {beside} of {its} {parent}.",
            "List the {col} of every {one} together with the {beside} of {its} {parent}.",
            "What is the {col} of each {one}, and what is the {beside} of {its} {parent}?",
            "Show every {one}'s {col} next to the {beside} of the {parent}.",
            "Return the {cols} of all {many} and the {beside} of the {parent} of each.",
        ],
        &[
            ("col", &shown.one),
            ("cols", &shown.many),
            ("beside", &beside.one),
            ("its", its(words)),
            ("one", &words.one()),
            ("many", &words.many()),
            ("parent", &asker.table(relation.parent).one()),
        ],
    );
    let answer = format!("SELECT {}, {} FROM {from}", shown.sql, beside.sql);
    Some(Draft::new(question, answer, &used))
}

fn aggregate(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let aggregate = any_aggregate(asker, &mut used, child(relation.child))?;
    let from = relation.child_first(&mut used);
    let cond = asker.any_condition(&mut used, parent(relation.parent))?;
    let question = asker.say(
        AGGREGATING,
        &[
            ("agg", &aggregate.words),
            ("many", &asker.table(relation.child).many()),
            ("cond", &by_parents(asker, &relation, &cond.words)),
        ],
    );
    let answer = format!("SELECT {} FROM {from} WHERE {}", aggregate.sql, cond.sql);
    Some(Draft::new(question, answer, &used))
}

/// The parent of the child that is first in some order.
fn first(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown(&mut used, relation.parent, 1, "T2.");
    let from = relation.child_first(&mut used);
    let noun = asker.table(relation.child).one();
    let best = superlative(asker, &mut used, child(relation.child), &noun)?;
    let parent = asker.table(relation.parent);
    let done = &relation.words.done;
    let question = asker.say(
        &[
            "What is the {col} of the {parent} {who} has {done} the {best}?",
            "Find the {col} of the {parent} {who} has {done} the {best}.",
            "Show the {col} of the {parent} {who} has {done} the {best}.",
            "Which {parent} has {done} the {best}? Give the {col}.",
            "Tell me the {col} of the {parent} to which the {best} belongs.",
        ],
        &[
            ("col", &shown.one),
            ("parent", &parent.one()),
            ("who", parent.who()),
            ("done", done),
            ("best", &best.words),
        ],
    );
    let answer = format!("SELECT {} FROM {from} {} LIMIT 1", shown.sql, best.order_by);
    let untied = format!(
        "SELECT {} FROM {from} {} LIMIT 2",
        best.column, best.order_by
    );
    Some(Draft::new(question, answer, &used).untied(untied))
}

/// Parents of one kind whose children belong to a parent of another kind.
fn two_parents(asker: &mut Asker<'_>) -> Option<Draft> {
    let (one, other) = (asker.any_relation()?, asker.any_relation()?);
    if one.child != other.child || one.parent == other.parent {
        return None;
    }
    let mut used = asker.used();
    let shown = asker.shown_label(&mut used, one.parent, "T3.");
    let from = other.child_first(&mut used);
    let link = format!(
        "{} AS T3 ON {} = {}",
        used.table(one.parent),
        used.column(one.child, one.column, "T1."),
        used.column(one.parent, 0, "T3.")
    );
    let (value, name) = asker.any_named(other.parent)?;
    let label = used.column(other.parent, asker.table(other.parent).label()?, "T2.");
    let parent = asker.table(one.parent);
    let question = asker.say(
        &[
            "What are the different {cols} of the {parents} {who} have {done} {many} {by}?",
            "List the distinct {cols} of {parents} {who} have {done} {many} {by}.",
            "Which {parents} have {done} {many} {by}? Show each {col} once.",
            "Find the {cols} of all {parents} with {many} {by}, each only once.",
            "Show the different {cols} of the {parents} {who} have {done} {many} {by}.",
        ],
        &[
            ("cols", &shown.many),
            ("col", &shown.one),
            ("parents", &parent.many()),
            ("who", parent.who()),
            ("done", &one.words.done),
            ("many", &asker.table(one.child).many()),
            ("by", &fill(&other.words.by, &name)),
        ],
    );
    let shown = shown.sql;
    let condition = format!("{label} = {}", literal(value));
    let answer = format!("SELECT DISTINCT {shown} FROM {from} JOIN {link} WHERE {condition}");
    Some(Draft::new(question, answer, &used))
}

/// Children of those children that one named row has.
fn grandparent(asker: &mut Asker<'_>) -> Option<Draft> {
    let (lower, upper) = (asker.any_relation()?, asker.any_relation()?);
    if lower.parent != upper.child {
        return None;
    }
    let mut used = asker.used();
    let shown = asker.shown(&mut used, lower.child, 2, "T1.");
    let from = lower.child_first(&mut used);
    let link = format!(
        "{} AS T3 ON {} = {}",
        used.table(upper.parent),
        used.column(upper.child, upper.column, "T2."),
        used.column(upper.parent, 0, "T3.")
    );
    let (value, name) = asker.any_named(upper.parent)?;
    let label = used.column(upper.parent, asker.table(upper.parent).label()?, "T3.");
    let between = by_parents(asker, &lower, &fill(&upper.words.by, &name));
    let question = asker.say(
        LISTING,
        &[
            ("cols", &shown.many),
            ("many", &asker.table(lower.child).many()),
            ("cond", &between),
        ],
    );
    let condition = format!("{label} = {}", literal(value));
    let answer = format!(
        "SELECT {} FROM {from} JOIN {link} WHERE {condition}",
        shown.sql
    );
    Some(Draft::new(question, answer, &used))
}
