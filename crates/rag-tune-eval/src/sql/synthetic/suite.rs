//! The databases of one gold query: of several that chance offers, those that tell most.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::design::{Design, Kind};
use super::neighbours::neighbours;
use super::pool::Profile;
use super::query::Query;
use super::rows::{Content, content};
use super::schema::{ContextError, Schema};
use crate::sql::compare::{RowOrder, same_result};
use crate::sql::database::restrict;
use crate::sql::execute::{QueryError, QueryLimits, execute};
use crate::sql::row_judge::repaired;
use crate::sql::table::{Cell, Table};
use crate::sql::tokens::{sorts_its_rows, without_distinct};
use crate::statistics::random::SplitMix64;

/// Contents that are tried for each database.
const TRIES: u64 = 4;

/// What one query may use on tables of some dozens of rows.
const LIMITS: QueryLimits = QueryLimits {
    steps: 2_000_000,
    wall_clock: std::time::Duration::from_secs(2),
    rows: 100_000,
    result_bytes: 16 << 20,
};

/// Databases for one gold query, not yet on disk.
pub(super) struct Suite {
    schema: Schema,
    design: Design,
    contents: Vec<Content>,
    /// Whether gold returns something on at least one of them.
    pub(super) answers: bool,
    /// Tables and columns that the context lacks and the query names.
    pub(super) additions: usize,
}

impl Suite {
    /// `count` databases for `gold`, the same for the same arguments.
    ///
    /// # Errors
    /// If no tables can be made from `context`.
    pub(super) fn build(
        context: &str,
        gold: &str,
        count: usize,
        seed: u64,
    ) -> Result<Self, ContextError> {
        let mut schema = Schema::parse(context)?;
        let gold = repaired(gold);
        let query = Query::read(&gold, &mut schema);
        let design = Design::of(&schema, &query);
        let mut choice = Choice::new(&gold, neighbours(&gold, &query, &schema));
        let mut random =
            SplitMix64::new(seed ^ text_seed(context) ^ text_seed(&gold).rotate_left(1));
        let mut contents = Vec::new();
        for number in 0..count {
            let mut best: Option<(Offer, Content)> = None;
            for _ in 0..TRIES {
                let content = content(&query, &design, Profile::of(number), random.next());
                let database = Connection::open_in_memory().map_err(refused)?;
                fill(&database, &schema, &design, &content)?;
                restrict(&database).map_err(refused)?;
                let offer = choice.examine(&database).map_err(refused)?;
                let is_enough = offer.is_enough(&choice);
                if best
                    .as_ref()
                    .is_none_or(|(other, _)| offer.rank() > other.rank())
                {
                    best = Some((offer, content));
                }
                if is_enough {
                    break;
                }
            }
            let (offer, content) = best.expect("there is at least one try");
            choice.take(offer);
            contents.push(content);
        }
        Ok(Self {
            contents,
            answers: choice.answers,
            additions: query.additions,
            schema,
            design,
        })
    }

    /// Writes database `number` to the file `path`, which does not exist yet.
    pub(super) fn write(&self, number: usize, path: &Path) -> Result<(), ContextError> {
        let database = Connection::open(path).map_err(refused)?;
        fill(
            &database,
            &self.schema,
            &self.design,
            &self.contents[number],
        )
    }
}

