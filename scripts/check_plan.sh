#!/usr/bin/env bash
# What `rag-tune plan` predicts beside what training then uses: peak resident memory, tokens, steps, time of the steps.
#
# usage: scripts/check_plan.sh [FOLDER]
#
# Needs RAG_TUNE_MIRROR with SmolLM2-135M-Instruct, all-MiniLM-L6-v2 and samlhuillier/sql-create-context-spider-intersect,
# and python3. RAG_TUNE is the program (default: a release build), STEPS the steps of a run (3), ROUNDS how often each
# is planned and trained (3; the median of the times counts). Run it on an idle machine: the times are measured.
#
# Exits with 1 where memory is not within 10 %, tokens or steps differ, or SmolLM2 with 2,048 tokens a micro-batch needs
# 1.5 GiB with `selective` or 1 GiB with `full`. Times are shown and left to the reader.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
: "${RAG_TUNE_MIRROR:?names a mirror of the hub}"
if [[ -z "${RAG_TUNE:-}" ]]; then
  cargo build --release --locked --quiet --package rag-tune-cli
  RAG_TUNE="${CARGO_TARGET_DIR:-target}/release/rag-tune"
fi
work="${1:-$(mktemp -d)}"
exec python3 - "$RAG_TUNE" "$work" "${STEPS:-3}" "${ROUNDS:-3}" <<'PYTHON'
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

program, work, steps, rounds = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
CONFIG = "configs/sql_rag1_smollm2.toml"
NF4 = [
    "model.quantization=nf4", "lora.rank=32", "lora.target_modules=all-linear", "lora.use_dora=true",
    "train.tokens_per_micro_batch=1024", "train.max_length=512", "train.activations=selective",
]
# Micro-batches that are as full as they can be; those of 16 rows a step are not.
FULL = ["train.batch_size=", "train.grad_accum_steps=2"]
F32 = [
    "model.compute=f32", "lora.rank=8", 'lora.target_modules=["q_proj","v_proj"]', "train.optimizer=adamw_8bit",
    "train.tokens_per_micro_batch=3072", "train.batch_size=24", "retrieval.examples=0",
]
# Name, settings, and what its peak must stay under, in GiB.
CASES = [
    ("int8, rank 16, 2,048 tokens, selective", [*FULL, "train.activations=selective"], 1.5),
    ("int8, rank 16, 2,048 tokens, full", [*FULL, "train.activations=full"], 1.0),
    ("NF4, DoRA of rank 32 on all linears, 1,024 tokens, selective", NF4, None),
    ("bf16, rank 16, 2,048 tokens, all", ["model.quantization=none", "train.activations=all"], None),
    ("int8 in f32 compute, rank 8 on q and v, 8-bit AdamW, no example, 3,072 tokens, auto", F32, None),
]


def flags(settings):
    return [flag for setting in settings for flag in ("--set", setting)]


def plan(settings):
    command = [program, "plan", CONFIG, "--json", "--remeasure", *flags(settings)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def train(settings, run):
    """Peak resident bytes, and what metrics.jsonl says of the steps."""
    command = [program, "train", CONFIG, "--force", *flags(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    talk = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"check_plan: training ended with {status}:\n{talk}")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return usage.ru_maxrss * 1024, records


def main():
    gib, failures = 2**30, []
    print("| run | peak, GiB: predicted | measured | difference | tokens | steps | time of the steps, s: predicted | measured | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for index, (name, settings, limit) in enumerate(CASES):
        run = work / f"run{index}"
        settings = [f'output="{run}"', "train.epochs=", f"train.max_steps={steps}", *settings]
        plan(settings)  # The first one augments, which takes memory of its own.
        planned, peaks, predicted_s, measured_s = None, [], [], []
        for _ in range(rounds):
            planned = plan(settings)
            peak, records = train(settings, run)
            peaks.append(peak)
            predicted_s.append(planned["seconds"])
            measured_s.append(sum(record["seconds"] for record in records))
        peak, predicted = max(peaks), planned["peak_bytes"]
        tokens = sum(record["tokens"] for record in records)
        expected, seconds = median(predicted_s), median(measured_s)
        print(
            f"| {name} | {predicted / gib:.2f} | {peak / gib:.2f} | {predicted / peak - 1:+.1%} | {tokens} | {len(records)} "
            f"| {expected:.1f} | {seconds:.1f} | {expected / seconds - 1:+.1%} |",
            flush=True,
        )
        if abs(predicted / peak - 1) > 0.1:
            failures.append(f"{name}: memory is not within 10 %")
        if (tokens, len(records)) != (planned["work"]["tokens"], planned["work"]["steps"]):
            failures.append(f"{name}: {tokens} tokens in {len(records)} steps, predicted {planned['work']}")
        if limit and peak >= limit * gib:
            failures.append(f"{name}: {peak / gib:.2f} GiB are not under {limit} GiB")
        shutil.rmtree(run)
    for failure in failures:
        print(f"check_plan: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


main()
PYTHON
