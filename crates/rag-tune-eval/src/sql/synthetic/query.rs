//! What a gold query says about the rows that make it answer: its tables, its conditions, and which columns it joins.
//!
//! This is no parser of SQL: it walks over the words once, keeping track of parentheses and of `SELECT`, and
//! understands what gold queries of text-to-SQL data sets are made of. What it does not understand it leaves out, and
//! the rows are a little less to the point.

mod facts;

use super::lexemes::{Lexeme, Piece, lex};
use super::schema::{Schema, is_same_name};
use super::values::{Comparison, Operator};

/// A column of one of the tables that a `SELECT` reads. The same table may be read twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node {
    /// Number of the `SELECT`.
    pub(super) core: usize,
    /// Number of the table in its `FROM`.
    pub(super) instance: usize,
    /// Number of the column in the table's schema.
    pub(super) column: usize,
}

/// A table in a `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    alias: String,
    /// Number of the table in the schema.
    pub(super) table: usize,
}

/// One `SELECT` with its clauses.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Core {
    /// The `SELECT` around it.
    parent: Option<usize>,
    /// The `SELECT` that it is united with, intersected with or subtracted from.
    pub(super) sibling: Option<usize>,
    pub(super) instances: Vec<Instance>,
    /// Whether it reads something that is no table of the schema, so that an unknown column may be from there.
    reads_others: bool,
    /// Plain columns of its result, by position.
    pub(super) selected: Vec<Node>,
    /// Columns that it groups by.
    pub(super) grouped: Vec<Node>,
    /// What it asks of `count(...)` in `HAVING`.
    pub(super) group_size: Option<(Operator, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    Select,
    From,
    Where,
    GroupBy,
    Having,
    OrderBy,
    Limit,
}

/// What a query says about its rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Query {
    pub(super) pieces: Vec<Piece>,
    /// For each piece the column that it names.
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) cores: Vec<Core>,
    /// What is asked of a column.
    pub(super) conditions: Vec<(Node, Comparison)>,
    /// Columns that must be equal.
    pub(super) links: Vec<(Node, Node)>,
    /// Columns that are looked for in each other, by `NOT IN`.
    pub(super) contrasts: Vec<(Node, Node)>,
    /// Columns that are added up, or calculated with.
    pub(super) numeric: Vec<Node>,
    /// Columns that rows are ordered by, or whose extremes are looked for.
    pub(super) ordered: Vec<Node>,
    /// Tables and columns that were added to the schema.
    pub(super) additions: usize,
}

impl Query {
    /// Reads `sql`, and adds to `schema` the tables and columns that it names and the schema lacks.
    pub(super) fn read(sql: &str, schema: &mut Schema) -> Self {
        let mut reader = Reader::new(lex(sql));
        reader.find_cores(schema);
        reader.find_columns(schema);
        reader.find_facts();
        reader.query
    }

    /// Number of the table that `node` is a column of.
    pub(super) fn table(&self, node: Node) -> usize {
        self.cores[node.core].instances[node.instance].table
    }
}

struct Reader {
    query: Query,
    /// For each piece the `SELECT` that it belongs to, and the clause.
    places: Vec<Option<(usize, Clause)>>,
    /// For each piece whether it is the name or the alias of a table, of a result column or of a function.
    is_other_name: Vec<bool>,
}

impl Reader {
    fn new(pieces: Vec<Piece>) -> Self {
        let count = pieces.len();
        Self {
            query: Query {
                nodes: vec![None; count],
                pieces,
                cores: Vec::new(),
                conditions: Vec::new(),
                links: Vec::new(),
                contrasts: Vec::new(),
                numeric: Vec::new(),
                ordered: Vec::new(),
                additions: 0,
            },
            places: vec![None; count],
            is_other_name: vec![false; count],
        }
    }

    fn lexeme(&self, at: usize) -> Option<&Lexeme> {
        self.query.pieces.get(at).map(|piece| &piece.lexeme)
    }

    fn is_keyword(&self, at: usize, word: &str) -> bool {
        self.lexeme(at)
            .is_some_and(|lexeme| lexeme.is_keyword(word))
    }

    fn is_symbol(&self, at: usize, symbol: &str) -> bool {
        self.lexeme(at)
            .is_some_and(|lexeme| lexeme.is_symbol(symbol))
    }

