#!/bin/sh
# Builds two wheels into the folder $1: the proxy's, with its calls and the parts in C compiled, for
# $PYTHON and this platform, and the plugins' SDK. Tries both in clean virtual environments: a
# plugin in the one is served by the proxy in the other.
set -eu
folder=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
python=${PYTHON:-python3}
source=$(pwd)
clean=$(mktemp -d)
proxy=
trap '[ -z "$proxy" ] || kill "$proxy"; rm -rf "$clean"' EXIT
pip() { # pip ENVIRONMENT ARGUMENT...
    environment=$1
    shift
    "$clean/$environment/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}

# From an archive of the sources, so that nothing is packed but what belongs there.
echo "building" >&2
"$python" scripts/sdk_source.py "$clean/sdk-source"
cd "$clean"
"$python" -m venv build
pip build install build
PRISM_COMPILE=1 PIP_CONSTRAINT="$source/requirements/constraints.txt" \
    build/bin/python -m build --outdir built "$source" >/dev/null
build/bin/python -m build --outdir built sdk-source >/dev/null

echo "trying the proxy" >&2
"$python" -m venv proxy
pip proxy install --constraint "$source/requirements/constraints.txt" built/prism_data_proxy-*.whl
says=$(proxy/bin/prism-data-proxy --version)
case $says in
*"HTTP/2: nghttp2 "*"JSON: compiled; calls: compiled"*) ;;
*)
    echo "the wheel does not serve with what is compiled: $says" >&2
    exit 1
    ;;
esac

echo "trying the kits" >&2
for kit in "$source"/sdks/*/new.toml; do
    language=$(basename "$(dirname "$kit")")
    proxy/bin/prism plugin new "a-$language-plugin" --language "$language" >/dev/null
    grep -q "name: a-$language-plugin" "a-$language-plugin/prism.yaml"
done

echo "trying the SDK" >&2
"$python" -m venv plugin
pip plugin install --constraint "$source/requirements/constraints.txt" built/prism_plugin_sdk-*.whl
cp "$source/examples/plugins/python/echo.py" .
cat >prism.yaml <<END
listen: {port: 0}
admin: {enabled: false}
log: {level: warning}
namespaces:
  - name: echo
    backend: memory
    plugin: {type: sidecar, command: [$clean/plugin/bin/python, ./echo.py]}
END
mkfifo says
proxy/bin/prism serve --config prism.yaml >says &
proxy=$!
read -r line <says
url=${line##* on }
answer=$(proxy/bin/prism call echo echo '{"from":"the wheel"}' --url "$url")
kill "$proxy"
wait "$proxy"
proxy=
[ "$answer" = '{"from":"the wheel"}' ] || {
    echo "the plugin on the SDK's wheel answers $answer" >&2
    exit 1
}

for wheel in built/*.whl; do
    mv "$wheel" "$folder"
    echo "$folder/$(basename "$wheel")"
done
echo "$says"
