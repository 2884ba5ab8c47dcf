#!/usr/bin/env python3
"""Reads a run's event files with TensorBoard's own reader and compares every point with metrics.jsonl and validation.jsonl.

usage: python scripts/check_tensorboard.py RUN [RUN...]    (folders that rag-tune train wrote)

Needs tensorboard: pip install tensorboard==2.21.0. Fails unless each step is there exactly once, with the value of its line as
the f32 that an event holds, through both readers that TensorBoard has for such folders.
"""

import json
import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

TRAIN = ["loss", "grad_norm", "lr", "epoch", "tokens_per_s", "supervised_tokens_per_s", "peak_share"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def expected(run):
    curves = {}
    for record in lines(run / "metrics.jsonl"):
        for key in TRAIN:
            curves.setdefault(f"train/{key}", []).append((record["step"], np.float32(record[key])))
    for record in lines(run / "validation.jsonl"):
        curves.setdefault(f"validation/{record['metric']}", []).append((record["step"], np.float32(record["value"])))
    return curves


def accumulated(folder):
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    # TensorBoard reads scalars as tensors since 2.x; both ways are asked for.
    found = {tag: [(e.step, np.float32(e.value)) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    for tag in reader.Tags()["tensors"]:
        from tensorboard.util import tensor_util

        found[tag] = [(e.step, np.float32(tensor_util.make_ndarray(e.tensor_proto))) for e in reader.Tensors(tag)]
    return found


def raw(folder):
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, np.float32(value.simple_value)))
    return found


for run in map(Path, sys.argv[1:] or sys.exit(__doc__)):
    want = expected(run)
    assert want, f"{run} has no metrics"
    for name, have in [("EventAccumulator", accumulated(run / "tensorboard")), ("event files", raw(run / "tensorboard"))]:
        assert have.keys() == want.keys(), f"{run}, {name}: {have.keys() ^ want.keys()}"
        for tag, points in want.items():
            assert have[tag] == points, f"{run}, {name}: {tag} differs: {[p for p in zip(have[tag], points) if p[0] != p[1]][:3]}"
    points = sum(map(len, want.values()))
    print(f"{run}: {len(want)} curves, {points} points, all as in metrics.jsonl")
