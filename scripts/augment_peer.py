"""What `rag-tune augment` does, done with sentence-transformers and chromadb: the figures it is measured against.

usage: augment_peer.py CONFIG... --mirror DIR --out DIR
                       [--queries batched|each] [--client ephemeral|persistent] [--batch 64] [--threads 2]

For each config (configs/sql_rag1.toml, say): embeds the query column of the train and the eval split, puts the
train rows into a collection, finds for every row the nearest other train row (not itself, not of equal text, and
different in the `different` columns), fills the same templates, and writes DIR/<task>/<split>.jsonl. Everything runs
in one process, so that Python's imports and the model's loading are paid once for all configs.

--queries batched: 64 queries a call, more results than needed, filtered in Python, twice as many for what is left;
--queries each: one query a row with a `where` filter, as the original tool did it.

The last line of the output is JSON: seconds of each phase, wall and CPU seconds, peak memory. scripts/bench-augment.sh
makes the environment, runs this and rag-tune in turns, and prints the table.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

STARTED = time.perf_counter()
TASKS = Path(__file__).resolve().parent.parent / "crates/rag-tune-augment/tasks"
# chromadb's own limit on rows a call.
LARGEST_ADD = 5000
# Results asked for at first: enough that most rows find one that the constraints allow.
FIRST_RESULTS = 16

seconds = defaultdict(float)


@contextmanager
def phase(name: str):
    """Adds what the block takes to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - start


class Config:
    """What this script reads of a rag-tune config and its task."""

    def __init__(self, path: Path, mirror: Path):
        config = tomllib.loads(path.read_text())
        name = config.get("task", "sql")
        task = tomllib.loads((TASKS / f"{name}.toml").read_text())
        data, retrieval = config["data"], config["retrieval"]
        if retrieval.get("examples", 1) != 1 or retrieval.get("selector", "semantic") != "semantic":
            sys.exit(f"augment_peer: {path} asks for more than one nearest example")
        self.name, self.templates = name, task["templates"]
        self.instruction_first = task.get("layout", "instruction_first") == "instruction_first"
        # The data's own name of each of the task's columns.
        self.names = data.get("columns", {})
        self.query_column = task["query_column"]
        self.answer_column = task["answer_column"]
        self.different = retrieval.get("different", [])
        owner_name, _, part = data["source"].partition(":")
        self.folder = mirror / "datasets" / owner_name / part
        self.embedder = mirror / "models" / retrieval["embedder"]
        self.train = data.get("train_split", "train")
        self.splits = list(dict.fromkeys([self.train, config.get("eval", {}).get("split", "validation")]))

    def read(self, split: str) -> list[dict]:
        """The rows of a split, with the task's column names."""
        path = self.folder / f"{split}.jsonl"
        with path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for row in rows:
            row.update({ours: row[theirs] for ours, theirs in self.names.items()})
        return rows


class Prompts:
    """The task's templates, by jinja2."""

    def __init__(self, config: Config):
        from jinja2 import Environment

        environment = Environment(trim_blocks=True, keep_trailing_newline=True)
        self.parts = {name: environment.from_string(text) for name, text in config.templates.items()}
        self.config = config

    def fill(self, row: dict, example: dict) -> dict:
        """`inference_prompt` and `full_prompt`."""
        header = self.parts["header"].render(count=1)
        examples = header + "\n" + self.parts["example"].render(example=example, index=1, count=1)
        instruction, query = self.parts["instruction"].render(), self.parts["query"].render(row=row)
        first = [instruction, examples] if self.config.instruction_first else [examples, instruction]
        prompt = "\n\n".join(part for part in [*first, query] if part)
        return {"inference_prompt": prompt, "full_prompt": f"{prompt}\n{row[self.config.answer_column]}"}


