#!/bin/sh
# Builds the component with clang, lld and wasm-tools (cargo install wasm-tools):
#   sh build.sh counter.wasm
set -eu
target=$(realpath "$1")
cd "$(dirname "$0")"
wit=../../../../schemas/abi/prism_plugin.wit
module=$(mktemp)
trap 'rm -f "$module" "$module.embedded"' EXIT
clang --target=wasm32 -nostdlib -mbulk-memory -Os -Wall -Wextra -Werror -Wl,--no-entry -Wl,--strip-all \
    -o "$module" counter.c
wasm-tools component embed "$wit" --world plugin "$module" -o "$module.embedded"
wasm-tools component new "$module.embedded" -o "$target"
