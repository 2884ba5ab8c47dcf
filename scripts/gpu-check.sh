#!/usr/bin/env bash
# What a GPU must show: kernels against their references, the tiny models, then speeds in CodeLlama-7B's shape beside those of PyTorch + PEFT +
# bitsandbytes. Prints a table last.
#
# usage: scripts/gpu-check.sh PACK OUT [SECONDS]
#
# PACK is the folder that scripts/gpu-pack.sh has filled on a machine with cargo, or its .tar.gz; here neither cargo nor a network is needed,
# but a GPU, NVIDIA's driver, and cuBLASLt (LD_LIBRARY_PATH; PyTorch's packages bring it: site-packages/nvidia/cu13/lib). The peer needs a
# python3 that has PyTorch and transformers; where it cannot run, the table says so, and that is no failure.
#
# What matters most runs first. What SECONDS (default 570) leave no time for is skipped, and named in the table. OUT gets figures.jsonl (a
# line for each run), table.md, log.txt and the tests' output. It has not been run on a GPU yet.
set -euo pipefail

if [[ $# != 2 && $# != 3 ]]; then
  echo "usage: scripts/gpu-check.sh PACK OUT [SECONDS]" >&2
  exit 1
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
deadline="${3:-570}"
least=15 # seconds that are worth a start
mkdir -p "$2"
out="$(cd "$2" && pwd)"
temporary="$(mktemp -d)"
trap 'rm -rf "$temporary"' EXIT
if [[ -d "$1" ]]; then
  pack="$(cd "$1" && pwd)"
else
  pack="$temporary/pack"
  mkdir "$pack"
  tar -xzf "$1" -C "$pack"
fi
if ! command -v nvidia-smi >/dev/null; then
  echo "gpu-check: nvidia-smi is missing: this machine has no GPU, or no driver" >&2
  exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/gpu.csv"

failed=0
log="$out/log.txt"
figures="$out/figures.jsonl"
: >"$log"
: >"$figures"
export RAG_TUNE_TEST_DEVICE=cuda:0 RUST_BACKTRACE=0
export RAG_TUNE_SOURCES="$root"

# Runs a command for so many seconds at most, fewer where the deadline is nearer. Sets `trouble`: nothing, or what went wrong.
limited() { # seconds, file for stdout, command
  local limit="$1" to="$2" left=$((deadline - SECONDS)) status=0 over
  shift 2
  trouble=""
  if ((left < least)); then
    trouble="skipped: no time left"
    return
  fi
  over="timed out: after $limit s"
  if ((left < limit)); then
    limit=$left
    over="skipped: cut off by the deadline"
  fi
  echo "== ${SECONDS} s: $*" >>"$log"
  timeout -k 5 "$limit" "$@" >"$to" 2>>"$log" || status=$?
  case $status in
    0) ;;
    124 | 137) trouble="$over" ;;
    *) trouble="failed: status $status, see log.txt" ;;
  esac
}

check() { # name, seconds, command
  local name="$1" limit="$2"
  shift 2
  limited "$limit" "$out/$name.txt" "$@"
  case $trouble in
    "") echo "$name: passed ($(grep -c '\.\.\. ok$' "$out/$name.txt") tests)" ;;
    skipped*) echo "$name: $trouble" ;;
    *)
      failed=1
      echo "$name: FAILED ($trouble), see $out/$name.txt"
      tail -n 20 "$out/$name.txt"
      ;;
  esac
}

# The last line of a run's figures: who ran it, the work, its shape as ROWSxTOKENS.
line() { # who, work, shape
  grep -F "{\"run\":\"$1\"," "$figures" | grep -F "\"work\":\"$2\"" | grep -F "\"batch\":${3%x*}," | grep -F "\"seq\":${3#*x}," | tail -n 1
}