    /// Where each `SELECT` and its clauses are, and which tables it reads.
    fn find_cores(&mut self, schema: &mut Schema) {
        // For each open parenthesis, and for the text as a whole, the SELECT that it holds directly.
        let mut open: Vec<Option<(usize, Clause)>> = vec![None];
        let mut sibling = None;
        let known_elsewhere = self.common_table_names();
        for at in 0..self.query.pieces.len() {
            let enclosing = open.iter().rev().copied().flatten().next();
            let last = open.len() - 1;
            match self.query.pieces[at].lexeme.clone() {
                Lexeme::Symbol(symbol) if symbol == "(" => {
                    if let (Some((core, Clause::From)), true) = (enclosing, self.expects_table(at))
                    {
                        self.query.cores[core].reads_others = true;
                    }
                    open.push(None);
                }
                Lexeme::Symbol(symbol) if symbol == ")" && last > 0 => {
                    open.pop();
                }
                Lexeme::Keyword(keyword) => match keyword.as_str() {
                    "select" => {
                        let around = open[..last].iter().rev().copied().flatten().next();
                        self.query.cores.push(Core {
                            parent: around.map(|(core, _)| core),
                            sibling: sibling.take(),
                            ..Core::default()
                        });
                        open[last] = Some((self.query.cores.len() - 1, Clause::Select));
                    }
                    "union" | "intersect" | "except" => {
                        sibling = open[last].map(|(core, _)| core);
                    }
                    other => {
                        if let (Some(clause), Some((core, _))) = (clause_of(other), open[last]) {
                            open[last] = Some((core, clause));
                        }
                    }
                },
                _ => {}
            }
            let place = open.iter().rev().copied().flatten().next();
            self.places[at] = if self.is_symbol(at, ")") {
                enclosing
            } else {
                place
            };
            if let Some((core, Clause::From)) = self.places[at]
                && open.last().is_some_and(Option::is_some)
            {
                self.read_table(at, core, &known_elsewhere, schema);
            }
        }
    }

    /// Whether a table comes next, at `at`.
    fn expects_table(&self, at: usize) -> bool {
        at > 0
            && (self.is_keyword(at - 1, "from")
                || self.is_keyword(at - 1, "join")
                || self.is_symbol(at - 1, ","))
    }

