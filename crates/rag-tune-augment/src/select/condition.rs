//! `retrieval.where`: an expression over the columns of a row and of a train row.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use minijinja::value::{Object, Serde};
use minijinja::{Environment, ErrorKind, Expression, UndefinedBehavior, Value, context};

use super::SelectError;
use super::comparison::{Comparison, Side, comparisons};
use crate::Row;

/// What expressions are compiled in. One for all: an expression borrows its environment.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    // A misspelt column is an error and not a false.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
});

/// Whether `expression` can be `retrieval.where`; an empty one is none and can.
///
/// # Errors
/// [`SelectError::BadCondition`].
pub fn check_condition(expression: &str) -> Result<(), SelectError> {
    Condition::new(expression).map(|_| ())
}

/// A compiled condition.
pub(super) struct Condition {
    source: String,
    expression: Expression<'static, 'static>,
    pub(super) row_columns: Arc<[String]>,
    pub(super) example_columns: Arc<[String]>,
    comparisons: Vec<Comparison>,
}

impl Condition {
    /// Compiles `source`; `None` if it is empty.
    pub(super) fn new(source: &str) -> Result<Option<Self>, SelectError> {
        let source = source.trim();
        if source.is_empty() {
            return Ok(None);
        }
        let bad = |problem: String| SelectError::BadCondition {
            expression: source.into(),
            problem,
        };
        let expression = ENVIRONMENT
            .compile_expression_owned(source.to_owned())
            .map_err(|error| bad(message(&error)))?;
        let (mut row_columns, mut example_columns) = (BTreeSet::new(), BTreeSet::new());
        for name in expression.undeclared_variables(true) {
            let mut parts = name.split('.');
            match (parts.next(), parts.next()) {
                (Some("row"), Some(column)) => row_columns.insert(column.to_owned()),
                (Some("example"), Some(column)) => example_columns.insert(column.to_owned()),
                (Some("row" | "example"), None) => {
                    return Err(bad(format!("it names no column of `{name}`")));
                }
                _ if ENVIRONMENT.globals().any(|(global, _)| global == name) => continue,
                _ => return Err(bad(format!("it reads `{name}`, which is not there"))),
            };
        }
        let condition = Self {
            source: source.into(),
            expression,
            row_columns: row_columns.into_iter().collect(),
            example_columns: example_columns.into_iter().collect(),
            comparisons: comparisons(source),
        };
        condition.check_names().map_err(bad)?;
        Ok(Some(condition))
    }

    /// Filters and tests are looked up when they run: a misspelt one shows on any values.
    fn check_names(&self) -> Result<(), String> {
        let ones = |columns: &Arc<[String]>| Fields {
            names: columns.clone(),
            values: vec![Value::from(1); columns.len()],
        };
        let context = context! {
            row => Value::from_object(ones(&self.row_columns)),
            example => Value::from_object(ones(&self.example_columns)),
        };
        match self.expression.eval(context) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction
                ) =>
            {
                Err(message(&error))
            }
            _ => Ok(()),
        }
    }

    /// All columns that it reads, of row or example.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let both = self.row_columns.iter().chain(self.example_columns.iter());
        both.map(String::as_str)
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// What it reads of `row`.
    pub(super) fn of_row(&self, row: &Row) -> Arc<Fields> {
        Arc::new(Fields::new(&self.row_columns, row))
    }

    /// What it reads of `row` as an example: a value for each of `example_columns`.
    pub(super) fn of_example(&self, row: &Row) -> Vec<Value> {
        Fields::new(&self.example_columns, row).values
    }

    /// Whether it holds, or why that cannot be said.
    pub(super) fn holds(&self, row: &Arc<Fields>, example: &[Value]) -> Result<bool, String> {
        let example = Arc::new(Fields {
            names: self.example_columns.clone(),
            values: example.to_vec(),
        });
        for comparison in &self.comparisons {
            comparison.check(|side, column| match side {
                Side::Row => row.get(column),
                Side::Example => example.get(column),
            })?;
        }
        let pair = Pair {
            row: row.clone(),
            example,
        };
        let value = self
            .expression
            .eval(Value::from_object(pair))
            .map_err(|error| message(&error))?;
        bool::try_from(value.clone())
            .map_err(|_| format!("it is {value:?}, which is neither true nor false"))
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

/// The values of some columns of a row; undefined where the row has none.
#[derive(Debug)]
pub(super) struct Fields {
    names: Arc<[String]>,
    values: Vec<Value>,
}

impl Fields {
    fn new(names: &Arc<[String]>, row: &Row) -> Self {
        let value = |name: &String| match row.fields.get(name) {
            None | Some(serde_json::Value::Null) => Value::UNDEFINED,
            Some(value) => Value::from(Serde(value)),
        };
        Self {
            names: names.clone(),
            values: names.iter().map(value).collect(),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let position = self.names.iter().position(|held| held == name)?;
        Some(&self.values[position]).filter(|value| !value.is_undefined())
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key.as_str()?).cloned()
    }
}

/// What the expression sees.
#[derive(Debug)]
struct Pair {
    row: Arc<Fields>,
    example: Arc<Fields>,
}

impl Object for Pair {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "row" => Some(Value::from_dyn_object(self.row.clone())),
            "example" => Some(Value::from_dyn_object(self.example.clone())),
            _ => None,
        }
    }
}

