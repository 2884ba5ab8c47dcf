//! Two tables, grouped: how many children each parent has.

use super::Kind;
use super::asker::{Asker, Draft};
use super::group::any_quota;

/// The kinds in this file.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "join, group and count",
        ask: count,
    },
    Kind {
        name: "join, group and having",
        ask: having,
    },
    Kind {
        name: "join, parent with most children",
        ask: most,
    },
];

fn count(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown_label(&mut used, relation.parent, "T1.");
    let (parent, children) = (
        asker.table(relation.parent),
        asker.table(relation.child).many(),
    );
    let done = relation.words.done.as_str();
    let simple = [
        "How many {many} does each {parent} have? Show the {col} and the number.",
        "Show the {col} of each {parent} and the number of {many} {they}.",
        "For each {parent} with {many}, give the {col} and how many there are.",
        "List the {cols} of the {parents} with the number of {many} of each.",
        "Count the {many} of each {parent} and show the count with the {col}.",
    ];
    let with_verb = [
        "How many {many} has each {parent} {done}? Show the {col} and the number.",
        "Show the {col} of each {parent} and the number of {many} {they} {done}.",
        "For each {parent}, give the {col} and how many {many} {they} {done}.",
        "List the {cols} of the {parents} with the number of {many} each has {done}.",
        "Count the {many} that each {parent} has {done}, and show the count with the {col}.",
    ];
    let they = if parent.person { "they have" } else { "it has" };
    let question = asker.say(
        if done.is_empty() { &simple } else { &with_verb },
        &[
            ("many", &children),
            ("parent", &parent.one()),
            ("parents", &parent.many()),
            ("col", &shown.one),
            ("cols", &shown.many),
            ("they", they),
            ("done", done),
        ],
    );
    let from = relation.parent_first(&mut used);
    let key = used.column(relation.parent, 0, "T1.");
    let answer = format!("SELECT {}, count(*) FROM {from} GROUP BY {key}", shown.sql);
    Some(Draft::new(question, answer, &used))
}

fn having(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown_label(&mut used, relation.parent, "T1.");
    let quota = any_quota(asker, relation.child, relation.column)?;
    let parent = asker.table(relation.parent);
    let question = asker.say(
        &[
            "Which {parents} have {done} {n} {many}? Give their {cols}.",
            "What are the {cols} of the {parents} {who} have {done} {n} {many}?",
            "List the {cols} of {parents} {who} have {done} {n} {many}.",
            "Find the {col} of every {parent} with {n} {many}.",
            "Show the {cols} of all {parents} {who} have {done} {n} {many}.",
        ],
        &[
            ("parents", &parent.many()),
            ("parent", &parent.one()),
            ("who", parent.who()),
            ("done", &relation.words.done),
            ("n", &quota.words),
            ("many", &asker.table(relation.child).many()),
            ("cols", &shown.many),
            ("col", &shown.one),
        ],
    );
    let from = relation.parent_first(&mut used);
    let key = used.column(relation.parent, 0, "T1.");
    let groups = format!("FROM {from} GROUP BY {key} HAVING {}", quota.sql);
    Some(Draft::new(
        question,
        format!("SELECT {} {groups}", shown.sql),
        &used,
    ))
}

fn most(asker: &mut Asker<'_>) -> Option<Draft> {
    let (relation, mut used) = (asker.any_relation()?, asker.used());
    let shown = asker.shown_label(&mut used, relation.parent, "T1.");
    let parent = asker.table(relation.parent);
    let question = asker.say(
        &[
            "Which {parent} has {done} the most {many}? Show the {col}.",
            "What is the {col} of the {parent} {who} has {done} the most {many}?",
            "Find the {parent} with the largest number of {many} and give the {col}.",
            "Show the {col} of the {parent} {who} has {done} the most {many}.",
            "Return the {col} of the {parent} with the most {many}.",
        ],
        &[
            ("parent", &parent.one()),
            ("who", parent.who()),
            ("done", &relation.words.done),
            ("many", &asker.table(relation.child).many()),
            ("col", &shown.one),
        ],
    );
    let from = relation.parent_first(&mut used);
    let key = used.column(relation.parent, 0, "T1.");
    let ranked = format!("FROM {from} GROUP BY {key} ORDER BY count(*) DESC");
    let answer = format!("SELECT {} {ranked} LIMIT 1", shown.sql);
    Some(Draft::new(question, answer, &used).untied(format!("SELECT count(*) {ranked} LIMIT 2")))
}
