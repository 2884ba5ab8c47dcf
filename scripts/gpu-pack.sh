#!/usr/bin/env bash
# Fills a folder with what scripts/gpu-check.sh runs, and packs it as PACK.tar.gz. Needs cargo and CUDA's compiler, no GPU.
#
# usage: scripts/gpu-pack.sh PACK
#
# In it: the program and the tests, built for GPUs; gpu_peer.py, and in site/ the Python packages of the comparison that a machine with
# PyTorch and transformers may lack. Without pip or a network the pack has no peer, and says so.
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
programs=(rag-tune kernels-tests model-tests train-tests)
cp "$(executable build --release --locked --package rag-tune-cli --features cuda)" "$pack/rag-tune"
cp "$(executable test --no-run --locked --package rag-tune-kernels --lib --features cuda)" "$pack/kernels-tests"
cp "$(executable test --no-run --locked --package rag-tune-model --test device --features cuda)" "$pack/model-tests"
cp "$(executable test --no-run --locked --package rag-tune-train --test device --features rag-tune-kernels/cuda)" "$pack/train-tests"
strip "${programs[@]/#/$pack/}"

cp scripts/gpu_peer.py "$pack/"
rm -rf "$pack/site"
wheels="$(mktemp -d)"
trap 'rm -rf "$wheels"' EXIT
mapfile -t packages < <(grep -oE '(peft|accelerate)==[0-9.]+' scripts/python-env.sh)
packages+=(bitsandbytes==0.50.2)
if python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$wheels" "${packages[@]}"; then
  for wheel in "$wheels"/*.whl; do
    python3 -m zipfile -e "$wheel" "$pack/site"
  done
  # One library for each version of CUDA would be 130 MB; that of 13.0 serves every 13.
  find "$pack/site/bitsandbytes" -name 'libbitsandbytes_*' ! -name '*_cpu.so' ! -name '*_cuda130.so' -delete
else
  echo "gpu-pack: no packages for the comparison with PEFT: pip cannot get ${packages[*]}; the pack goes without" >&2
fi

tar -C "$pack" -czf "$pack.tar.gz" .
du -sm "$pack"/* "$pack.tar.gz" | awk '{ print $2 ": " $1 " MiB" }'
