#!/usr/bin/env bash
# rag-tune beside PyTorch + PEFT, llama.cpp and sentence-transformers, on this machine's CPU, in one run: prints one table.
#
# usage: scripts/bench-cpu.sh [--charts]
#
# SmolLM2-135M-Instruct (LoRA of rank 8 on q, k, v, o; random ids, every token supervised), all-MiniLM-L6-v2, and a model
# of noise in CodeLlama-7B's shape, which has only the machine's ceilings to be compared with. The programs take turns; the
# median of COUNT (default 5) steps or more after one that is not counted. Run it on an idle machine: some 15 minutes
# on two cores. WITH_F32=1 adds PyTorch in f32. --charts draws docs/performance/*.svg instead: how training and the forward
# pass grow with threads, tokens and sequence length.
#
# The models come from RAG_TUNE_MIRROR, or are fetched into .cache/mirror. The Python programs are in the folder of a virtual
# environment RAG_TUNE_PYTHON; by default one is made in .cache/python (6 GB, from PyPI), where llama-cpp-python is built for
# this processor. RAG_TUNE: a built program, in whose place one is built otherwise.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

charts=0
for argument in "$@"; do
  case "$argument" in
    --charts) charts=1 ;;
    *)
      echo "bench-cpu: unknown argument \`$argument\`; usage: scripts/bench-cpu.sh [--charts]" >&2
      exit 1
      ;;
  esac
done

mirror="${RAG_TUNE_MIRROR:-}"
if [[ -z "$mirror" ]]; then
  mirror="$root/.cache/mirror"
  scripts/fetch-models.sh "$mirror" >&2
fi
gguf="$mirror/models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
encoder="$mirror/models/sentence-transformers/all-MiniLM-L6-v2"
for path in "$gguf" "$encoder"; do
  if [[ ! -e "$path" ]]; then
    echo "bench-cpu: \`$path\` does not exist; scripts/fetch-models.sh fills a mirror" >&2
    exit 1
  fi
done

environment="${RAG_TUNE_PYTHON:-$root/.cache/python}"
python="$environment/bin/python"
[[ -x "$python" ]] || scripts/python-env.sh "$environment" >&2
if ! "$python" -c 'import llama_cpp' 2>/dev/null; then
  echo "bench-cpu: building llama-cpp-python for this processor (minutes)" >&2
  CMAKE_ARGS="-DGGML_NATIVE=ON" "$python" -m pip install --quiet llama-cpp-python==0.3.36 >&2
fi

binary="${RAG_TUNE:-}"
if [[ -z "$binary" ]]; then
  # shellcheck source=scripts/toolchain.sh
  source scripts/toolchain.sh
  require_toolchain
  cargo build --release --locked --quiet --package rag-tune-cli
  binary="${CARGO_TARGET_DIR:-target}/release/rag-tune"
fi

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
folder="$root/.cache/smollm2-f32"
[[ -f "$folder/config.json" ]] || "$python" scripts/dequantize_gguf.py "$gguf" "$folder" --dtype f32 >&2
"$python" scripts/gguf_convert.py "$gguf" "$scratch/q8_0.gguf" --type q8_0

options=(--rag-tune "$binary" --gguf "$gguf" --folder "$folder" --q8 "$scratch/q8_0.gguf" --encoder "$encoder"
  --scratch "$scratch" --count "${COUNT:-5}")
[[ "${WITH_F32:-0}" == 1 ]] && options+=(--with-f32)
if [[ $charts == 0 ]]; then
  "$python" scripts/bench_cpu.py "${options[@]}"
else
  "$python" scripts/bench_cpu.py "${options[@]}" --charts "$scratch/sweeps.jsonl"
  mkdir -p docs/performance
  cp "$scratch/sweeps.jsonl" docs/performance/sweeps.jsonl
  "$binary" bench chart docs/performance/sweeps.jsonl --out docs/performance
fi