    /// Names of `WITH name AS (...)`.
    fn common_table_names(&self) -> Vec<String> {
        let pieces = &self.query.pieces;
        if !self.is_keyword(0, "with") {
            return Vec::new();
        }
        (0..pieces.len())
            .filter(|&at| self.is_keyword(at + 1, "as") && self.is_symbol(at + 2, "("))
            .filter_map(|at| match &pieces[at].lexeme {
                Lexeme::Name { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect()
    }

    /// Notes the table at `at`, a place in a `FROM`, if there is one.
    fn read_table(
        &mut self,
        at: usize,
        core: usize,
        known_elsewhere: &[String],
        schema: &mut Schema,
    ) {
        if !self.expects_table(at) {
            // `FROM (SELECT ...) AS name`
            let is_alias = at > 0 && (self.is_symbol(at - 1, ")") || self.is_keyword(at - 1, "as"));
            self.is_other_name[at] |= is_alias;
            return;
        }
        let Some(Lexeme::Name { name, .. }) = self.lexeme(at).cloned() else {
            return;
        };
        let alias_at = at + 1 + usize::from(self.is_keyword(at + 1, "as"));
        let alias = match self.lexeme(alias_at) {
            Some(Lexeme::Name { name, .. }) => Some(name.clone()),
            _ => None,
        };
        self.is_other_name[at] = true;
        if alias.is_some() {
            self.is_other_name[alias_at] = true;
        }
        if known_elsewhere
            .iter()
            .any(|known| is_same_name(known, &name))
        {
            self.query.cores[core].reads_others = true;
            return;
        }
        let tables_before = schema.tables.len();
        let table = schema.add_table(&name);
        self.query.additions += schema.tables.len() - tables_before;
        self.query.cores[core].instances.push(Instance {
            alias: alias.unwrap_or(name),
            table,
        });
    }

    /// Which column each name is.
    fn find_columns(&mut self, schema: &mut Schema) {
        self.find_other_names();
        for adds in [false, true] {
            // Those that are there first, so that additions do not capture them.
            for at in 0..self.query.pieces.len() {
                if self.query.nodes[at].is_none() && !self.is_other_name[at] {
                    self.query.nodes[at] = self.resolve(at, schema, adds);
                }
            }
        }
        // A table that only `count(*)` reads has no columns in the context, or in the query.
        for table in 0..schema.tables.len() {
            if schema.tables[table].columns.is_empty() {
                schema.add_column(table, "id");
            }
        }
    }

    /// Functions, and names that the query itself gives to columns of results.
    fn find_other_names(&mut self) {
        let mut given: Vec<String> = Vec::new();
        for at in 0..self.query.pieces.len() {
            let Some(Lexeme::Name { name, .. }) = self.lexeme(at).cloned() else {
                continue;
            };
            let is_given = at > 0
                && self.is_keyword(at - 1, "as")
                && matches!(self.places[at], Some((_, Clause::Select)));
            if is_given {
                given.push(name);
            }
            self.is_other_name[at] |= is_given || self.is_symbol(at + 1, "(");
        }
        for at in 0..self.query.pieces.len() {
            if let Some(Lexeme::Name {
                qualifier: None,
                name,
                ..
            }) = self.lexeme(at)
                && given.iter().any(|other| is_same_name(other, name))
                && !matches!(self.places[at], Some((_, Clause::Select)))
            {
                self.is_other_name[at] = true;
            }
        }
    }

    fn resolve(&mut self, at: usize, schema: &mut Schema, adds: bool) -> Option<Node> {
        let Lexeme::Name {
            qualifier,
            name,
            is_double_quoted,
        } = self.lexeme(at)?.clone()
        else {
            return None;
        };
        let (core, _) = self.places[at]?;
        let mut scope = Some(core);
        while let Some(core) = scope {
            let instances = &self.query.cores[core].instances;
            for (instance, Instance { alias, table }) in instances.iter().enumerate() {
                let table = *table;
                let is_meant = qualifier.as_ref().is_none_or(|qualifier| {
                    is_same_name(alias, qualifier)
                        || is_same_name(&schema.tables[table].name, qualifier)
                });
                let found = schema.tables[table].column(&name).filter(|_| is_meant);
                let added = adds && qualifier.is_some() && is_meant && found.is_none();
                if let Some(column) = found {
                    return Some(Node {
                        core,
                        instance,
                        column,
                    });
                }
                if added && !name.is_empty() && name != "*" {
                    self.query.additions += 1;
                    let column = schema.add_column(table, &name);
                    return Some(Node {
                        core,
                        instance,
                        column,
                    });
                }
            }
            scope = self.query.cores[core].parent;
        }
        // A text in double quotes that names no column is a string.
        if !adds || is_double_quoted || qualifier.is_some() || name.is_empty() {
            return None;
        }
        self.add_unqualified(core, &name, schema)
    }

    /// Adds a column that no table of the scope has to that with the fewest: a context lacks just such columns,
    /// because whoever derived it from the query could not tell their table.
    fn add_unqualified(&mut self, core: usize, name: &str, schema: &mut Schema) -> Option<Node> {
        if self.query.cores[core].reads_others {
            return None;
        }
        let columns = |instance: &Instance| schema.tables[instance.table].columns.len();
        let instances = self.query.cores[core].instances.iter().enumerate();
        let (instance, table) = instances
            .min_by_key(|(_, instance)| columns(instance))
            .map(|(i, instance)| (i, instance.table))?;
        self.query.additions += 1;
        let column = schema.add_column(table, name);
        Some(Node {
            core,
            instance,
            column,
        })
    }
}

fn clause_of(keyword: &str) -> Option<Clause> {
    Some(match keyword {
        "from" => Clause::From,
        "where" => Clause::Where,
        "group" => Clause::GroupBy,
        "having" => Clause::Having,
        "order" => Clause::OrderBy,
        "limit" => Clause::Limit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The query, and conditions and links as text, columns as `table.column`.
    fn read(context: &str, sql: &str) -> (Schema, Query, Vec<String>) {
        let mut schema = Schema::parse(context).unwrap();
        let query = Query::read(sql, &mut schema);
        let name = |node: Node| {
            let table = &schema.tables[query.table(node)];
            format!("{}.{}", table.name, table.columns[node.column].name)
        };
        let conditions = query.conditions.iter();
        let mut facts: Vec<String> = conditions
            .map(|(node, comparison)| {
                let literals = comparison.literals();
                format!("{} {literals:?}", name(*node))
            })
            .collect();
        facts.extend(
            query
                .links
                .iter()
                .map(|(a, b)| format!("{} = {}", name(*a), name(*b))),
        );
        (schema, query, facts)
    }

    const SINGERS: &str = "CREATE TABLE singer (id INT, name VARCHAR, age INT); \
                           CREATE TABLE concert (singer_id INT, year INT, city VARCHAR)";

    #[test]
    fn conditions_and_joins_are_found_through_aliases_and_subqueries() {
        let (_, query, facts) = read(
            SINGERS,
            "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id \
             WHERE T2.city = \"Rome\" AND 18 < age AND year BETWEEN 2014 AND 2016 \
             AND T1.id IN (SELECT singer_id FROM concert T2 WHERE T2.year != -1) \
             GROUP BY T1.name HAVING count(*) >= 3",
        );
        assert_eq!(
            facts,
            [
                "concert.city [Text(\"Rome\")]",
                "singer.age [Integer(18)]",
                "concert.year [Integer(2014), Integer(2016)]",
                "concert.year [Integer(-1)]",
                "singer.id = concert.singer_id",
                "singer.id = concert.singer_id",
            ]
        );
        assert_eq!(query.additions, 0);
        assert_eq!(
            query.cores[0].group_size,
            Some((Operator::GreaterOrEqual, 3))
        );
        assert_eq!(query.cores[0].selected.len(), 1);
        assert_eq!(query.cores[1].parent, Some(0));
    }

    #[test]
    fn a_name_in_double_quotes_is_a_column_where_there_is_one() {
        let (schema, query, facts) =
            read(SINGERS, "SELECT \"name\" FROM singer WHERE name = \"Ann\"");
        assert_eq!(facts, ["singer.name [Text(\"Ann\")]"]);
        assert_eq!(query.cores[0].selected.len(), 1);
        assert_eq!(schema.tables[0].columns.len(), 3);
    }

    #[test]
    fn what_the_context_lacks_is_added() {
        let (schema, query, facts) = read(
            "CREATE TABLE singer (id INT, name VARCHAR); CREATE TABLE concert (singer_id INT)",
            "SELECT avg(price), T1.rank FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id \
             WHERE year > 3 AND T1.id NOT IN (SELECT id FROM bans)",
        );
        assert_eq!(query.additions, 4); // price, rank, year, bans; `id` may be the one of singer
        assert_eq!(schema.tables[1].columns.len(), 3);
        assert_eq!(schema.tables[2].name, "bans");
        assert!(
            facts.contains(&"concert.year [Integer(3)]".to_owned()),
            "{facts:?}"
        );
    }

    #[test]
    fn names_that_the_query_gives_are_no_columns() {
        let (_, query, _) = read(
            SINGERS,
            "WITH young AS (SELECT id AS number FROM singer) \
             SELECT number, count(*) AS n FROM young JOIN (SELECT year AS y FROM concert) AS c \
             ON c.y = number GROUP BY number ORDER BY n DESC",
        );
        assert_eq!(query.additions, 0);
    }

    #[test]
    fn set_operations_are_siblings() {
        let (_, query, _) = read(
            SINGERS,
            "SELECT name FROM singer WHERE age > 3 EXCEPT SELECT name FROM singer WHERE age > 9",
        );
        assert_eq!(query.cores[1].sibling, Some(0));
        assert_eq!(query.cores[1].parent, None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "select", "from", "where", "a", "t", "t.a", "(", ")", ",", "=", "<", "in", "not",
                    "like", "'x%'", "3", "-", "count", "*", "group", "by", "having", "\"b\"", "t.",
                    "as", "between", "and", "is", "null", "union", "with", "é",
                ]),
                0..20,
            )
        ) {
            read("CREATE TABLE t (a INT)", &words.join(" "));
        }
    }
}
