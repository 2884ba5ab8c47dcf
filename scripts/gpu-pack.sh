#!/usr/bin/env bash
# Fills a folder with what scripts/gpu-check.sh runs: the program and the tests, built for GPUs. Needs cargo and CUDA's compiler, no GPU.
#
# usage: scripts/gpu-pack.sh PACK
set -euo pipefail

if [[ $# != 1 ]]; then
  echo "usage: scripts/gpu-pack.sh PACK" >&2
  exit 1
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
mkdir -p "$1"
pack="$(cd "$1" && pwd)"
cd "$root"
[[ -n "${CUDA_HOME:-}" ]] || scripts/cuda-toolchain.sh

executable() { # cargo's arguments
  cargo "$@" --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}
cp "$(executable build --release --locked --package rag-tune-cli --features cuda)" "$pack/rag-tune"
cp "$(executable test --no-run --locked --package rag-tune-kernels --lib --features cuda)" "$pack/kernels-tests"
cp "$(executable test --no-run --locked --package rag-tune-model --test device --features cuda)" "$pack/model-tests"
strip "$pack"/*
ls -l "$pack"
