#!/usr/bin/env bash
# The whole product once, on a small synthetic data set: augment, train two adapters, evaluate, chart, compare.
#
# usage: scripts/quickstart.sh
#
# Builds rag-tune, fetches the two small models into .cache/mirror, and works in .cache/quickstart.
# Under 15 minutes on two cores after the build. The figures are those of a 135M model on data written by a
# generator: they show that everything works, and say nothing about retrieval on real data.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
require_toolchain

work=".cache/quickstart"
export RAG_TUNE_MIRROR="$root/.cache/mirror"
unset RAG_TUNE_DATABASES # the generated databases, not those of another experiment

rag_tune() {
  printf '\n$ rag-tune %s\n' "$*"
  "${CARGO_TARGET_DIR:-target}/release/rag-tune" "$@"
}

cargo build --release --locked --package rag-tune-cli
scripts/fetch-models.sh "$RAG_TUNE_MIRROR"
rm -rf "$work/runs" "$work/charts"
started=$SECONDS

rag_tune demo-data --out "$work/data" --force
for arm in zero_shot rag1; do
  rag_tune train "configs/quickstart_$arm.toml" --out "$work/runs/$arm"
done

# {zero-shot adapter, RAG adapter, no adapter} x {zero-shot prompt, RAG prompt}
for examples in 0 1; do
  rag_tune eval --adapter "$work/runs" --set "retrieval.examples=$examples"
  rag_tune eval --config configs/quickstart_zero_shot.toml --set "retrieval.examples=$examples" \
    --out "$work/runs/base"
done

rag_tune chart "$work/runs/zero_shot" "$work/runs/rag1" "$work/runs/base" --out "$work/charts"
rag_tune compare "$work/runs/zero_shot" "$work/runs/rag1" --flips 1 --html "$work/charts/compare.html"
minutes=$(((SECONDS - started + 59) / 60))
printf '\nquickstart: done in %d minutes (without the build); the charts and compare.html are in %s\n' "$minutes" "$root/$work/charts"
