#!/usr/bin/env python3
"""Writes a run as an offline run of Weights & Biases, with wandb's own library; `wandb sync` uploads it later.

usage: python scripts/export_wandb.py RUN [--project NAME] [--out FOLDER]

Needs wandb: pip install wandb==0.31.0. RUN is a folder that rag-tune train wrote; FOLDER (default: RUN) gets
wandb/offline-run-*. Nothing is sent: the run is made with mode="offline". Every key of metrics.jsonl becomes train/KEY,
every validation validation/METRIC, at the optimizer step; rag_tune.toml becomes the run's config.
"""

import argparse
import json
import tomllib
from pathlib import Path

import wandb

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", type=Path)
parser.add_argument("--project", default="rag-tune")
parser.add_argument("--out", type=Path)
args = parser.parse_args()


def lines(name):
    path = args.run / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


steps = {}
for record in lines("metrics.jsonl"):
    step = record.pop("step")
    steps.setdefault(step, {}).update({f"train/{key}": value for key, value in record.items()})
for record in lines("validation.jsonl"):
    steps.setdefault(record["step"], {})[f"validation/{record['metric']}"] = record["value"]
for record in lines("non_finite.jsonl"):
    steps.setdefault(record["step"], {})["train/skipped"] = 1
if not steps:
    raise SystemExit(f"{args.run} has no metrics.jsonl: name a folder that rag-tune train wrote")

config = args.run / "rag_tune.toml"
out = args.out or args.run
out.mkdir(parents=True, exist_ok=True)
run = wandb.init(
    mode="offline",
    project=args.project,
    name=args.run.resolve().name,
    config=tomllib.loads(config.read_text()) if config.exists() else None,
    dir=str(out),
)
for step, values in sorted(steps.items()):
    run.log(values, step=step)
folder = Path(run.dir).parent
run.finish()
print(f"wrote {folder}: {len(steps)} steps; upload it with `wandb sync {folder}`")
