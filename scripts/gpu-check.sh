#!/usr/bin/env bash
# What a GPU must show: kernels against their references, the tiny models, then speeds in CodeLlama-7B's shape. Prints a table last.
#
# usage: scripts/gpu-check.sh PACK OUT
#
# PACK is a folder that scripts/gpu-pack.sh has filled on a machine with cargo; here neither cargo nor a network is needed, but a GPU,
# NVIDIA's driver, and cuBLASLt (LD_LIBRARY_PATH; PyTorch's packages bring it: site-packages/nvidia/cu13/lib). All output goes to OUT. Ten
# minutes at most on one H100 or H200 by plan; it has not been run on a GPU yet.
set -euo pipefail

if [[ $# != 2 ]]; then
  echo "usage: scripts/gpu-check.sh PACK OUT" >&2
  exit 1
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pack="$(cd "$1" && pwd)"
mkdir -p "$2"
out="$(cd "$2" && pwd)"
if ! command -v nvidia-smi >/dev/null; then
  echo "gpu-check: nvidia-smi is missing: this machine has no GPU, or no driver" >&2
  exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/gpu.csv"

failed=0
check() { # name, command
  local name="$1"
  shift
  if "$@" >"$out/$name.txt" 2>&1; then
    echo "$name: passed ($(grep -c '\.\.\. ok$' "$out/$name.txt") tests)"
  else
    failed=1
    echo "$name: FAILED, see $out/$name.txt"
    tail -n 20 "$out/$name.txt"
  fi
}
export RAG_TUNE_TEST_DEVICE=cuda:0 RUST_BACKTRACE=0
export RAG_TUNE_SOURCES="$root"
check kernels "$pack/kernels-tests" cuda:: --test-threads 1
check model "$pack/model-tests" --test-threads 1 --skip emulated --skip without_gpus
if command -v compute-sanitizer >/dev/null; then
  check memcheck compute-sanitizer --error-exitcode 1 "$pack/kernels-tests" cuda:: --test-threads 1
fi

bench() { # name, arguments
  local name="$1"
  shift
  echo "bench $*" >&2
  timeout 120 "$pack/rag-tune" bench "$@" --synthetic codellama-7b --device cuda:0 --json >"$out/$name.json" 2>"$out/$name.err" ||
    { failed=1; echo "$name: FAILED, see $out/$name.err"; tail -n 5 "$out/$name.err"; }
}
for seq in 512 1024 2048 4096; do
  bench "train_${seq}_selective" train --batch $((16384 / seq)) --seq "$seq" --rank 16 --activations selective --steps 3
done
bench train_2048_full train --batch 1 --seq 2048 --rank 16 --activations full --steps 3
for rows in 1 8 64; do
  bench "decode_$rows" generate --batch "$rows" --seq 256 --new 64 --steps 1
done

printf '\n| run | tokens/s | share of the matmul peak | GPU MiB |\n| --- | --- | --- | --- |\n'
for file in "$out"/*.json; do
  [[ -s "$file" ]] || continue
  figure() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$file"; }
  speed="$(figure decode_tokens_per_s)"
  printf '| %s | %s | %s | %s |\n' "$(basename "$file" .json)" "${speed:-$(figure tokens_per_s)}" "$(figure share_of_peak)" "$(figure peak_gpu_mib)"
done | tee "$out/table.md"
exit "$failed"
