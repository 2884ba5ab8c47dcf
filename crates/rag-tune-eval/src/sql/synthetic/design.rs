//! What each column holds: which columns share their values, which are keys, what kind of values they have.
//!
//! A loose schema says none of it, so it is read from the gold query (columns that it joins share their values) and
//! from names: `id`, `<table>_id`, `age`.

use super::query::{Node, Query};
use super::schema::{DeclaredType, Schema, is_same_name};
use super::values::{Comparison, Value};

/// How a column gets its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Every row has another value.
    Key,
    /// Values of a key of another table.
    Reference,
    /// Any values of the domain, repeated.
    Plain,
}

/// The kind of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    /// Numbers, some with a fraction.
    Real,
    Year,
    Date,
    Text,
}

impl Kind {
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Real | Self::Year)
    }
}

/// Values that some columns share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Domain {
    pub(super) kind: Kind,
    /// What the query asks of them.
    pub(super) comparisons: Vec<Comparison>,
    /// Whether rows are ordered by them, so that ties would leave the answer open.
    pub(super) is_ordered: bool,
    /// Whether a query asks for NULL.
    pub(super) may_be_null: bool,
}

/// A column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnDesign {
    pub(super) domain: usize,
    pub(super) role: Role,
}

/// What each column holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Design {
    /// By table and column.
    pub(super) columns: Vec<Vec<ColumnDesign>>,
    pub(super) domains: Vec<Domain>,
}

impl Design {
    /// The design for a schema and the query that it was completed by.
    pub(super) fn of(schema: &Schema, query: &Query) -> Self {
        let numbers = ColumnNumbers::of(schema);
        let sets = shared_values(schema, query, &numbers);
        let is_repeated = |table: usize, key: usize| {
            // Who groups a table's rows by a column expects several with the same value.
            let mut lone = query.cores.iter().filter(|core| core.instances.len() == 1);
            lone.any(|core| {
                let mut grouped = core.grouped.iter();
                grouped.any(|&node| (query.table(node), node.column) == (table, key))
            })
        };
        let keys: Vec<Option<usize>> = (0..schema.tables.len())
            .map(|table| key_column(schema, table).filter(|&key| !is_repeated(table, key)))
            .collect();
        let mut domains: Vec<Domain> = Vec::new();
        let mut domain_of_root: Vec<Option<usize>> = vec![None; sets.len()];
        let mut columns: Vec<Vec<ColumnDesign>> = Vec::new();
        for (table, key) in keys.iter().enumerate() {
            let mut designs = Vec::new();
            for column in 0..schema.tables[table].columns.len() {
                let root = sets.root(numbers.number(table, column));
                let domain = *domain_of_root[root].get_or_insert_with(|| {
                    let members = numbers.members(&sets, root);
                    domains.push(domain(schema, query, &members, &keys));
                    domains.len() - 1
                });
                let is_keyed = numbers
                    .members(&sets, root)
                    .iter()
                    .any(|&(table, column)| keys[table] == Some(column));
                let role = match key {
                    Some(key) if *key == column => Role::Key,
                    _ if is_keyed => Role::Reference,
                    _ => Role::Plain,
                };
                designs.push(ColumnDesign { domain, role });
            }
            columns.push(designs);
        }
        Self { columns, domains }
    }

    /// The key of a table.
    pub(super) fn key(&self, table: usize) -> Option<usize> {
        self.columns[table]
            .iter()
            .position(|column| column.role == Role::Key)
    }

    /// The design of the column that `node` names.
    pub(super) fn at(&self, query: &Query, node: Node) -> ColumnDesign {
        self.columns[query.table(node)][node.column]
    }
}

/// Sets that grow together.
#[derive(Debug, Clone)]
pub(super) struct DisjointSets(Vec<usize>);

impl DisjointSets {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn root(&self, mut at: usize) -> usize {
        while self.0[at] != at {
            at = self.0[at];
        }
        at
    }

