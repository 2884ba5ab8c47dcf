#!/usr/bin/env bash
# Runs every check of the repository: formatting, clippy, and all tests.
#
# usage: scripts/test.sh
#
# The kernels of a GPU are tested on the CPU (docs/cuda.md), once more with sanitizers where the C++ compiler has them, and compiled
# for every target where Python's pip can fetch CUDA's compiler (or CUDA_HOME has one).
#
# The tests that need a real model take it from RAG_TUNE_MIRROR, or else from .cache/mirror, which
# scripts/fetch-models.sh fills; without either they say "skipped: no mirror".
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
require_toolchain
for component in fmt clippy; do
  if ! cargo "$component" --version >/dev/null 2>&1; then
    echo "test: \`cargo $component\` is missing (rustup component add rustfmt clippy)" >&2
    exit 1
  fi
done

models="in $root/.cache/mirror"
if [[ -n "${RAG_TUNE_MIRROR:-}" ]]; then
  models="in $RAG_TUNE_MIRROR (RAG_TUNE_MIRROR)"
elif scripts/fetch-models.sh; then
  export RAG_TUNE_MIRROR="$root/.cache/mirror"
else
  models="missing: the tests on real models were skipped"
fi

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo test --workspace --locked
sanitized="without sanitizers: the C++ compiler has none"
if [[ -e "$("${CXX:-c++}" -print-file-name=libasan.so)" ]]; then
  scripts/sanitize-kernels.sh
  sanitized="with sanitizers"
fi
kernels="compiled for every GPU target"
if [[ -n "${CUDA_HOME:-}" ]] || scripts/cuda-toolchain.sh; then
  scripts/check-cuda.sh
  cargo clippy --workspace --all-targets --features rag-tune-cli/cuda --locked -- -D warnings
else
  kernels="not compiled for GPUs: CUDA's compiler is missing"
fi
echo "test: all passed (models $models; kernels $kernels, tested $sanitized)"
