#!/usr/bin/env bash
# Where the time of a training step goes: shares of processor time by kernel, as a Markdown table.
#
# usage: scripts/profile-step.sh MODEL [ARGUMENT...]      arguments of `rag-tune bench train`
#
# Needs Linux's perf, and permission to use it. RAG_TUNE: a built program, in whose place one is built otherwise. The first
# seconds, in which the model is loaded, are left out (DELAY_MS, default 4000).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
if [[ $# == 0 ]]; then
  echo "usage: scripts/profile-step.sh MODEL [ARGUMENT...]" >&2
  exit 1
fi
if ! command -v perf >/dev/null; then
  echo "profile-step: perf is missing (Debian: apt-get install linux-perf)" >&2
  exit 1
fi
binary="${RAG_TUNE:-}"
if [[ -z "$binary" ]]; then
  cargo build --release --locked --quiet --package rag-tune-cli
  binary="${CARGO_TARGET_DIR:-target}/release/rag-tune"
fi

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
perf record --quiet --freq 199 --delay "${DELAY_MS:-4000}" --output "$scratch/perf.data" -- \
  "$binary" bench train --base "$@" >&2

# The first pattern that a symbol matches is its group. Kernels are told by their module, so that new ones find their place.
perf report --input "$scratch/perf.data" --no-children --stdio --field-separator ';' --sort dso,symbol 2>/dev/null |
  awk -F ';' '
    function group(object, symbol) {
      if (object ~ /kernel|vdso/) return "the system: page faults, clearing, scheduling"
      if (symbol ~ /memset|memcpy|memmove/) return "copying and clearing memory"
      if (symbol ~ /cpu::attention/) return "attention"
      if (symbol ~ /cpu::gemm_f32|gemm_f32::|gemm_common|thin|lora/) return "LoRA (f32 products)"
      if (symbol ~ /cpu::(gemm|gemv)|gemm_bf16|gemm_int8/) return "products with frozen weights"
      if (symbol ~ /panels|nf4|convert|narrow|widen|quantize/) return "conversions: weights to panels, activations to the compute"
      if (symbol ~ /rms_norm|rope|swiglu|dropout/) return "RMSNorm, RoPE, SwiGLU, dropout"
      if (symbol ~ /cross_entropy/) return "loss, without its products"
      if (symbol ~ /adamw/) return "AdamW"
      return "the rest"
    }
    /^#/ || NF < 3 { next }
    { share = $1; sub(/%/, "", share); sum[group($2, $3)] += share }
    END { for (name in sum) printf "%.1f;%s\n", sum[name], name }
  ' | sort -t ';' -rn | awk -F ';' '
    BEGIN { print "| part of a step | % of processor time |\n| --- | --- |" }
    { printf "| %s | %s |\n", $2, $1 }'