/// FNV-1a (Fowler, Noll and Vo).
fn text_seed(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn refused(error: rusqlite::Error) -> ContextError {
    ContextError::Refused {
        reason: error.to_string(),
    }
}

/// Creates the tables and puts the rows in.
fn fill(
    database: &Connection,
    schema: &Schema,
    design: &Design,
    content: &Content,
) -> Result<(), ContextError> {
    // Nobody else reads the file, and one that is torn is made again.
    let settings =
        "PRAGMA page_size = 1024; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN";
    database.execute_batch(settings).map_err(refused)?;
    for (table, rows) in content.iter().enumerate() {
        let name = quoted(&schema.tables[table].name);
        let columns: Vec<String> = schema.tables[table]
            .columns
            .iter()
            .zip(&design.columns[table])
            .map(|(column, of)| {
                // VARCHAR is what loose schemas call everything: numbers are to sort and compare as numbers.
                let is_number = design.domains[of.domain].kind != Kind::Text
                    && design.domains[of.domain].kind != Kind::Date;
                format!(
                    "{} {}",
                    quoted(&column.name),
                    if is_number { "NUMERIC" } else { "TEXT" }
                )
            })
            .collect();
        let create = format!("CREATE TABLE {name} ({})", columns.join(", "));
        database.execute(&create, []).map_err(refused)?;
        let places = vec!["?"; columns.len()].join(", ");
        let insert = format!("INSERT INTO {name} VALUES ({places})");
        let mut insert = database.prepare(&insert).map_err(refused)?;
        for row in rows {
            insert
                .execute(rusqlite::params_from_iter(row))
                .map_err(refused)?;
        }
    }
    database.execute_batch("COMMIT").map_err(refused)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the databases taken so far tell.
struct Choice {
    gold: String,
    /// Without DISTINCT, as lenient mode runs it.
    bare_gold: String,
    order: RowOrder,
    /// Neighbours that returned what gold returns on all databases so far.
    left: Vec<String>,
    answers: bool,
}

/// What a database would add.
struct Offer {
    runs: bool,
    /// Whether gold returns something else than nothing, zero or NULL.
    answers: bool,
    /// Whether gold's answer does not depend on the order in which tables are read, as with ties.
    is_settled: bool,
    /// Which of the neighbours that are left it tells from gold.
    told: Vec<bool>,
}

impl Offer {
    fn rank(&self) -> (bool, bool, bool, usize) {
        let told = self.told.iter().filter(|told| **told).count();
        (self.runs, self.is_settled, self.answers, told)
    }

    fn is_enough(&self, choice: &Choice) -> bool {
        self.is_settled
            && self.answers
            && (choice.left.is_empty() || self.told.iter().all(|told| *told))
    }
}

impl Choice {
    fn new(gold: &str, neighbours: Vec<String>) -> Self {
        Self {
            gold: gold.to_owned(),
            bare_gold: without_distinct(gold),
            order: if sorts_its_rows(gold) {
                RowOrder::Matters
            } else {
                RowOrder::Free
            },
            left: neighbours,
            answers: false,
        }
    }

    fn examine(&self, database: &Connection) -> rusqlite::Result<Offer> {
        let run = |sql: &str| -> Result<Table, QueryError> { execute(database, sql, &LIMITS) };
        let (Ok(gold), Ok(bare)) = (run(&self.gold), run(&self.bare_gold)) else {
            return Ok(Offer {
                runs: false,
                answers: false,
                is_settled: false,
                told: Vec::new(),
            });
        };
        let tells = |neighbour: &String| {
            run(neighbour).map_or(true, |result| !same_result(&gold, &result, self.order))
        };
        let told = self.left.iter().map(tells).collect();
        database.set_db_config(DbConfig::SQLITE_DBCONFIG_REVERSE_SCANORDER, true)?;
        let reversed = run(&self.bare_gold);
        let is_settled = reversed.is_ok_and(|reversed| same_result(&bare, &reversed, self.order));
        Ok(Offer {
            runs: true,
            answers: says_something(&gold),
            is_settled,
            told,
        })
    }

    fn take(&mut self, offer: Offer) {
        self.answers |= offer.answers;
        let mut told = offer.told.into_iter();
        self.left.retain(|_| !told.next().unwrap_or(false));
    }
}

/// Whether a result is more than no rows, or a single zero or NULL.
fn says_something(result: &Table) -> bool {
    let is_nothing = |cell: &Cell| matches!(cell, Cell::Null | Cell::Integer(0));
    let is_single = result.rows() == 1 && result.columns() == 1;
    result.rows() > 0 && !(is_single && result.column(0).all(is_nothing))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTEXT: &str = "CREATE TABLE singer (singer_id VARCHAR, name VARCHAR, country VARCHAR, age INTEGER); \
                           CREATE TABLE concert (singer_id VARCHAR, year VARCHAR, city VARCHAR)";

    /// Whether `prediction` agrees with `gold` on all databases, rows in order where gold sorts.
    fn agrees(gold: &str, prediction: &str) -> bool {
        let suite = Suite::build(CONTEXT, gold, 5, 0).unwrap();
        let order = if sorts_its_rows(gold) {
            RowOrder::Matters
        } else {
            RowOrder::Free
        };
        suite.contents.iter().all(|content| {
            let database = Connection::open_in_memory().unwrap();
            fill(&database, &suite.schema, &suite.design, content).unwrap();
            let run = |sql: &str| execute(&database, sql, &LIMITS).unwrap();
            same_result(&run(gold), &run(prediction), order)
        })
    }

    #[test]
    fn a_query_that_asks_something_else_differs() {
        let joined = "SELECT DISTINCT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id \
                      WHERE T2.year = 2014 AND T2.city = 'Rome'";
        for (gold, prediction) in [
            (joined, joined.replace("2014", "2015")),
            (joined, joined.replace("T2.year = 2014 AND ", "")),
            (joined, joined.replace("DISTINCT ", "")),
            (joined, joined.replace("T1.name", "T1.country")),
            (joined, "SELECT DISTINCT name FROM singer".to_owned()),
            (
                "SELECT name FROM singer WHERE age > 20",
                "SELECT name FROM singer WHERE age >= 20".to_owned(),
            ),
            (
                "SELECT max(age) FROM singer",
                "SELECT min(age) FROM singer".to_owned(),
            ),
            (
                "SELECT name FROM singer ORDER BY age",
                "SELECT name FROM singer ORDER BY age DESC".to_owned(),
            ),
            (
                "SELECT country FROM singer GROUP BY country HAVING count(*) > 2",
                "SELECT country FROM singer GROUP BY country HAVING count(*) > 3".to_owned(),
            ),
            (
                "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM concert)",
                "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM concert)"
                    .to_owned(),
            ),
            (
                "SELECT name FROM singer WHERE country = 'France' AND age < 30",
                "SELECT name FROM singer WHERE country = 'France' OR age < 30".to_owned(),
            ),
        ] {
            assert!(!agrees(gold, &prediction), "{gold}\n{prediction}");
        }
    }

    #[test]
    fn a_query_that_asks_the_same_agrees() {
        for (gold, prediction) in [
            (
                "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id WHERE T2.year = 2014",
                "SELECT name FROM concert, singer WHERE year = '2014' AND concert.singer_id = singer.singer_id",
            ),
            (
                "SELECT name FROM singer ORDER BY age DESC LIMIT 1",
                "SELECT name FROM singer WHERE age = (SELECT max(age) FROM singer)",
            ),
            (
                "SELECT count(*) FROM singer WHERE age BETWEEN 20 AND 30",
                "SELECT count(singer_id) FROM singer WHERE NOT (age < 20 OR age > 30)",
            ),
        ] {
            assert!(agrees(gold, prediction), "{gold}\n{prediction}");
        }
    }

    #[test]
    fn gold_that_cannot_run_says_so_and_has_databases() {
        let suite =
            Suite::build(CONTEXT, "SELECT no_such_function(age) FROM singer", 2, 0).unwrap();
        assert!(!suite.answers);
        assert_eq!(suite.contents.len(), 2);
    }

    #[test]
    fn a_name_that_sqlite_refuses_is_an_error() {
        let error = Suite::build("CREATE TABLE sqlite_x (a INT)", "SELECT 1", 1, 0)
            .err()
            .unwrap();
        assert!(error.to_string().contains("sqlite_x"), "{error}");
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[a-zA-Z é\"'();-]{1,8}", 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_same_arguments_give_the_same_bytes(seed: u64, age in 0..90_i64) {
            let gold = format!("SELECT name FROM singer WHERE age > {age} ORDER BY name");
            let folder = tempfile::tempdir().unwrap();
            let written: Vec<Vec<u8>> = ["a.sqlite", "b.sqlite"]
                .into_iter()
                .map(|name| {
                    let file = folder.path().join(name);
                    Suite::build(CONTEXT, &gold, 2, seed).unwrap().write(1, &file).unwrap();
                    std::fs::read(file).unwrap()
                })
                .collect();
            prop_assert_eq!(&written[0], &written[1]);
        }

        #[test]
        fn the_tables_of_the_context_all_exist(names in names(), columns in names()) {
            let columns: Vec<String> = columns.iter().map(|name| format!("{} VARCHAR", quoted(name))).collect();
            let table = |name: &String| format!("CREATE TABLE {} ({})", quoted(name), columns.join(", "));
            let context: Vec<String> = names.iter().map(table).collect();
            let suite = Suite::build(&context.join("; "), "SELECT 1", 1, 0).unwrap();
            let database = Connection::open_in_memory().unwrap();
            fill(&database, &suite.schema, &suite.design, &suite.contents[0]).unwrap();
            for name in &names {
                database.prepare(&format!("SELECT * FROM {}", quoted(name))).unwrap();
            }
        }

        #[test]
        fn any_context_gives_databases_or_an_error(
            context in "(CREATE TABLE )?[a-zA-Z \"'`\\[\\](),;.*é\u{0}-]{0,40}( VARCHAR\\))?",
            gold in "(SELECT [a-z*]{1,3} FROM [a-z]{1,3})?[a-z \"'=<>(),0-9]{0,20}",
        ) {
            // What matters is that it returns.
            let _made = Suite::build(&context, &gold, 2, 0).is_ok();
        }
    }
}
