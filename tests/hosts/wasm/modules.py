"""Modules: written as text, or built from the examples by their compilers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

EXAMPLES = Path(__file__).parents[3] / "examples" / "plugins" / "wasm"
TARGET = "wasm32-unknown-unknown"
RUST = (
    "--edition=2021",
    f"--target={TARGET}",
    "--crate-type=cdylib",
    "-Copt-level=s",
    "-Cpanic=abort",
    "-Cstrip=symbols",
    "-Dwarnings",
)
OFFERS = json.dumps(
    {
        "version": "2.1.0",
        "operations": [{"name": "run"}, {"name": "other"}, {"name": "pour", "streaming": True}],
    }
)


def wat(
    *,
    run: str = "(return (call $say (i32.const 1024) (i32.const 3)))",
    pour: str = "(return (call $say (i32.const 1024) (i32.const 3)))",
    other: str = "(return (call $say (i32.const 1024) (i32.const 3)))",
    imports: str = "",
    initialize: str = "",
    extra: str = "",
    abi: str = "(i32.const 1)",
    alloc: str = "(i32.const 65536)",
    memory: str = '(memory (export "memory") 4)',
    offers: str = OFFERS,
) -> str:
    """A module that answers ``{}``, or what is written of it: bodies of its functions.

    ``$say`` packs a place and a size. At 1024 there is ``0 {}``; at 2048 what it offers. Operation
    names are told apart by their first letter: ``run``, ``other``.
    """
    said = "".join(f"\\{byte:02x}" for byte in b"\0" + offers.encode())
    return f"""(module
      {imports}
      {memory}
      (data (i32.const 1024) "\\00{{}}")
      (data (i32.const 2048) "{said}")
      (global $counter (mut i64) (i64.const 0))
      (func $say (param $at i32) (param $size i32) (result i64)
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
                (i64.extend_i32_u (local.get $size))))
      (func (export "prism_abi") (result i32) {abi})
      (func (export "prism_alloc") (param $size i32) (result i32) {alloc})
      (func (export "prism_initialize") (param $at i32) (param $size i32) (result i64)
        {initialize}
        (call $say (i32.const 2048) (i32.const {len(offers) + 1})))
      (func (export "prism_execute")
        (param $at i32) (param $size i32) (param $params i32) (param $params_size i32) (result i64)
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const {ord("r")})) (then {run}))
        {other} unreachable)
      (func (export "prism_stream")
        (param $at i32) (param $size i32) (param $params i32) (param $params_size i32) (result i64)
        {pour} unreachable)
      {extra})"""


def save(path: Path, text: str) -> Path:
    """A module in binary form."""
    path.write_bytes(wasmtime.wat2wasm(text))
    return path


# -- the examples, built ---------------------------------------------------------------------


def missing(what: str) -> None:
    """Skip a test for want of a tool, which CI has."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI needs it")
    pytest.skip(what)


def rust_compiler() -> Path | None:
    """The first compiler that has the target's library: rustup's, or Debian's."""
    for compiler in filter(None, [shutil.which("rustc"), "/usr/bin/rustc"]):
        asked = [compiler, "--print=target-libdir", f"--target={TARGET}"]
        if Path(compiler).exists():
            place = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip()
            if place and any(Path(place).glob("libcore-*")):
                return Path(compiler)
    return None


@pytest.fixture(scope="session")
def greeter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in Rust."""
    target = tmp_path_factory.mktemp("wasm") / "greeter.wasm"
    compiler = rust_compiler()
    if compiler is None:
        missing(f"there is no rustc with the library of {TARGET}")
    source = EXAMPLES / "rust" / "src" / "lib.rs"
    subprocess.run([compiler, *RUST, f"-o{target}", source], check=True, timeout=300)
    return target


@pytest.fixture(scope="session")
def checksums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in C."""
    target = tmp_path_factory.mktemp("wasm") / "checksums.wasm"
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        missing("there is no clang with lld")
    subprocess.run(["sh", str(EXAMPLES / "c" / "build.sh"), str(target)], check=True, timeout=300)
    return target


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example that is a component, in C."""
    directory = tmp_path_factory.mktemp("component")
    tools = Path(sys.prefix) / "tools" / "wasm-tools"
    if shutil.which("wasm-tools") is None:
        if not tools.is_dir() or shutil.which("node") is None:
            missing("there is no wasm-tools, nor what scripts/tools.sh has in its place")
        program = directory / "wasm-tools"
        script = Path(__file__).with_name("wasm-tools.mjs")
        program.write_text(f'#!/bin/sh\nWASM_TOOLS={tools} exec node {script} "$@"\n')
        program.chmod(0o755)
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        missing("there is no clang with lld")
    target = directory / "counter.wasm"
    subprocess.run(
        ["sh", str(EXAMPLES / "component" / "build.sh"), str(target)],
        check=True,
        timeout=300,
        env={**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"},
    )
    return target
