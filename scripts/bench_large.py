#!/usr/bin/env python3
"""Peak memory and time of augmenting a JSON-lines file that does not fit into memory.

usage: scripts/bench_large.py [--binary target/release/rag-tune] [--gigabytes 5] [--row-kilobytes 24]
                              [--folder DIR] [--mirror DIR] [--keep]

Writes a made-up GSM8K-like train split of that size (a long `document` column that no prompt holds, a
row of 1 MB now and then) and 1,000 eval rows, augments both with one retrieved example by all-MiniLM-L6-v2
and an empty vector cache, and prints seconds, peak resident memory and the size of the vectors. Needs
about twice the size on disk; the standard library is enough.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time

THINGS = "apples pencils marbles books tickets coins cards shells stamps bricks".split()
PEOPLE = "Ana Bo Carla Dev Emil Fay Gus Hana Ivo Jun Kai Lea Max Nina Otto Pia".split()
ACTS = "buys finds sells loses counts packs trades gives hides paints".split()


def question(draw, number):
    person, other = draw.sample(PEOPLE, 2)
    thing, more = draw.sample(THINGS, 2)
    a, b = draw.randrange(2, 900), draw.randrange(2, 900)
    return (
        f"{person} {draw.choice(ACTS)} {a} {thing} and {other} {draw.choice(ACTS)} {b} {more} "
        f"in case {number}. How many are that together?"
    ), f"{a}+{b}=<<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"


def write_split(path, rows, document_bytes, seed):
    draw = random.Random(seed)
    words = " ".join("".join(draw.choices("abcdefghijklmnop", k=7)) for _ in range(200_000))
    with path.open("w") as file:
        for number in range(rows):
            text, answer = question(draw, f"{seed}-{number}")
            size = 1_000_000 if document_bytes > 1000 and number % 5_000 == 4_999 else document_bytes
            start = draw.randrange(len(words) - size)
            row = {"question": text, "answer": answer, "document": words[start : start + size]}
            file.write(json.dumps(row) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/rag-tune")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--row-kilobytes", type=float, default=24.0)
    parser.add_argument("--folder", help="where to work [default: a temporary folder]")
    parser.add_argument("--mirror", default=os.environ.get("RAG_TUNE_MIRROR", ".cache/mirror"))
    parser.add_argument("--keep", action="store_true", help="leave the files")
    args = parser.parse_args()

    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-large-", dir=args.folder))
    try:
        data = folder / "data"
        data.mkdir()
        rows = int(args.gigabytes * 1e9 / (args.row_kilobytes * 1e3))
        write_split(data / "train.jsonl", rows, int(args.row_kilobytes * 1e3), seed=1)
        write_split(data / "test.jsonl", 1_000, 100, seed=2)
        size = (data / "train.jsonl").stat().st_size
        config = folder / "large.toml"
        config.write_text(
            f'task = "gsm8k"\noutput = "{folder}/out"\n[model]\nbase = "none"\n[data]\nsource = "{data}"\n'
            '[retrieval]\nexamples = 1\n[train]\nmax_steps = 1\n[eval]\nsplit = "test"\n'
        )
        environment = dict(os.environ, XDG_CACHE_HOME=str(folder / "cache"))
        command = [args.binary, "augment", str(config), "--mirror", args.mirror]
        started = time.monotonic()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        vectors = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
        print(f"train split     {size / 1e9:.2f} GB, {rows} rows")
        print(f"time            {seconds:.0f} s")
        print(f"peak memory     {peak / 1e9:.2f} GB (resident, mapped files included)")
        print(f"vectors on disk {vectors / 1e9:.2f} GB (cache and store)")
    finally:
        if not args.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