# Runs a command that prints a line of figures for each shape; a shape without one gets a line that says why.
measure() { # who, work, shapes, seconds, command
  local who="$1" work="$2" shapes="$3" limit="$4" shape
  shift 4
  echo "$who $work $shapes" >&2
  : >"$temporary/lines"
  limited "$limit" "$temporary/lines" "$@"
  grep '^{' "$temporary/lines" | sed "s/^{/{\"run\":\"$who\",/" >>"$figures" || true
  for shape in $shapes; do
    [[ -z "$(line "$who" "$work" "$shape" || true)" ]] || continue
    printf '{"run":"%s","work":"%s","batch":%s,"seq":%s,"error":"%s"}\n' \
      "$who" "$work" "${shape%x*}" "${shape#*x}" "${trouble:-failed: it printed no figures}" >>"$figures"
    if [[ $who == rag-tune* && $trouble != skipped* ]]; then
      failed=1
      echo "$who $work $shape: FAILED (${trouble:-it printed no figures}), see $log" >&2
    fi
  done
}

train() { # activations, shapes, none for a base in bf16
  local shape who="rag-tune $1"
  [[ -z "${3:-}" ]] || who="$who, bf16 base"
  for shape in $2; do
    measure "$who" train "$shape" 90 "$pack/rag-tune" bench train --batch "${shape%x*}" --seq "${shape#*x}" --rank 16 \
      --activations "$1" --quantization "${3:-int8}" --steps 3 --profile --synthetic codellama-7b --device cuda:0 --json
  done
}

decode() { # rows
  local rows
  for rows in "$@"; do
    measure rag-tune generate "${rows}x256" 60 "$pack/rag-tune" bench generate --batch "$rows" --seq 256 --new 64 --steps 1 \
      --synthetic codellama-7b --device cuda:0 --json
  done
}

python="${PYTHON:-python3}"
peer_missing=""
if [[ ! -e "$pack/gpu_peer.py" ]]; then
  peer_missing="the pack has no gpu_peer.py"
elif ! "$python" -c 'import sys; from importlib.util import find_spec as f; sys.exit(not (f("torch") and f("transformers")))' 2>/dev/null; then
  peer_missing="$python has no PyTorch or no transformers"
fi
[[ -z "$peer_missing" ]] || echo "peer: not run: $peer_missing" | tee -a "$log"

# All shapes in one process, so that starting costs once. `PEFT int8` is what prepare_model_for_kbit_training makes.
peer() { # who, work, shapes, seconds, arguments
  local who="$1" work="$2" shapes="$3" limit="$4" shape batch=() seq=()
  shift 4
  [[ -z "$peer_missing" ]] || return 0
  for shape in $shapes; do
    batch+=("${shape%x*}")
    seq+=("${shape#*x}")
  done
  [[ -z "$shapes" ]] || set -- "$@" --batch "${batch[@]}" --seq "${seq[@]}"
  measure "$who" "$work" "$shapes" "$limit" env PYTHONPATH="$pack/site${PYTHONPATH:+:$PYTHONPATH}" \
    "$python" "$pack/gpu_peer.py" "$@" --device cuda:0
}

check kernels 120 "$pack/kernels-tests" cuda:: --test-threads 1
check model 60 "$pack/model-tests" --test-threads 1 --skip emulated --skip without_gpus
check train 60 "$pack/train-tests" --test-threads 1 --skip emulated

lengths="32x512 8x2048 4x4096"
train selective "16x1024 8x1024"
decode 1
peer "PEFT int8" train 16x1024 90 train --base int8 --steps 2
peer "PEFT int8" generate 1x256 60 decode --base int8 --steps 1
peer PyTorch peaks "" 45 peaks
peaks_trouble="$trouble"
train full "16x1024 1x2048"
train selective 16x1024 none
train all 4x1024
train selective "$lengths"
decode 8 64
peer "PEFT int8, rest bf16" train "16x1024 $lengths" 100 train --base int8 --rest bf16 --steps 2
peer "PEFT bf16" train "16x1024 $lengths" 90 train --base bf16 --steps 2
peer "PEFT int8" generate "8x256 64x256" 75 decode --base int8 --steps 1
peer "PEFT bf16" generate "1x256 8x256 64x256" 60 decode --base bf16 --steps 1
peer "PEFT int8, rest bf16, all kept" train 4x1024 60 train --base int8 --rest bf16 --checkpointing off --steps 2
train selective 4x1024
peer "PEFT int8, rest bf16" train 4x1024 60 train --base int8 --rest bf16 --steps 2
if command -v compute-sanitizer >/dev/null; then
  check memcheck 300 compute-sanitizer --error-exitcode 1 "$pack/kernels-tests" cuda:: --test-threads 1
