#!/usr/bin/env bash
# LoRA training throughput and memory with the block linears held in 8 bits, in NF4, and in 16 bits.
#
# usage: scripts/bench-quantization.sh [MODEL.gguf] [STEPS]
#
# The work is that of scripts/bench-train.sh: SmolLM2-135M-Instruct, rank 8 on q, k, v, o, 8 rows of 256 tokens, loss on
# every token, full optimizer steps; the median of STEPS (default 5) after one that is not counted. `THROUGHPUT` names a
# built example `throughput`, in whose place one is built otherwise.
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
  echo "bench-quantization: \`$gguf\` does not exist; name the .gguf file" >&2
  exit 1
fi
throughput="${THROUGHPUT:-}"
if [[ -z "$throughput" ]]; then
  cargo build --release --locked --quiet --package rag-tune-train --example throughput
  throughput="${CARGO_TARGET_DIR:-target}/release/examples/throughput"
fi

echo "| quantization | compute | weights MB | tokens/s | s/step | processor s/step | peak RSS MiB |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for quantization in int8 nf4 none; do
  "$throughput" "$gguf" 8 256 "$steps" auto "$quantization" | python3 -c '
import json, sys
r = json.load(sys.stdin)
cells = [r["quantization"], r["compute"], round(r["weight_bytes"] / 1e6), round(r["tokens_per_s"]), r["seconds_per_step"]]
print("|", " | ".join(map(str, cells + [r["cpu_seconds_per_step"], r["peak_rss_mib"]])), "|")'
done