    pub(super) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The smaller number stays, so that the result does not depend on the order.
        self.0[a.max(b)] = a.min(b);
    }
}

/// All columns of a schema in a row.
struct ColumnNumbers {
    columns: Vec<(usize, usize)>,
    /// Number of the first column of each table.
    starts: Vec<usize>,
}

impl ColumnNumbers {
    fn of(schema: &Schema) -> Self {
        let (mut columns, mut starts) = (Vec::new(), Vec::new());
        for (table, schema) in schema.tables.iter().enumerate() {
            starts.push(columns.len());
            columns.extend((0..schema.columns.len()).map(|column| (table, column)));
        }
        Self { columns, starts }
    }

    fn number(&self, table: usize, column: usize) -> usize {
        self.starts[table] + column
    }

    fn members(&self, sets: &DisjointSets, root: usize) -> Vec<(usize, usize)> {
        (0..self.columns.len())
            .filter(|&number| sets.root(number) == root)
            .map(|number| self.columns[number])
            .collect()
    }
}

/// Which columns have values in common.
fn shared_values(schema: &Schema, query: &Query, numbers: &ColumnNumbers) -> DisjointSets {
    let mut sets = DisjointSets::new(numbers.columns.len());
    let number = |node: Node| numbers.number(query.table(node), node.column);
    for &(a, b) in query.links.iter().chain(&query.contrasts) {
        sets.join(number(a), number(b));
    }
    for core in &query.cores {
        if let Some(sibling) = core.sibling {
            let pairs = core.selected.iter().zip(&query.cores[sibling].selected);
            pairs.for_each(|(&a, &b)| sets.join(number(a), number(b)));
        }
    }
    for (at, &(table, column)) in numbers.columns.iter().enumerate() {
        let column = &schema.tables[table].columns[column];
        if let Some((target, target_column)) = &column.references
            && let Some(target) = schema.table(target)
        {
            let named = target_column
                .as_ref()
                .map(|name| schema.tables[target].column(name));
            if let Some(target_column) = named.unwrap_or_else(|| key_column(schema, target)) {
                sets.join(at, numbers.number(target, target_column));
            }
        }
        let Some(stem) = key_stem(&column.name) else {
            continue;
        };
        for (other_at, &(other_table, other_column)) in numbers.columns.iter().enumerate() {
            let other = &schema.tables[other_table];
            let other_name = &other.columns[other_column].name;
            let is_same = is_same_name(other_name, &column.name) && !stem.is_empty();
            let is_its_id = is_same_name(other_name, "id")
                && other_table != table
                && is_stem_of(&stem, &other.name) == Some(Fit::Exact);
            if is_same || is_its_id {
                sets.join(at, other_at);
            }
        }
    }
    sets
}

/// The column whose value says which row of the table is meant, as far as names tell.
fn key_column(schema: &Schema, table: usize) -> Option<usize> {
    let schema = &schema.tables[table];
    let rank = |column: usize| -> Option<u8> {
        let column = &schema.columns[column];
        if column.is_key {
            return Some(0);
        }
        if column.references.is_some() {
            return None;
        }
        let stem = key_stem(&column.name)?;
        if stem.is_empty() || stem == "u" || stem == "p" {
            return Some(1); // `id`, `uid`, `code`, `pid`
        }
        is_stem_of(&stem, &schema.name).map(|fit| match fit {
            Fit::Exact => 2,
            Fit::Beginning => 3,
        })
    };
    (0..schema.columns.len())
        .filter_map(|column| Some((rank(column)?, column)))
        .min()
        .map(|(_, column)| column)
}

/// What a key's name says besides being one: `student` of `Student_ID`, nothing of `id`.
fn key_stem(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    [
        "_id", "_code", "_number", "_no", "_num", "id", "code", "number",
    ]
    .iter()
    .find_map(|end| name.strip_suffix(end))
    .map(|stem| stem.replace(['_', ' '], ""))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Exact,
    /// `stu` of `student`
    Beginning,
}

