#!/usr/bin/env bash
# Assembles a CUDA 13.0 compiler (nvcc, and cuobjdump for looking at what it makes) from Python wheels, without a GPU or a driver.
#
# usage: scripts/cuda-toolchain.sh [DIR]        default: .cache/cuda
#
# `cargo build --features cuda` finds it there; elsewhere set CUDA_HOME=DIR/nvidia/cu13. 110 MB of wheels, 250 MB unpacked. Needs
# Python 3 with pip, Linux on x86-64, and a C++ compiler that nvcc takes (gcc 6 to 15).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
dir="${1:-$root/.cache/cuda}"

# 13.0, not newer: drivers of the series 580 take its PTX, not that of later releases.
compiler=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
# These exist as wheels from 13.2 on only; they read what 13.0 makes.
tools=(nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37)

if [[ -e "$dir/READY" ]]; then
  echo "cuda-toolchain: $dir is there already"
  exit 0
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "cuda-toolchain: python3 with pip is missing; it fetches the wheels" >&2
  exit 1
fi
mkdir -p "$dir"
scratch="$(mktemp -d "$dir/.fetch.XXXXXX")"
trap 'rm -rf "$scratch"' EXIT

unpack() { # folder, packages
  local folder="$1" wheel
  shift
  mkdir -p "$scratch/wheels"
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest "$scratch/wheels" "$@"
  for wheel in "$scratch/wheels"/*.whl; do
    python3 -m zipfile --extract "$wheel" "$folder"
  done
  rm -rf "$scratch/wheels"
}

unpack "$scratch/root" "${compiler[@]}"
unpack "$scratch/tools" "${tools[@]}"
home="$scratch/root/nvidia/cu13"
# Python's zipfile drops the mode bits.
chmod +x "$home"/bin/* "$home"/nvvm/bin/* "$scratch"/tools/nvidia/cu13/bin/*
ln -s lib "$home/lib64"
mkdir -p "$home/tools"
mv "$scratch"/tools/nvidia/cu13/bin/* "$home/tools/"
rm -rf "$dir/nvidia"
mv "$scratch/root/nvidia" "$dir/nvidia"
"$dir/nvidia/cu13/bin/nvcc" --version | tail -n 2
touch "$dir/READY"
echo "cuda-toolchain: CUDA_HOME=$dir/nvidia/cu13"
