"""The exact store's benchmark beside PyTorch and faiss, on the same vectors.

    pip install --target LIBRARIES --no-deps faiss-cpu
    cargo run --release -p rag-tune-augment --example store_bench -- FOLDER
    PYTHONPATH=LIBRARIES python scripts/bench_store.py FOLDER

Reads what the example left in FOLDER: the store, the queries, and the rows that it found. For each library: the best time
of several for one query and for all of them, and how many first picks equal the store's.
"""

import sys
import time
from pathlib import Path

import faiss
import numpy as np
import torch

DIMENSION, NEAREST, REPEATS = 384, 8, 3
# Scores of 128 queries and a million rows are 0.5 GB.
BLOCK = 128


def by_torch(vectors, queries):
    found = [(block @ vectors.T).topk(NEAREST).indices for block in queries.split(BLOCK)]
    return torch.cat(found).numpy()


def best_of(repeats, act):
    best, result = float("inf"), None
    for _ in range(repeats):
        started = time.perf_counter()
        result = act()
        best = min(best, time.perf_counter() - started)
    return best, result


def main():
    folder = Path(sys.argv[1])
    vectors = np.fromfile(folder / "store" / "vectors.f32", dtype="<f4").reshape(-1, DIMENSION)
    queries = np.fromfile(folder / "queries.f32", dtype="<f4").reshape(-1, DIMENSION)
    ours = np.fromfile(folder / "found.i32", dtype="<i4").reshape(-1, NEAREST)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    searches = {
        f"faiss-cpu {faiss.__version__} IndexFlatIP": lambda queries: index.search(queries, NEAREST)[1],
        f"torch {torch.__version__} (q @ v.T).topk": lambda queries: by_torch(
            torch.from_numpy(vectors), torch.from_numpy(queries)
        ),
    }
    for name, search in searches.items():
        one, _ = best_of(10, lambda: search(queries[:1]))
        many, found = best_of(REPEATS, lambda: search(queries))
        same = int((found[:, 0] == ours[:, 0]).sum())
        print(f"{name}: one {1e3 * one:.2f} ms, {len(queries)} {many:.3f} s, first picks as ours: {same} of {len(queries)}")


if __name__ == "__main__":
    main()
