#!/usr/bin/env python3
"""Reads an offline run of Weights & Biases back and compares every step with the metrics.jsonl that it was made of.

usage: python scripts/check_wandb.py RUN OFFLINE    (OFFLINE: the offline-run-* folder that scripts/export_wandb.py wrote)

Needs wandb: pip install wandb==0.31.0, for its record messages. The file around them is a LevelDB log: 7 bytes of header, then
blocks of 32 KiB with records of CRC (4 bytes), length (2), kind (1: whole, 2 to 4: first, middle, last part).
"""

import json
import sys
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768


def records(data):
    assert data[:4] == b":W&B", "no file of wandb"
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


if len(sys.argv) != 3:
    raise SystemExit(__doc__)
run, offline = map(Path, sys.argv[1:])
[path] = offline.glob("run-*.wandb")
steps = {}
for record in records(path.read_bytes()):
    if record.WhichOneof("record_type") == "history":
        values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        steps[values["_step"]] = values
count = 0
for line in (run / "metrics.jsonl").read_text().splitlines():
    want = json.loads(line)
    step = want.pop("step")
    for key, value in want.items():
        assert steps[step][f"train/{key}"] == value, f"step {step}: {key} is {steps[step].get(f'train/{key}')}, not {value}"
        count += 1
assert count > 0, f"{run} has no metrics"
print(f"{path}: {len(steps)} steps, {count} values, all as in metrics.jsonl")
