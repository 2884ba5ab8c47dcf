#!/usr/bin/env bash
# LoRA training throughput and peak memory of rag-tune beside PyTorch + PEFT, on this machine, in one run.
#
# usage: scripts/bench-train.sh [MODEL.gguf] [STEPS]
#
# SmolLM2-135M-Instruct, rank 8 on q, k, v, o, 8 rows of 256 tokens, loss on every token, full optimizer steps
# (forward, backward, AdamW); the median of STEPS (default 5) after one that is not counted. The programs take
# turns; run it on an idle machine. Makes the Python environment in .cache/python if it is not there.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
require_toolchain

gguf="${1:-}"
steps="${2:-5}"
if [[ -z "$gguf" ]]; then
  scripts/fetch-models.sh "$root/.cache/mirror"
  gguf="$root/.cache/mirror/models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
fi
if [[ ! -f "$gguf" ]]; then
  echo "bench-train: \`$gguf\` does not exist; name the .gguf file" >&2
  exit 1
fi
python="${RAG_TUNE_PYTHON:-$root/.cache/python}/bin/python"
[[ -x "$python" ]] || scripts/python-env.sh "$root/.cache/python"
base="$root/.cache/smollm2-f32"
[[ -f "$base/config.json" ]] || "$python" scripts/dequantize_gguf.py "$gguf" "$base" --dtype f32

cargo build --release --locked --quiet --package rag-tune-train --example throughput
throughput="${CARGO_TARGET_DIR:-target}/release/examples/throughput"

results="$(mktemp -d)"
trap 'rm -rf "$results"' EXIT
"$python" scripts/bench_peft.py "$base" --steps "$steps" --dtype f32 --json >"$results/peft_f32"
"$throughput" "$gguf" 8 256 "$steps" f32 >"$results/rag_tune_f32"
"$python" scripts/bench_peft.py "$base" --steps "$steps" --dtype bf16 --json >"$results/peft_bf16"
"$throughput" "$gguf" 8 256 "$steps" auto >"$results/rag_tune_auto"

"$python" - "$results" <<'PYTHON'
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
load = lambda name: json.loads((folder / name).read_text())
rows = [(f"PEFT {dtype}", load(f"peft_{dtype}")[0]) for dtype in ("f32", "bf16")]
for name in ("f32", "auto"):
    result = load(f"rag_tune_{name}")
    rows.append((f"rag-tune int8 weights, {result['compute']}", result))
reference = rows[0][1]["tokens_per_s"]
print("| training, 8 x 256 | tokens/s | s/step | against PEFT f32 | peak RSS MiB |\n| --- | --- | --- | --- | --- |")
for name, r in rows:
    ratio = r["tokens_per_s"] / reference
    print(f"| {name} | {r['tokens_per_s']:.0f} | {r['seconds_per_step']:.2f} | {ratio:.2f} | {r['peak_rss_mib']:.0f} |")
PYTHON
