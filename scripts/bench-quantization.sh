#!/usr/bin/env bash
# LoRA training throughput and memory with the block linears held in 8 bits, in NF4, and in 16 bits.
#
# usage: scripts/bench-quantization.sh [MODEL.gguf] [STEPS]
#
# The work is `rag-tune bench train`: SmolLM2-135M-Instruct, rank 8 on q, k, v, o, 8 rows of 256 tokens, loss on every token,
# full optimizer steps; the median of STEPS (default 5) after one that is not counted. RAG_TUNE: a built program, in whose
# place one is built otherwise.
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
binary="${RAG_TUNE:-}"
if [[ -z "$binary" ]]; then
  cargo build --release --locked --quiet --package rag-tune-cli
  binary="${CARGO_TARGET_DIR:-target}/release/rag-tune"
fi

echo "| quantization | compute | weights MB | tokens/s | s/step | processor s/step | peak RSS MiB |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for quantization in int8 nf4 none; do
  "$binary" bench train --base "$gguf" --steps "$steps" --quantization "$quantization" --json | python3 -c '
import json, sys
r = json.load(sys.stdin)
cells = [r["quantization"], r["compute"], round(r["weight_bytes"] / 1e6), round(r["tokens_per_s"]), r["step_s"]]
print("|", " | ".join(map(str, cells + [r["cpu_s"], round(r["peak_rss_mib"])])), "|")'
done
