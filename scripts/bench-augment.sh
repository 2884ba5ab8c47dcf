#!/usr/bin/env bash
# Seconds to augment all of SQL, GSM8K and ViGGO: rag-tune beside sentence-transformers + chromadb, in one run.
#
# usage: scripts/bench-augment.sh [ROUNDS] [MIRROR]      default: 2, $RAG_TUNE_MIRROR
#
# Both embed the query column of every row with all-MiniLM-L6-v2, index the training rows, find each row's nearest
# other training row under the config's constraints, render the prompts and write JSON lines; nothing is cached from
# one run to the next. The programs take turns; run it on an idle machine. The peer is one Python process for all three
# data sets (imports and loading are paid once), rag-tune is started once for each. The peer runs in two ways: queries
# 64 at a time, filtered in Python, in memory; and one query a row with a `where` filter in a persistent store, as the
# original tool did it. The ratios are against the faster of the two.
#
# BINARY: the program to measure (default target/release/rag-tune). RAG_TUNE_BENCH_PYTHON: a folder of a virtual
# environment with sentence-transformers and chromadb; by default one is made in .cache/bench-venv (6 GB, from PyPI).
# MIRROR must hold the model and the three data sets, see scripts/fetch-models.sh.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
rounds="${1:-2}"
mirror="${2:-${RAG_TUNE_MIRROR:-}}"
binary="${BINARY:-${CARGO_TARGET_DIR:-target}/release/rag-tune}"
configs=(configs/sql_rag1.toml configs/gsm8k_rag1.toml configs/functional_rag1.toml)

if [[ -z "$mirror" || ! -d "$mirror" ]]; then
  echo "bench-augment: name a mirror with the model and the data sets, or set RAG_TUNE_MIRROR" >&2
  exit 1
fi
if [[ ! -x "$binary" ]]; then
  echo "bench-augment: \`$binary\` does not exist; run cargo build --release, or set BINARY" >&2
  exit 1
fi

venv="${RAG_TUNE_BENCH_PYTHON:-$root/.cache/bench-venv}"
if [[ ! -x "$venv/bin/python" ]]; then
  echo "bench-augment: installing sentence-transformers and chromadb into $venv" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet \
    torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0 numpy==2.4.6 chromadb==1.5.9 jinja2
fi

results="$(mktemp -d)"
trap 'rm -rf "$results"' EXIT
mkdir "$results/seconds"

# What the command takes, as JSON: wall and CPU seconds, peak memory.
timed() {
  local file="$1"
  shift
  "$venv/bin/python" - "$file" "$@" <<'PYTHON'
import json
import resource
import subprocess
import sys
import time

file, *command = sys.argv[1:]
start = time.perf_counter()
done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
wall = time.perf_counter() - start
if done.returncode != 0:
    sys.exit(f"bench-augment: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
result = {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_mib": usage.ru_maxrss / 1024}
lines = done.stdout.splitlines()
if lines and lines[-1].startswith("{"):
    result["inner"] = json.loads(lines[-1])
with open(file, "w") as out:
    json.dump(result, out)
PYTHON
}

for round in $(seq "$rounds"); do
  for way in "batched ephemeral" "each persistent"; do
    read -r queries client <<<"$way"
    timed "$results/seconds/peer_$queries.$round" "$venv/bin/python" scripts/augment_peer.py "${configs[@]}" \
      --mirror "$mirror" --out "$results/peer_$queries" --queries "$queries" --client "$client"
  done
  for config in "${configs[@]}"; do
    name="$(basename "$config" _rag1.toml)"
    cache="$(mktemp -d "$results/cache.XXXXXX")"
    rm -rf "${results:?}/rag_tune/$name"
    XDG_CACHE_HOME="$cache" timed "$results/seconds/rag_tune_$name.$round" "$binary" augment "$config" \
      --mirror "$mirror" --out "$results/rag_tune/$name"
    rm -rf "$cache"
  done
done

"$venv/bin/python" - "$results" <<'PYTHON'
import json
import sys
from pathlib import Path

results = Path(sys.argv[1])
NAMES = ["sql", "gsm8k", "functional"]


def runs(name):
    files = sorted(results.glob(f"seconds/{name}.*"))
    return [json.loads(file.read_text()) for file in files]


def fastest(name):
    return min(runs(name), key=lambda run: run["wall_s"])


peers = {queries: fastest(f"peer_{queries}") for queries in ("batched", "each")}
ours = {name: fastest(f"rag_tune_{name}") for name in NAMES}
phases = ["import", "load", "read", "embed", "index", "query", "render", "write"]
print("| sentence-transformers + chromadb, seconds | " + " | ".join(phases) + " | all | CPU | peak RSS MiB |")
print("| --- " * (len(phases) + 4) + "|")
labels = {"batched": "64 queries a call", "each": "a query a row, `where`"}
for queries, peer in peers.items():
    cells = [f"{peer['inner']['phases'].get(phase, 0):.1f}" for phase in phases]
    total = f"{peer['wall_s']:.1f} | {peer['cpu_s']:.1f} | {peer['peak_rss_mib']:.0f}"
    print(f"| {labels[queries]} | {' | '.join(cells)} | {total} |")
print("\n| rag-tune, seconds | all | CPU | peak RSS MiB |\n| --- | --- | --- | --- |")
for name, run in ours.items():
    print(f"| {name} | {run['wall_s']:.1f} | {run['cpu_s']:.1f} | {run['peak_rss_mib']:.0f} |")
wall = sum(run["wall_s"] for run in ours.values())
cpu = sum(run["cpu_s"] for run in ours.values())
print(f"| all three | {wall:.1f} | {cpu:.1f} | {max(run['peak_rss_mib'] for run in ours.values()):.0f} |")

peer = min(peers.values(), key=lambda run: run["wall_s"])
started = peer["wall_s"] - peer["inner"]["phases"]["import"]
print(f"\nrag-tune is {peer['wall_s'] / wall:.2f} times as fast end to end, {started / wall:.2f} times without Python's")
print(f"imports, {peer['cpu_s'] / cpu:.2f} times by CPU seconds.\n")

print("| agreement | rows | same example | same prompt where the example is the same |\n| --- | --- | --- | --- |")
for queries in peers:
    for name in NAMES:
        for file in sorted((results / "rag_tune" / name).glob("*.jsonl")):
            mine = [json.loads(line) for line in file.open(encoding="utf-8")]
            theirs = (results / f"peer_{queries}" / name / file.name).open(encoding="utf-8")
            pairs = list(zip(mine, map(json.loads, theirs), strict=True))
            same = [(a, b) for a, b in pairs if a["examples"][0]["row"] == b["examples"][0]["row"]]
            prompts = sum(a["full_prompt"] == b["full_prompt"] for a, b in same)
            share = 100 * len(same) / len(pairs)
            print(f"| {name} {file.stem}, {labels[queries]} | {len(pairs)} | {share:.2f} % | {prompts} of {len(same)} |")
PYTHON
