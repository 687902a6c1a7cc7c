#!/bin/sh
# Installs the programs that tests and benchmarks run beside Python: curl, Node, a C
# compiler, HTTP/2 clients, nghttp2's headers, a browser, servers; builds the ones in Go
# (tests/e2e/programs) into the virtual environment $1.
#
# As root on Debian it installs what is missing. Elsewhere it says what to
# install; the tests that need it are skipped then, except in CI.
set -eu
venv=${1:-.venv}
missing=
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need bwrap bubblewrap
need curl curl
need node nodejs
need npm npm
need gcc gcc
need pkg-config pkg-config
need openssl openssl
need go golang-go
need cargo cargo
need java default-jdk-headless
need javac default-jdk-headless
need mvn maven
need nghttp nghttp2-client
need h2load nghttp2-client
need nghttpd nghttp2-server
need chromium-headless-shell chromium-headless-shell
need redis-server redis-server
need webdis webdis
# WebAssembly: C with its library, and Rust's library for it.
need clang clang
need wasm-ld lld
[ -e /usr/lib/wasm32-wasi/libc.a ] || [ -e /usr/lib/wasm32-wasi ] || missing="$missing wasi-libc"
ls /usr/lib/llvm-*/lib/clang/*/lib/wasi/libclang_rt.builtins-wasm32.a >/dev/null 2>&1 ||
    missing="$missing libclang-rt-dev-wasm32"
rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null | xargs -r ls >/dev/null 2>&1 ||
    [ -e /usr/lib/rustlib/wasm32-unknown-unknown ] || missing="$missing rustc libstd-rust-dev-wasm32"
[ -e /usr/sbin/nginx ] || missing="$missing nginx"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -e /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
[ -e /usr/share/i18n/locales/de_DE ] || missing="$missing locales"
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -e /usr/include/nghttp2/nghttp2.h ] || missing="$missing libnghttp2-dev"

if [ -z "$missing" ]; then
    :
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages:$missing"
    apt-get update -qq
    # The packages of servers start them; exit status 101 of this script says that none may.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    # shellcheck disable=SC2086  # a list of words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
elif [ -n "${CI:-}" ]; then
    echo "missing in CI:$missing" >&2
    exit 1
else
    echo "some tests will be skipped; to run them: sudo apt-get install$missing"
fi

# Kafka's broker, some 44 MB of jars.
if command -v mvn >/dev/null 2>&1; then
    jars=$(cd "$venv" && pwd)/tools/kafka
    pom=tests/services/kafka.pom.xml
    if [ ! -e "$jars/.complete" ] || [ "$pom" -nt "$jars/.complete" ]; then
        echo "fetching Kafka's broker (44 MB) into $jars"
        rm -rf "$jars"
        if mvn -q -B -f "$pom" dependency:copy-dependencies "-DoutputDirectory=$jars" -DincludeScope=runtime; then
            touch "$jars/.complete"
        else
            echo "Kafka could not be had; some tests will be skipped" >&2
            [ -z "${CI:-}" ] || exit 1
        fi
    fi
fi

# The parts of wasm-tools that make a component of a module, from npm (2 MB).
if command -v npm >/dev/null 2>&1; then
    tools=$(cd "$venv" && pwd)/tools/wasm-tools
    if [ ! -e "$tools/.complete" ]; then
        echo "fetching wasm-tools' parts into $tools"
        mkdir -p "$tools"
        if (cd "$tools" && npm pack --silent @bytecodealliance/jco-transpile@0.15.0 \
            @bytecodealliance/preview2-shim@0.26.0 >/dev/null); then
            for package in jco-transpile preview2-shim; do
                place=$tools/node_modules/@bytecodealliance/$package
                mkdir -p "$place"
                tar -xzf "$tools"/bytecodealliance-$package-*.tgz --strip-components=1 -C "$place"
            done
            touch "$tools/.complete"
        else
            echo "wasm-tools' parts could not be had; a test will be skipped" >&2
            [ -z "${CI:-}" ] || exit 1
        fi
    fi
fi

# What the kit for Rust is made with, so that its tests ask no registry.
if command -v cargo >/dev/null 2>&1 && ! cargo fetch --quiet --locked --manifest-path sdks/rust/Cargo.toml; then
    echo "the crates of sdks/rust could not be had; some tests will be skipped" >&2
    [ -z "${CI:-}" ] || exit 1
fi

# What builds and tests the kit for plugins in Java: Maven's plugins and JUnit, some 25 MB in
# Maven's own cache, from which the tests build without a network. Which ones, only a build tells.
if command -v mvn >/dev/null 2>&1; then
    fetched=$(cd "$venv" && pwd)/tools/java-kit
    pom=sdks/java/pom.xml
    if [ ! -e "$fetched" ] || [ "$pom" -nt "$fetched" ]; then
        echo "fetching what the kit for Java is built with (25 MB)"
        mkdir -p "$(dirname "$fetched")"
        copy=$(mktemp -d)
        cp -R sdks/java/pom.xml sdks/java/src "$copy"
        if mvn -q -B -f "$copy/pom.xml" package -Dtest=JsonTest; then
            touch "$fetched"
        else
            echo "the kit for Java could not be built; some tests will be skipped" >&2
            [ -z "${CI:-}" ] || exit 1
        fi
        rm -rf "$copy"
    fi
fi

# TypeScript, which checks the types of the kit for plugins in Node.
if command -v npm >/dev/null 2>&1; then
    modules=sdks/node/node_modules/.package-lock.json
    if [ ! -e "$modules" ] || [ sdks/node/package-lock.json -nt "$modules" ]; then
        echo "fetching TypeScript (30 MB) into sdks/node/node_modules"
        if ! (cd sdks/node && npm ci --no-audit --no-fund --silent); then
            echo "TypeScript could not be had; a test will be skipped" >&2
            [ -z "${CI:-}" ] || exit 1
        fi
    fi
fi

if command -v go >/dev/null 2>&1; then
    tools=$(cd "$venv" && pwd)/tools
    mkdir -p "$tools"
    [ -e "$tools/h2spec" ] || echo "building the tests' Go programs into $tools"
    cd tests/e2e/programs
    if ! go build -buildvcs=false -o "$tools/" github.com/summerwind/h2spec/cmd/h2spec ./http_client; then
        echo "the Go programs could not be built; some tests will be skipped" >&2
        [ -z "${CI:-}" ] || exit 1
    fi
fi
