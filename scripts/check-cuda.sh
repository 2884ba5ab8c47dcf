#!/usr/bin/env bash
# Compiles every kernel for every target, without a GPU: a kernel that spills registers, or has a stack, fails. Prints a Markdown table.
#
# usage: scripts/check-cuda.sh [KERNEL.cu...]      default: all of kernels/
#
# Needs CUDA's compiler: scripts/cuda-toolchain.sh, or CUDA_HOME. A minute or two on two cores.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

targets=(80 89 90a 100a)
home="${CUDA_HOME:-$root/.cache/cuda/nvidia/cu13}"
nvcc="$home/bin/nvcc"
if [[ ! -x "$nvcc" ]]; then
  echo "check-cuda: \`$nvcc\` does not exist: run scripts/cuda-toolchain.sh, or set CUDA_HOME" >&2
  exit 1
fi
files=("$@")
[[ ${#files[@]} -gt 0 ]] || files=(kernels/*.cu)

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

compile() { # file, target
  local name
  name="$(basename "$1" .cu)"
  "$nvcc" -cubin -O3 -std=c++17 -arch="sm_$2" -Xptxas -v "$1" -o "$scratch/$name.$2.cubin" >"$scratch/$name.$2.log" 2>&1 ||
    { cat "$scratch/$name.$2.log" >&2; return 1; }
}
export -f compile
export nvcc scratch
for target in "${targets[@]}"; do
  printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -I '{}' bash -c "compile '{}' $target"
done

# ptxas tells of a kernel: its name, its stack and spills, then its registers and static shared memory.
echo "| kernel | registers ($(IFS=,; echo "${targets[*]}" | sed 's/,/, /g')) | static shared bytes |"
echo "| --- | --- | --- |"
cat /dev/null >"$scratch/all"
for target in "${targets[@]}"; do
  cat "$scratch"/*."$target".log | awk -v target="$target" '
    /Compiling entry function/ { split($0, part, "\047"); kernel = part[2] }
    /bytes stack frame/ { stack = $1 + $5 + $9 }
    /Used [0-9]+ registers/ {
      registers = $0; sub(/.*Used /, "", registers); sub(/ registers.*/, "", registers)
      shared = 0; if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
      print kernel, target, registers, shared, stack
    }' >>"$scratch/all"
done
sort -s -k1,1 "$scratch/all" | awk '
  function line() { if (kernel != "") printf "| %s | %s | %s |\n", kernel, registers, shared }
  $1 != kernel { line(); kernel = $1; registers = ""; shared = $4 }
  { registers = registers (registers == "" ? "" : ", ") $3; if ($5 > 0) { bad = 1; print "check-cuda: " $1 " on sm_" $2 " spills or has a stack: " $5 " bytes" > "/dev/stderr" } }
  END { line(); exit bad }'
