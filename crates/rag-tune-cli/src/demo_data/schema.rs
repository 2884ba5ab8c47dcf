//! What a domain file says: databases, tables, columns, and the words people use for them.
//!
//! A question is put together from these words, so every table and column carries a singular and
//! a plural noun, and optionally the phrases that read better than "whose price is above 5".

use serde::Deserialize;

use super::wording::plural;

/// Whether a database is trained on or kept unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Questions go to `train.jsonl`.
    Train,
    /// Questions go to `validation.jsonl`.
    Validation,
}

/// One everyday subject, which becomes one database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Name of the database, as `db_id` in the rows and as folder name.
    pub id: String,
    /// Which file its questions go to.
    pub split: Split,
    /// Its tables; a table stands after those that it refers to.
    #[serde(rename = "table")]
    pub tables: Vec<Table>,
}

/// One table and the noun for its rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Name in SQL.
    pub name: String,
    noun: Option<[String; 2]>,
    /// Whether rows are people: "who" rather than "that".
    #[serde(default)]
    pub person: bool,
    rows: Option<usize>,
    /// Columns in table order; the first is the key.
    pub columns: Vec<Column>,
}

/// One column, what it holds, and the noun for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name in SQL.
    pub name: String,
    noun: Option<[String; 2]>,
    /// What it holds.
    pub role: Role,
}

/// What a column holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Role {
    /// The primary key: 1, 2, 3 and so on.
    Key,
    /// What a row is called; no two rows share it.
    Label(LabelSource),
    /// One of a few texts that many rows share.
    Category(Category),
    /// An amount: integers, or decimals where the step has them.
    Number(Measure),
    /// A year.
    Year(Measure),
    /// A day as `YYYY-MM-DD`; `min` and `max` are years.
    Date(Measure),
    /// The key of a row in another table.
    Ref(Reference),
}

/// Where labels come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum LabelSource {
    /// These, in this order; the table has one row for each.
    Values(Vec<String>),
    /// A code; each `#` becomes a digit.
    Pattern(String),
    /// First and last names of people.
    Person,
}

/// A text column with few values.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The values.
    pub values: Vec<String>,
    /// Follows a plural noun, with `{}` for the value: "from {}".
    pub is: Option<String>,
}

/// A column that has an order.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Distance between possible values.
    #[serde(default = "one")]
    pub step: f64,
    /// Follows a plural noun, `{}` being the bound: "heavier than {} kg".
    pub over: Option<String>,
    /// The same for smaller values.
    pub under: Option<String>,
    /// Superlative for the row with the largest value: "heaviest".
    pub most: Option<String>,
    /// Superlative for the row with the smallest value.
    pub least: Option<String>,
    /// Whether a sum over rows means something.
    #[serde(default)]
    pub total: bool,
}

/// A foreign key, from child (this table) to parent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The parent table.
    pub table: String,
    /// Follows the children's noun, `{}` being the parent: "written by {}".
    pub by: String,
    /// What parents have done with children: "written"; without it they simply have them.
    #[serde(default)]
    pub done: String,
}

fn one() -> f64 {
    1.0
}

/// How values of a column compare, which decides the words: "above" or "after".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Amounts are greater or smaller.
    Amount,
    /// Times are earlier or later.
    Time,
}

impl Domain {
    /// The table called `name`, as an index.
    pub fn table_index(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.name == name)
    }
}

impl Table {
    /// Noun for one row.
    pub fn one(&self) -> String {
        singular_of(self.noun.as_ref(), &self.name)
    }

    /// Noun for several rows.
    pub fn many(&self) -> String {
        plural_of(self.noun.as_ref(), &self.name)
    }

    /// "who" or "that".
    pub fn who(&self) -> &'static str {
        if self.person { "who" } else { "that" }
    }

    /// How many rows the table gets; labels that are listed decide it where nothing else does.
    pub fn row_count(&self) -> Option<usize> {
        let listed = self.columns.iter().find_map(|column| match &column.role {
            Role::Label(LabelSource::Values(values)) => Some(values.len()),
            _ => None,
        });
        listed.or(self.rows)
    }

    /// Index of the column that names a row.
    pub fn label(&self) -> Option<usize> {
        self.position(|role| matches!(role, Role::Label(_)))
    }

    /// Index of the primary key.
    pub fn key(&self) -> Option<usize> {
        self.position(|role| matches!(role, Role::Key))
    }

    /// Indices of all columns whose role passes `test`.
    pub fn columns_where(&self, test: impl Fn(&Role) -> bool) -> Vec<usize> {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(_, column)| test(&column.role))
            .map(|(index, _)| index)
            .collect()
    }

    fn position(&self, test: impl Fn(&Role) -> bool) -> Option<usize> {
        self.columns.iter().position(|column| test(&column.role))
    }
}

impl Column {
    /// Noun for one value.
    pub fn one(&self) -> String {
        singular_of(self.noun.as_ref(), &self.name)
    }

    /// Noun for several values.
    pub fn many(&self) -> String {
        plural_of(self.noun.as_ref(), &self.name)
    }

    /// Its type as CREATE TABLE gives it.
    pub fn sql_type(&self) -> &'static str {
        match &self.role {
            Role::Number(measure) if measure.has_decimals() => "REAL",
            Role::Key | Role::Number(_) | Role::Year(_) | Role::Ref(_) => "INTEGER",
            Role::Label(_) | Role::Category(_) | Role::Date(_) => "VARCHAR",
        }
    }
}

impl Role {
    /// The measure and how it is ordered, where the column has an order.
    pub fn measure(&self) -> Option<(&Measure, Order)> {
        match self {
            Role::Number(measure) => Some((measure, Order::Amount)),
            Role::Year(measure) | Role::Date(measure) => Some((measure, Order::Time)),
            _ => None,
        }
    }
}

impl Measure {
    /// Whether values are decimals.
    pub fn has_decimals(&self) -> bool {
        self.step.fract() != 0.0
    }
}

fn singular_of(noun: Option<&[String; 2]>, name: &str) -> String {
    noun.map_or_else(|| name.replace('_', " "), |[one, _]| one.clone())
}

fn plural_of(noun: Option<&[String; 2]>, name: &str) -> String {
    noun.map_or_else(|| plural(&name.replace('_', " ")), |[_, many]| many.clone())
}
