#!/usr/bin/env bash
# Makes the Python environment of the reference scripts (PyTorch, transformers, PEFT) in DIR.
#
# usage: scripts/python-env.sh [DIR]        default: .cache/python
#
# rag-tune itself needs no Python. This is for who wants to recompute the golden numbers in
# tests/fixtures/golden/ or to compare with PEFT. About 6 GB: the default torch imports only with
# all of its packages, on a machine without a GPU too.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
dir="${1:-$root/.cache/python}"

if [[ -e "$dir/READY" ]]; then
  echo "python-env: $dir is there already"
  exit 0
fi
if ! command -v python3 >/dev/null; then
  echo "python-env: python3 is missing (3.10 or newer, with the venv module)" >&2
  exit 1
fi

python3 -m venv "$dir"
"$dir/bin/pip" install --quiet \
  torch==2.15.0 \
  transformers==5.23.0 \
  peft==0.21.2 \
  accelerate==1.15.0 \
  sentence-transformers==6.2.0 \
  gguf==0.19.0 \
  safetensors==0.8.0 \
  tokenizers==0.23.3 \
  numpy==2.4.6
"$dir/bin/python" -c 'import torch, transformers, peft, gguf'
touch "$dir/READY"
echo "python-env: run the scripts with $dir/bin/python"