class Nearest:
    """The nearest allowed train row, through a chromadb collection."""

    def __init__(self, client, config: Config, train: list[dict], vectors, batch: int, each: bool):
        self.config, self.train, self.batch, self.each = config, train, batch, each
        self.texts = [row[config.query_column].strip() for row in train]
        with phase("index"):
            self.collection = client.create_collection(config.name, metadata={"hnsw:space": "cosine"})
            columns = config.different
            for start in range(0, len(train), LARGEST_ADD):
                rows = range(start, min(start + LARGEST_ADD, len(train)))
                self.collection.add(
                    ids=[str(row) for row in rows],
                    embeddings=vectors[rows.start : rows.stop],
                    metadatas=[{c: train[row][c] for c in columns} for row in rows] if columns else None,
                )

    def find(self, rows: list[dict], vectors, own: bool) -> list[tuple[int, float]]:
        """Row and cosine for each of `rows`."""
        found: list[tuple[int, float] | None] = [None] * len(rows)
        wanted, results = list(range(len(rows))), FIRST_RESULTS if not self.each else 4
        while wanted:
            left = []
            step = 1 if self.each else self.batch
            for start in range(0, len(wanted), step):
                queries = wanted[start : start + step]
                answer = self.collection.query(
                    query_embeddings=vectors[queries],
                    n_results=min(results, len(self.train)),
                    where=self.where(rows[queries[0]]) if self.each else None,
                    include=["distances"],
                )
                for query, ids, distances in zip(queries, answer["ids"], answer["distances"]):
                    found[query] = self.first_allowed(rows[query], query if own else None, ids, distances)
                    if found[query] is None:
                        left.append(query)
            if left and results >= len(self.train):
                sys.exit(f"augment_peer: row {left[0]} has no allowed neighbour")
            wanted, results = left, 2 * results
        return found

    def where(self, row: dict) -> dict | None:
        conditions = [{column: {"$ne": row[column]}} for column in self.config.different]
        return {"$and": conditions} if len(conditions) > 1 else next(iter(conditions), None)

    def first_allowed(self, row, own_index, ids, distances):
        text = row[self.config.query_column].strip()
        for id, distance in zip(ids, distances):
            index = int(id)
            other = self.train[index]
            if index == own_index or self.texts[index] == text:
                continue
            if any(row[column] == other[column] for column in self.config.different):
                continue
            return index, 1.0 - distance
        return None


def augment(config: Config, model, client, out: Path, batch: int, each: bool) -> int:
    """One config; returns the number of rows written."""
    with phase("read"):
        splits = {name: config.read(name) for name in config.splits}
    with phase("embed"):
        vectors = {
            name: model.encode(
                [row[config.query_column] for row in rows],
                batch_size=batch,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            for name, rows in splits.items()
        }
    train = splits[config.train]
    nearest = Nearest(client, config, train, vectors[config.train], batch, each)
    with phase("render"):
        prompts = Prompts(config)
    (out / config.name).mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        with phase("query"):
            chosen = nearest.find(rows, vectors[name], name == config.train)
        with phase("render"):
            filled = [prompts.fill(row, train[index]) for row, (index, _) in zip(rows, chosen)]
        with phase("write"), (out / config.name / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row, texts, (index, score) in zip(rows, filled, chosen):
                line = {**row, **texts, "examples": [{"row": index, "score": score}]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return sum(map(len, splits.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", choices=["batched", "each"], default="batched")
    parser.add_argument("--client", choices=["ephemeral", "persistent"], default="ephemeral")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    # Nothing is to be fetched, and no thread count but the one asked for is to be used.
    os.environ |= {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False"}
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "true"}
    with phase("import"):
        import chromadb
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(arguments.threads)
    configs = [Config(path, arguments.mirror) for path in arguments.configs]
    if len({config.embedder for config in configs}) > 1:
        sys.exit("augment_peer: the configs name different embedders")
    store = Path(tempfile.mkdtemp(prefix="augment-peer-"))
    try:
        with phase("load"):
            model = SentenceTransformer(str(configs[0].embedder), device="cpu")
            if arguments.client == "ephemeral":
                client = chromadb.EphemeralClient()
            else:
                client = chromadb.PersistentClient(str(store))
        each = arguments.queries == "each"
        rows = sum(augment(config, model, client, arguments.out, arguments.batch, each) for config in configs)
    finally:
        shutil.rmtree(store, ignore_errors=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "rows": rows,
        "phases": {name: round(value, 3) for name, value in seconds.items()},
        "wall_s": round(time.perf_counter() - STARTED, 3),
        "user_s": round(usage.ru_utime, 3),
        "system_s": round(usage.ru_stime, 3),
        "peak_rss_mib": round(usage.ru_maxrss / 1024),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