/// Whether a table's rows are what `stem` says.
fn is_stem_of(stem: &str, table: &str) -> Option<Fit> {
    let lower = table.to_ascii_lowercase();
    let lower = lower.strip_prefix("ref_").unwrap_or(&lower);
    let name = lower.replace(['_', ' '], "");
    let singulars = [
        Some(name.clone()),
        name.strip_suffix('s').map(str::to_owned),
        name.strip_suffix("es").map(str::to_owned),
        name.strip_suffix("ies").map(|start| format!("{start}y")),
    ];
    if singulars.iter().flatten().any(|singular| singular == stem) {
        return Some(Fit::Exact);
    }
    // `student_enrolment` is no `student`: one word only.
    let is_one_word = !lower.contains(['_', ' ']);
    (is_one_word && stem.len() >= 3 && name.starts_with(stem)).then_some(Fit::Beginning)
}

/// The domain of some columns, each by table and column.
fn domain(
    schema: &Schema,
    query: &Query,
    members: &[(usize, usize)],
    keys: &[Option<usize>],
) -> Domain {
    let is_member = |node: Node| members.contains(&(query.table(node), node.column));
    let comparisons: Vec<Comparison> = query
        .conditions
        .iter()
        .filter(|(node, _)| is_member(*node))
        .map(|(_, comparison)| comparison.clone())
        .collect();
    let asks_for_null = |comparison: &Comparison| match comparison {
        Comparison::Not(other) => **other == Comparison::IsNull,
        other => *other == Comparison::IsNull,
    };
    let is_key = |&(table, column): &(usize, usize)| keys[table] == Some(column);
    Domain {
        kind: kind(schema, query, members, &comparisons, is_member),
        may_be_null: comparisons.iter().any(asks_for_null) && !members.iter().any(is_key),
        is_ordered: query.ordered.iter().any(|&node| is_member(node)),
        comparisons,
    }
}

fn kind(
    schema: &Schema,
    query: &Query,
    members: &[(usize, usize)],
    comparisons: &[Comparison],
    is_member: impl Fn(Node) -> bool,
) -> Kind {
    let column = |&(table, column): &(usize, usize)| &schema.tables[table].columns[column];
    let declares = |declared| members.iter().any(|m| column(m).declared == declared);
    let has_part = |words: &[&str]| {
        let is_word = |part: &String| words.contains(&part.as_str());
        members
            .iter()
            .any(|m| name_parts(&column(m).name).iter().any(is_word))
    };
    let literals: Vec<&Value> = comparisons.iter().flat_map(Comparison::literals).collect();
    let is_like = comparisons.iter().any(|comparison| match comparison {
        Comparison::Not(other) => matches!(**other, Comparison::Like(_)),
        other => matches!(other, Comparison::Like(_)),
    });
    let has_fraction = |value: &&Value| value.as_number().is_some_and(|n| n.fract() != 0.0);
    let texts = literals.iter().filter(|value| value.as_number().is_none());
    if let Some(Value::Text(text)) = texts.into_iter().next() {
        let is_date = text.len() >= 8 && text.chars().filter(char::is_ascii_digit).count() >= 6;
        return if is_date { Kind::Date } else { Kind::Text };
    }
    let has_numbers = !literals.is_empty() || query.numeric.iter().any(|&node| is_member(node));
    let is_declared_number = declares(DeclaredType::Integer) || declares(DeclaredType::Real);
    if has_part(&["year"]) {
        Kind::Year
    } else if is_like {
        Kind::Text
    } else if declares(DeclaredType::Date) || (has_part(&["date", "time", "day"]) && !has_numbers) {
        Kind::Date
    } else if declares(DeclaredType::Real) || literals.iter().any(has_fraction) {
        Kind::Real
    } else if has_numbers || is_declared_number || has_part(&NUMBER_WORDS) {
        Kind::Integer
    } else {
        Kind::Text
    }
}

