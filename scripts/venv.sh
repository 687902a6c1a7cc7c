#!/bin/sh
# Makes the virtual environment $1 with $PYTHON, or says what is missing.
set -eu
venv=$1
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null 2>&1; then
    # One that was asked for by name is not replaced by another.
    if [ "$python" = python3 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing python3 (Debian package)"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3 python3-venv >/dev/null
    else
        echo "$python: not found; install Python 3.11 or later (Debian: sudo apt-get install python3 python3-venv)" >&2
        exit 1
    fi
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is $("$python" -V 2>&1 | cut -d' ' -f2); Prism needs Python 3.11 or later." >&2
    echo "Point make at another one: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi

# Debian ships Python without ensurepip; its package python3-venv brings it.
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing python3-venv (Debian package)"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv >/dev/null
    else
        echo "this Python cannot make virtual environments: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi

# An environment whose Python has gone, or that another command left half made, is of no use.
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "making the virtual environment $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
