#!/bin/sh
# Builds the module with Debian's packages clang, lld, wasi-libc and libclang-rt-14-dev-wasm32:
#   sh build.sh checksums.wasm
set -eu
cd "$(dirname "$0")"
exec clang --target=wasm32-wasi -mexec-model=reactor -Os -Wall -Wextra -Werror -Wl,--strip-all \
    -o "$1" checksums.c
