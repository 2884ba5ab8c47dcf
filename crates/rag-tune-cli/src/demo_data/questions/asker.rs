//! What all question families share: random choices within one database, and phrases for them.

use rusqlite::types::Value;

use super::super::database::Database;
use super::super::rng::Rng;
use super::super::schema::{Column, LabelSource, Role, Table};
use super::super::sql::{Relation, Used, plain};
use super::super::wording::{list, sentence};

/// Chooses what to ask about one database, and in which words.
pub struct Asker<'a> {
    /// The database asked about.
    pub database: &'a Database,
    /// Where every choice comes from.
    pub rng: Rng,
}

/// Columns to put into SELECT.
pub struct Shown {
    /// In SQL.
    pub sql: String,
    /// "title and price".
    pub one: String,
    /// "titles and prices".
    pub many: String,
}

/// A question, its answer, and what must hold for the pair to be good.
pub struct Draft {
    /// The question in English.
    pub question: String,
    /// The SQL that answers it.
    pub answer: String,
    /// CREATE TABLE of what the answer names.
    pub context: String,
    /// A query whose values must differ, or the order that the answer asks for has ties.
    pub untied: Option<String>,
}

impl Draft {
    /// A draft whose answer depends on no order.
    pub fn new(question: String, answer: String, used: &Used<'_>) -> Self {
        Self {
            question,
            answer,
            context: used.context(),
            untied: None,
        }
    }

    /// The same draft, good only if all first values of `query` differ.
    pub fn untied(self, query: String) -> Self {
        Self {
            untied: Some(query),
            ..self
        }
    }
}

impl<'a> Asker<'a> {
    /// An empty record of the names that a query uses.
    pub fn used(&self) -> Used<'a> {
        Used::new(&self.database.domain)
    }

    /// The description of a table.
    pub fn table(&self, table: usize) -> &'a Table {
        &self.database.domain.tables[table]
    }

    /// The description of a column.
    pub fn column(&self, table: usize, column: usize) -> &'a Column {
        &self.table(table).columns[column]
    }

    /// Any table.
    pub fn any_table(&mut self) -> usize {
        self.rng.below(self.database.domain.tables.len())
    }

    /// Any column of `table` whose role passes `test`.
    pub fn any_column(&mut self, table: usize, test: impl Fn(&Role) -> bool) -> Option<usize> {
        let columns = self.table(table).columns_where(test);
        self.rng.pick(&columns).copied()
    }

    /// Any category column of `table`.
    pub fn any_category(&mut self, table: usize) -> Option<usize> {
        self.any_column(table, |role| matches!(role, Role::Category(_)))
    }

    /// Any amount column of `table`.
    pub fn any_number(&mut self, table: usize) -> Option<usize> {
        self.any_column(table, |role| matches!(role, Role::Number(_)))
    }

    /// Any foreign key whose parent has a name to be called by.
    pub fn any_relation(&mut self) -> Option<Relation<'a>> {
        let relations = self.relations();
        self.rng.pick(&relations).copied()
    }

    /// All foreign keys whose parent has a name to be called by.
    pub fn relations(&self) -> Vec<Relation<'a>> {
        let domain = &self.database.domain;
        let mut relations = Vec::new();
        for (child, table) in domain.tables.iter().enumerate() {
            for (column, description) in table.columns.iter().enumerate() {
                if let Role::Ref(words) = &description.role
                    && let Some(parent) = domain.table_index(&words.table)
                    && domain.tables[parent].label().is_some()
                {
                    relations.push(Relation {
                        child,
                        column,
                        parent,
                        words,
                    });
                }
            }
        }
        relations
    }

    /// One to `most` columns that a reader would want, the label first if it is among them.
    pub fn shown(&mut self, used: &mut Used<'_>, table: usize, most: usize, alias: &str) -> Shown {
        let label = self.table(table).label();
        let others = self
            .table(table)
            .columns_where(|role| matches!(role, Role::Category(_)) || role.measure().is_some());
        let count = self.rng.between(1, most);
        let with_label = label.filter(|_| self.rng.chance(80));
        let mut columns: Vec<usize> = with_label.into_iter().collect();
        let more = count - columns.len().min(count);
        columns.extend(self.rng.sample(&others, more));
        self.show(used, table, &columns, alias)
    }

    /// The label, or whatever else there is to show of a table without one.
    pub fn shown_label(&mut self, used: &mut Used<'_>, table: usize, alias: &str) -> Shown {
        match self.table(table).label() {
            Some(label) => self.show(used, table, &[label], alias),
            None => self.shown(used, table, 2, alias),
        }
    }

    /// These columns in SQL and in words.
    pub fn show(&self, used: &mut Used<'_>, table: usize, columns: &[usize], alias: &str) -> Shown {
        let names: Vec<String> = columns
            .iter()
            .map(|&column| used.column(table, column, alias))
            .collect();
        let nouns = |noun: fn(&Column) -> String| {
            let nouns: Vec<String> = columns
                .iter()
                .map(|&column| noun(self.column(table, column)))
                .collect();
            list(&nouns, "and")
        };
        Shown {
            sql: names.join(", "),
            one: nouns(Column::one),
            many: nouns(Column::many),
        }
    }

    /// One of `templates` with its gaps filled.
    pub fn say(&mut self, templates: &[&str], gaps: &[(&str, &str)]) -> String {
        self.rng
            .pick(templates)
            .map_or_else(String::new, |template| sentence(template, gaps))
    }

    /// Any value of a column that some row has.
    pub fn any_value(&mut self, table: usize, column: usize) -> Option<&'a Value> {
        self.database.rows[table]
            .get(self.rng.below(self.database.rows[table].len()))?
            .get(column)
    }

    /// The different values of a column, in order.
    pub fn distinct_values(&self, table: usize, column: usize) -> Vec<&'a Value> {
        let mut values: Vec<&Value> = self.database.values(table, column).collect();
        values.sort_by(|a, b| compare(a, b));
        values.dedup();
        values
    }

    /// How often each value of a column occurs, rarest first.
    pub fn occurrences(&self, table: usize, column: usize) -> Vec<usize> {
        let count = |wanted: &Value| {
            self.database
                .values(table, column)
                .filter(|value| *value == wanted)
                .count()
        };
        let mut counts: Vec<usize> = self
            .distinct_values(table, column)
            .into_iter()
            .map(count)
            .collect();
        counts.sort_unstable();
        counts
    }

    /// Any row called by its label: the label's value, and a phrase such as "the author Ida Ito".
    pub fn any_named(&mut self, table: usize) -> Option<(&'a Value, String)> {
        let label = self.table(table).label()?;
        let value = self.any_value(table, label)?;
        let (noun, label, text) = (
            self.table(table).one(),
            self.column(table, label),
            plain(value),
        );
        let person = matches!(label.role, Role::Label(LabelSource::Person));
        let phrase = match &label.role {
            Role::Label(LabelSource::Values(_)) if self.rng.chance(50) => {
                format!("the {noun} '{text}'")
            }
            Role::Label(LabelSource::Values(_)) => format!("the {noun} {text}"),
            _ if person && self.table(table).person && self.rng.chance(70) => {
                format!("the {noun} {text}")
            }
            _ if person && self.table(table).person => text,
            _ => format!("the {noun} with the {} {text}", label.one()),
        };
        Some((value, phrase))
    }
}

/// "its" or "their".
pub fn its(table: &Table) -> &'static str {
    if table.person { "their" } else { "its" }
}

/// Orders values of one column.
pub fn compare(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
        (a, b) => plain(a).cmp(&plain(b)),
    }
}