/// Parts of names whose values are numbers.
const NUMBER_WORDS: [&str; 46] = [
    "age",
    "amount",
    "area",
    "attendance",
    "average",
    "balance",
    "budget",
    "capacity",
    "cost",
    "count",
    "cylinders",
    "days",
    "distance",
    "duration",
    "earnings",
    "elevation",
    "grade",
    "height",
    "highest",
    "horsepower",
    "hours",
    "id",
    "length",
    "level",
    "lowest",
    "money",
    "mpg",
    "no",
    "num",
    "number",
    "percent",
    "percentage",
    "points",
    "population",
    "position",
    "price",
    "quantity",
    "rank",
    "ranking",
    "rate",
    "rating",
    "salary",
    "score",
    "size",
    "total",
    "weight",
];

/// Words of a name: `Net_Worth`, `gamesPlayed`, `stuid`.
fn name_parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && was_lower) {
            parts.push(String::new());
        }
        if c.is_alphanumeric() {
            parts
                .last_mut()
                .expect("never empty")
                .extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase();
    }
    let last = parts.last().cloned().unwrap_or_default();
    if last.len() > 2 && last.ends_with("id") {
        parts.push("id".to_owned());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn design(context: &str, sql: &str) -> (Schema, Design) {
        let mut schema = Schema::parse(context).unwrap();
        let query = Query::read(sql, &mut schema);
        let design = Design::of(&schema, &query);
        (schema, design)
    }

    /// Names of the keys by table.
    fn keys(context: &str, sql: &str) -> Vec<String> {
        let (schema, design) = design(context, sql);
        let key = |table: usize| {
            let key = design
                .key(table)
                .map(|key| &schema.tables[table].columns[key].name);
            key.cloned().unwrap_or_default()
        };
        (0..schema.tables.len()).map(key).collect()
    }

    #[test]
    fn names_tell_keys_from_references() {
        for (context, expected) in [
            (
                "CREATE TABLE stadium (name VARCHAR, stadium_id VARCHAR); CREATE TABLE concert (stadium_id VARCHAR)",
                vec!["stadium_id", ""],
            ),
            (
                "CREATE TABLE student (stuid VARCHAR); CREATE TABLE has_pet (stuid VARCHAR, petid VARCHAR); \
                 CREATE TABLE pets (petid VARCHAR)",
                vec!["stuid", "", "petid"],
            ),
            (
                "CREATE TABLE Student_Enrolment (student_id VARCHAR); CREATE TABLE Cities (Id VARCHAR, city_code INT)",
                vec!["", "Id"],
            ),
            (
                "CREATE TABLE a (b_id INT REFERENCES b (x), y INT); CREATE TABLE b (x INT PRIMARY KEY)",
                vec!["", "x"],
            ),
        ] {
            assert_eq!(keys(context, "SELECT 1"), expected, "{context}");
        }
    }

    #[test]
    fn joined_columns_share_their_values() {
        let (_, design) = design(
            "CREATE TABLE airlines (uid VARCHAR, name VARCHAR); CREATE TABLE flights (airline VARCHAR, code VARCHAR)",
            "SELECT * FROM airlines AS a JOIN flights AS f ON a.uid = f.airline",
        );
        assert_eq!(design.columns[0][0].domain, design.columns[1][0].domain);
        assert_eq!(design.columns[1][0].role, Role::Reference);
        assert_ne!(design.columns[0][1].domain, design.columns[1][1].domain);
    }

    #[test]
    fn the_query_and_the_name_tell_the_kind() {
        let (schema, design) = design(
            "CREATE TABLE t (age VARCHAR, born VARCHAR, state VARCHAR, rate VARCHAR, founded_year VARCHAR, x VARCHAR)",
            "SELECT sum(x) FROM t WHERE born > '1990-01-31' AND rate < 0.5 AND state LIKE '%3%'",
        );
        let kinds: Vec<Kind> = (0..schema.tables[0].columns.len())
            .map(|column| design.domains[design.columns[0][column].domain].kind)
            .collect();
        use Kind::*;
        assert_eq!(kinds, [Integer, Date, Text, Real, Year, Integer]);
    }
}
