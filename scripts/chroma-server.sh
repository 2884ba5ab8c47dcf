#!/usr/bin/env bash
# Starts a Chroma server for `retrieval.store = "chroma"`, and prints its address.
#
# usage: scripts/chroma-server.sh [PORT] [DIR]       default: 8000, .cache/chroma
#        scripts/chroma-server.sh --install          only installs it, for the tests that start their own
#
# The first call installs Chroma from PyPI into .cache/chroma-venv (half a minute, 0.5 GB; Python 3.9 or newer).
# The server listens on this machine only and keeps its collections in DIR; Ctrl-C ends it.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.cache/chroma-venv"

if [[ ! -e "$venv/READY" ]]; then
  if ! command -v python3 >/dev/null; then
    echo "chroma-server: python3 is missing (3.9 or newer, with the venv module)" >&2
    exit 1
  fi
  echo "chroma-server: installing Chroma into $venv" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet chromadb==1.5.9
  touch "$venv/READY"
fi
if [[ "${1:-}" == --install ]]; then
  echo "chroma-server: $venv/bin/chroma is there" >&2
  exit 0
fi

port="${1:-8000}"
dir="${2:-$root/.cache/chroma}"
mkdir -p "$dir"
echo "retrieval.chroma_url = \"http://127.0.0.1:$port\""
ANONYMIZED_TELEMETRY=False exec "$venv/bin/chroma" run --path "$dir" --host 127.0.0.1 --port "$port"