fi

figure() { # line, name: the number, or a dash
  local value
  value="$(sed -n "s/.*\"$2\":\([0-9][0-9.e+-]*\)[,}].*/\1/p" <<<"$1")"
  echo "${value:--}"
}
told() { # line, name: the number, or why there is none
  local value
  value="$(figure "$1" "$2")"
  [[ $value != - ]] || value="$(sed -n 's/.*"error":"\([^":]*\).*/\1/p' <<<"$1")"
  [[ -n $1 ]] || value="not run"
  echo "${value:--}"
}
calculated() { # format, factors ... / divisors ...: the result, or a dash where one is missing or no number
  awk -v "format=$1" 'BEGIN {
    result = 1
    for (i = 2; i < ARGC; i++) {
      if (ARGV[i] == "/") { divides = 1; continue }
      if (ARGV[i] !~ /^[0-9][0-9.e+-]*$/ || ARGV[i] + 0 == 0) { print "-"; exit }
      result = divides ? result / ARGV[i] : result * ARGV[i]
    }
    printf format "\n", result
  }' "$@"
}
peaks="$(grep -F '"work":"peaks"' "$figures" | tail -n 1 || true)"
bandwidth="$(figure "$peaks" copy_bytes_per_s)"

# Where a run's time goes: name, calls, seconds and share of each kind of work, what takes most first.
kernels() { # line
  { grep -o '{"name":"[^}]*}' <<<"$1" || true; } | sed 's/[{}"]//g; s/,[a-z]*:/ /g; s/^name://'
}
# As `kernels`, with the bytes a second of those that only move memory, by their headers' costs: CodeLlama-7B's shape, 16,384 tokens. Its
# 32 layers have 6,476,005,376 weights in 224 matrices. The last norm, of the tokens with loss only, counts as one of all tokens.
moved() { # line
  kernels "$1" | awk '
    BEGIN {
      hidden = 16384 * 4096; inner = 16384 * 11008
      bytes["dequantize_rows"] = 3 * 6476005376 / 224
      bytes["rms_norm_forward"] = 6 * hidden
      bytes["rms_norm_backward_bf16"] = 14 * hidden; bytes["rms_norm_backward_f32"] = 16 * hidden
      bytes["rope_f32_to_bf16"] = 6 * hidden; bytes["rope_bf16"] = 4 * hidden
      bytes["swiglu_forward"] = 6 * inner; bytes["swiglu_backward"] = 10 * inner
    }
    { print $1, $2, $3, $4, ($1 in bytes && $3 > 0) ? $2 * bytes[$1] / $3 : "-" }'
}
# Operations a second of one layer's causal attention over rows of 4,096 tokens, by its kernels' times. Backward is 2.5 times forward.
attention() { # line, kernels, factor
  kernels "$1" | awk -v names="$2" -v factor="$3" '
    $1 ~ "^(" names ")$" { seconds += $3; if ($2 > calls) calls = $2 }
    END { if (seconds > 0) printf "%.0f\n", factor * calls * 4 * 2 * 4096 * 4096 * 4096 / seconds / 1e12; else print "-" }'
}

# One row of the table: a run of ours beside one of the peer's.
row() { # work, shape, our name, peer's name
  local ours theirs speed mine other my_share share flop peak
  ours="$(line "$3" "$1" "$2" || true)"
  theirs="$(line "$4" "$1" "$2" || true)"
  speed=tokens_per_s
  [[ $1 == train ]] || speed=decode_tokens_per_s
  mine="$(told "$ours" $speed)"
  other="$(told "$theirs" $speed)"
  if [[ $1 == train ]]; then
    # Recomputed blocks are no use of their own, so they do not count.
    flop="$(figure "$theirs" flop_per_token)"
    peak="$(figure "$theirs" matmul_op_per_s)"
    my_share="$(calculated '%.0f %%' 100 "$mine" "$flop" / "$peak")"
    share="$(calculated '%.0f %%' 100 "$other" "$flop" / "$peak")"
    [[ $flop != - ]] || my_share="$(calculated '%.0f %%*' 100 "$(figure "$ours" share_of_peak)")"
  else
    my_share="$(calculated '%.0f %%' 100 "$(figure "$ours" decode_bytes)" / "$(figure "$ours" decode_s)" "$bandwidth")"
    share="$(calculated '%.0f %%' 100 "$(figure "$theirs" share_of_bandwidth)")"
  fi
  printf '| %s %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$1" "$2" "$3" "$mine" "$my_share" "$(figure "$ours" peak_gpu_mib)" \
    "$4" "$other" "$share" "$(figure "$theirs" peak_gpu_mib)" "$(calculated %.2f "$mine" / "$other")"
}
{
  printf '\n| run | ours | tokens/s | share | GPU MiB | peer | tokens/s | share | GPU MiB | ours / peer |\n'
  printf '| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |\n'
  row train 16x1024 "rag-tune selective" "PEFT int8"
  row train 16x1024 "rag-tune selective" "PEFT int8, rest bf16"
  row train 16x1024 "rag-tune selective" "PEFT bf16"
  row generate 1x256 rag-tune "PEFT int8"
  row generate 1x256 rag-tune "PEFT bf16"
  row train 16x1024 "rag-tune selective" "rag-tune selective, bf16 base"
  row train 8x1024 "rag-tune selective" "PEFT int8, rest bf16"
  row train 16x1024 "rag-tune full" "PEFT int8, rest bf16"
  row train 1x2048 "rag-tune full" "PEFT int8, rest bf16"
  row train 4x1024 "rag-tune all" "PEFT int8, rest bf16, all kept"
  row train 4x1024 "rag-tune selective" "PEFT int8, rest bf16"
  for shape in $lengths; do
    row train "$shape" "rag-tune selective" "PEFT int8, rest bf16"
    row train "$shape" "rag-tune selective" "PEFT bf16"
  done
  for rows in 8 64; do
    row generate "${rows}x256" rag-tune "PEFT int8"
    row generate "${rows}x256" rag-tune "PEFT bf16"
  done
  cat <<'END'

Runs are ROWSxTOKENS. The share is of the bf16 matrix product's speed (training, without recomputed blocks) or of the speed of copying
memory (decoding), both measured by PyTorch; * is rag-tune's own share_of_peak. PEFT checkpoints every block unless all is kept.
END
  long="$(line "rag-tune selective" train 4x4096 || true)"
  printf '\n| attention of 4096, ours | TFLOP/s |\n| --- | ---: |\n'
  printf '| forward | %s |\n' "$(attention "$long" attention_forward_128 1)"
  printf '| backward | %s |\n' "$(attention "$long" 'attention_delta|attention_backward_kv_128|attention_backward_q_128' 2.5)"
  printf '\n| 16x1024, selective: a step of the device | calls | ms | share | GB/s | of copying |\n'
  printf '| --- | ---: | ---: | ---: | ---: | ---: |\n'
  moved "$(line "rag-tune selective" train 16x1024 || true)" |
    awk -v copying="$bandwidth" '{
      printf "| %s | %d | %.2f | %.1f %% |", $1, $2, 1e3 * $3, 100 * $4
      if ($5 == "-") { print " - | - |"; next }
      printf " %.0f | %s |\n", $5 / 1e9, copying == "-" ? "-" : sprintf("%.0f %%", 100 * $5 / copying)
    }'
  if [[ -n "$peer_missing" ]]; then
    printf 'The peer was not run: %s.\n' "$peer_missing"
  fi
  if [[ -n "$peaks_trouble" ]]; then
    printf "PyTorch's speeds of memory, products and attention are missing: %s.\\n" "$peaks_trouble"
  elif [[ -n "$peaks" ]]; then
    printf '\n| PyTorch | |\n| --- | ---: |\n'
    printf '| copying memory, read and written | %s GB/s |\n' "$(calculated %.0f "$bandwidth" / 1e9)"
    printf '| bf16 product of 8192 | %s TFLOP/s |\n' "$(calculated %.0f "$(figure "$peaks" matmul_op_per_s)" / 1e12)"
    for backend in flash cudnn; do
      for way in forward backward; do
        printf '| attention of 4096, %s, %s | %s TFLOP/s |\n' "$backend" "$way" \
          "$(calculated %.0f "$(figure "$peaks" "${backend}_${way}_op_per_s")" / 1e12)"
      done
    done
  fi
} | tee "$out/table.md"
exit "$failed"
