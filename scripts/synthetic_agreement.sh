#!/bin/sh
# How often verdicts on synthetic databases are those on Spider's real databases, by number of databases: the table of
# docs/evaluation.md.
#
# Needs RAG_TUNE_MIRROR (with the data set samlhuillier/sql-create-context-spider-intersect), RAG_TUNE_DATABASES
# (Spider's database folder), and RAG_TUNE_PREDICTIONS, a folder below which lie predictions.jsonl of its validation
# split. SHOW_DISAGREEMENTS=1 prints each query on which they disagree.
#
#   RAG_TUNE_PREDICTIONS=out scripts/synthetic_agreement.sh
set -eu
cd "$(dirname "$0")/.."
: "${RAG_TUNE_MIRROR:?names a mirror of the hub}" "${RAG_TUNE_DATABASES:?names the folder of databases}"
: "${RAG_TUNE_PREDICTIONS:?names a folder of predictions}"
exec cargo test -q -p rag-tune-cli --test synthetic_databases agreement_by_number_of_databases -- --ignored --nocapture
