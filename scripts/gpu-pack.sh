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

# What cargo has built, a line of JSON each.
built="$(mktemp)"
wheels="$(mktemp -d)"
trap 'rm -rf "$built" "$wheels"' EXIT
take() { # package, file name, name in the pack
  cp "$(sed -n "s/.*[/#]$1[#@].*\"executable\":\"\([^\"]*\/$2\)\".*/\1/p" "$built" | tail -n 1)" "$pack/$3"
}
programs=(rag-tune kernels-tests model-tests train-tests)
json=--message-format=json-render-diagnostics
cargo build --release --locked --package rag-tune-cli --features cuda $json >"$built"
# All at once, so that they share their dependencies' features.
cargo test --no-run --locked --workspace --lib --test device --features rag-tune-cli/cuda $json >>"$built"
take rag-tune-cli rag-tune rag-tune
take rag-tune-kernels 'rag_tune_kernels-[^"\/]*' kernels-tests
take rag-tune-model 'device-[^"\/]*' model-tests
take rag-tune-train 'device-[^"\/]*' train-tests
strip "${programs[@]/#/$pack/}"

cp scripts/gpu_peer.py "$pack/"
rm -rf "$pack/site"
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
