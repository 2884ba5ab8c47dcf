# Sourced by test.sh and quickstart.sh: sees to it that Rust and a C and C++ compiler are there.
# Expects `root`, the repository's folder.
# shellcheck shell=bash

# The oldest Rust that builds the workspace, as Cargo.toml names it.
minimum_rust="$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' "${root:?}/Cargo.toml")"

rust_is_new_enough() {
  local version
  version="$(cargo --version 2>/dev/null | cut -d ' ' -f 2)" || return 1
  [[ -n "$version" && "$(printf '%s\n%s\n' "$minimum_rust" "$version" | sort -V | head -n 1)" == "$minimum_rust" ]]
}

# Where no Rust is installed, rustup puts one into .cache/rust: nothing outside the repository changes.
install_rust() {
  local installer="$root/.cache/rust/rustup-init.sh"
  export RUSTUP_HOME="$root/.cache/rust/rustup" CARGO_HOME="$root/.cache/rust/cargo"
  export PATH="$CARGO_HOME/bin:$PATH"
  if rust_is_new_enough; then return; fi
  if ! command -v curl >/dev/null; then return 1; fi
  echo "toolchain: no Rust $minimum_rust here; installing it into $root/.cache/rust"
  mkdir -p "$root/.cache/rust"
  curl --proto '=https' --silent --show-error --fail --location --connect-timeout 10 \
    --output "$installer" https://sh.rustup.rs || return 1
  sh "$installer" -y --quiet --no-modify-path --profile minimal --component rustfmt --component clippy || return 1
  rust_is_new_enough
}

require_toolchain() {
  local missing=0 tool
  if ! rust_is_new_enough && ! install_rust; then
    echo "toolchain: Rust $minimum_rust or newer is missing and could not be installed; see https://rustup.rs" >&2
    missing=1
  fi
  for tool in cc c++; do
    if ! command -v "$tool" >/dev/null; then
      echo "toolchain: the compiler \`$tool\` is missing (Debian, Ubuntu: apt-get install build-essential;" \
        "Fedora: dnf install gcc-c++; macOS: xcode-select --install)" >&2
      missing=1
    fi
  done
  if [[ $missing == 1 ]]; then exit 1; fi
}
