#!/bin/sh
# Installs the programs that tests run beside Python: curl, Node, a C compiler.
#
# As root on Debian it installs what is missing. Elsewhere it says what to
# install; the tests that need it are skipped then, except in CI.
set -eu
missing=
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need curl curl
need node nodejs
need gcc gcc
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
elif [ -n "${CI:-}" ]; then
    echo "missing in CI:$missing" >&2
    exit 1
else
    echo "some tests will be skipped; to run them: sudo apt-get install$missing"
fi
