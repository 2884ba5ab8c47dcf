#!/usr/bin/env bash
# Tests the HTML report in a real browser: loads a report of made-up answers from disk, filters it, opens rows, walks by
# keyboard, and measures contrast and speed.
#
# usage: scripts/browser-test.sh [PICTURES]
#
# Needs chromium (or chrome; CHROMIUM names another), node 18 or newer, and npm, which fetches puppeteer-core (no browser
# with it) into .cache/browser-test. Pictures of the page (report.png, report_row.png, and the same in the dark) are
# written to the folder PICTURES, by default .cache/browser-test. What is tested: scripts/browser_test.mjs.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pictures="${1:+$(realpath "$1")}"
cd "$root"
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

find_browser() {
  local name
  for name in "${CHROMIUM:-chromium}" chromium-browser google-chrome-stable google-chrome; do
    if command -v "$name"; then return; fi
  done
  return 1
}

if ! browser="$(find_browser)"; then
  echo "browser-test: no chromium or chrome here (Debian, Ubuntu: apt-get install chromium); CHROMIUM can name one" >&2
  exit 1
fi
for tool in node npm; do
  if ! command -v "$tool" >/dev/null; then
    echo "browser-test: \`$tool\` is missing (Debian, Ubuntu: apt-get install nodejs npm)" >&2
    exit 1
  fi
done
require_toolchain

work="$root/.cache/browser-test"
mkdir -p "$work"
if [[ ! -d "$work/node_modules/puppeteer-core" ]]; then
  npm install --prefix "$work" --no-save --no-audit --no-fund --loglevel error puppeteer-core@24
fi
cargo run --quiet --locked --package rag-tune-report --example sample_report -- "$work/report.html"
ln -sf "$root/scripts/browser_test.mjs" "$work/browser_test.mjs"
node --preserve-symlinks-main "$work/browser_test.mjs" "$browser" "$work" "${pictures:-$work}"