/// Without minijinja's "(in <expression>:1)", which says nothing here.
fn message(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(fields: serde_json::Value) -> Row {
        Row {
            index: 0,
            fields: fields.as_object().unwrap().clone(),
        }
    }

    fn holds(
        source: &str,
        of_row: serde_json::Value,
        of_example: serde_json::Value,
    ) -> Result<bool, String> {
        let condition = Condition::new(source).unwrap().unwrap();
        condition.holds(
            &condition.of_row(&row(of_row)),
            &condition.of_example(&row(of_example)),
        )
    }

    fn problem(source: &str) -> String {
        check_condition(source).unwrap_err().to_string()
    }

    #[test]
    fn columns_of_row_and_example_are_compared() {
        let level = |level: i32| json!({"level": level, "text": "abc"});
        let easier = "example.level <= row.level";
        assert_eq!(holds(easier, level(2), level(2)), Ok(true));
        assert_eq!(holds(easier, level(1), level(2)), Ok(false));
        let short = "example.text|length < 5 and row.text != 'x'";
        assert_eq!(holds(short, level(1), level(1)), Ok(true));
        let condition = Condition::new(short).unwrap().unwrap();
        assert_eq!(condition.columns().collect::<Vec<_>>(), ["text", "text"]);
    }

    #[test]
    fn an_expression_is_checked_before_it_meets_data() {
        assert!(check_condition(" ").is_ok());
        assert!(check_condition("row.level in range(3)").is_ok());
        assert!(problem("example.level <").contains("syntax error"));
        assert!(problem("level < 3").contains("it reads `level`, which is not there"));
        assert!(problem("row['level'] < 3").contains("it names no column of `row`"));
        assert!(problem("row.level|levle < 3").contains("unknown filter"));
        assert!(problem("row.level is odder").contains("unknown test"));
    }

    #[test]
    fn what_cannot_be_compared_is_an_error_and_not_an_order_of_kinds() {
        let (number, text) = (json!({"level": 3}), json!({"level": "3"}));
        let fails = |source: &str, of_row, of_example, part: &str| {
            let problem = holds(source, of_row, of_example).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        };
        let kinds = "`example.level` is a text and `row.level` is a number";
        let (a, b) = (&number, &text);
        fails("example.level < row.level", a.clone(), b.clone(), kinds);
        fails("row.level - 1 < 3", b.clone(), a.clone(), "operator");
        let neither = "neither true nor false";
        fails("row.level", a.clone(), b.clone(), neither);
        let undefined = "undefined";
        fails("row.level < 4", json!({}), a.clone(), undefined);
        fails(
            "row.level < 4",
            json!({"level": null}),
            a.clone(),
            undefined,
        );
        assert_eq!(
            holds("example.level|int < 4", a.clone(), b.clone()),
            Ok(true)
        );
    }
}
