#!/usr/bin/env bash
# Runs the kernels' tests with the address and undefined-behaviour sanitizers, on the CPU: the .cu sources, emulated.
#
# usage: scripts/sanitize-kernels.sh [FILTER...]      default: all tests of devices in rag-tune-kernels
#
# Every buffer of a device, and every block's shared memory, is an allocation of its own there, so that a load or store beyond its
# ends stops the test with the line of the kernel. Needs a C++ compiler with libasan.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh
require_toolchain

library="$("${CXX:-c++}" -print-file-name=libasan.so)"
if [[ ! -e "$library" ]]; then
  echo "sanitize-kernels: ${CXX:-c++} has no libasan.so (Debian: it comes with g++)" >&2
  exit 1
fi
filters=("$@")
[[ ${#filters[@]} -gt 0 ]] || filters=(cuda::)
# As scripts/test.sh builds it, so that it is there already.
binary="$(cargo test --locked --workspace --lib --no-run --message-format=json-render-diagnostics |
  sed -n 's/.*"executable":"\([^"]*\/rag_tune_kernels-[^"]*\)".*/\1/p' | tail -n 1)"
# The process itself is not sanitized, so what it never gives back is not looked for.
cd crates/rag-tune-kernels
RAG_TUNE_EMULATOR=sanitize LD_PRELOAD="$library" ASAN_OPTIONS=detect_leaks=0 "$binary" "${filters[@]}"
