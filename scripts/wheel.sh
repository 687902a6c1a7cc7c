#!/bin/sh
# Builds a wheel with the compiled parts, for $PYTHON and this platform, into the folder $1, and tries
# it in a clean virtual environment.
set -eu
folder=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
python=${PYTHON:-python3}
source=$(pwd)
clean=$(mktemp -d)
trap 'rm -rf "$clean"' EXIT

# From an archive of the sources, so that nothing is packed but what belongs there.
"$python" -m venv "$clean/venv"
cd "$clean"
venv/bin/pip install --quiet build
venv/bin/python -m build --outdir "$clean/built" "$source" >/dev/null
wheel=$(ls "$clean"/built/*.whl)

"$python" -m venv --clear "$clean/venv"
venv/bin/pip install --quiet --constraint "$source/requirements/constraints.txt" "$wheel"
says=$(venv/bin/prism --version)
case $says in
*"HTTP/2: nghttp2 "*"JSON: compiled"*) ;;
*)
    echo "the wheel does not serve with what is compiled: $says" >&2
    exit 1
    ;;
esac
mv "$wheel" "$folder"
echo "$folder/$(basename "$wheel")"
echo "$says"
