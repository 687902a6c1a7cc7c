"""The kits' own tests, by each ecosystem's own tool; Go's run with its example (``test_new``)."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import prism
from tests.sdks.kits import BUILD_LIMIT, ROOT, SDKS, alone, need

MAVEN = {"MAVEN_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""Of Maven's own JVM, which is up for seconds only."""


def run(command: list[str], directory: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_node() -> None:
    """The tests of the package, with the vectors whole and byte by byte."""
    need({"node": "nodejs"})
    said = run(["node", "--test", "test/session.test.js"], SDKS / "node")
    assert re.search(r"^\S+ pass [1-9]\d*$", said, re.MULTILINE), said


def test_types_for_node(shared: Path) -> None:
    """The types fit the examples, one of which must not compile (``@ts-expect-error``)."""
    if not (SDKS / "node" / "node_modules" / "typescript").is_dir():
        message = "TypeScript is not installed: scripts/tools.sh, or npm ci in sdks/node"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    with alone(shared / "types"):
        run(["node", "node_modules/typescript/bin/tsc", "-p", "."], SDKS / "node")


def test_what_npm_packs(tmp_path: Path) -> None:
    """The package has what it exports, and a plugin that imports it by its name starts."""
    need({"node": "nodejs", "npm": "npm"})
    packed = json.loads(
        run(["npm", "pack", "--json", "--pack-destination", str(tmp_path)], SDKS / "node")
    )
    files = {file["path"] for file in packed[0]["files"]}
    assert {"index.js", "index.d.ts", "testing.js", "testing.d.ts", "lib/session.js"} <= files
    assert not any(file.startswith(("test/", "template/", "node_modules/")) for file in files)
    package = tmp_path / "node_modules" / "prism-plugin-sdk"
    package.mkdir(parents=True)
    run(["tar", "xf", packed[0]["filename"], "--strip-components=1", "-C", str(package)], tmp_path)
    program = """
        import { serve } from 'prism-plugin-sdk';
        await serve({ name: 'p', operations: { echo: (p) => p } });
    """
    (tmp_path / "plugin.mjs").write_text(program)
    assert "--listen ADDRESS" in run(["node", "plugin.mjs", "--help"], tmp_path)


def test_java(tmp_path: Path) -> None:
    """``mvn package`` without a network: its tests, with the vectors, and the artifact."""
    need({"mvn": "maven", "javac": "default-jdk-headless"})
    kit = tmp_path / "java"
    shutil.copytree(SDKS / "java", kit, ignore=shutil.ignore_patterns("target"))
    vectors = ROOT / "schemas" / "vectors"
    try:
        run(["mvn", "-q", "-B", "-o", f"-Dvectors={vectors}", "package"], kit, **MAVEN)
    except AssertionError as error:
        if os.environ.get("CI") == "true" or "offline mode" not in str(error):
            raise
        pytest.skip("Maven's cache has not what builds the kit for Java: scripts/tools.sh")
    assert (kit / "target" / f"prism-plugin-sdk-{prism.__version__}.jar").is_file()
    reports = "".join(
        file.read_text() for file in (kit / "target" / "surefire-reports").glob("*.txt")
    )
    assert "VectorsTest" in reports
    assert "Failures: 0, Errors: 0, Skipped: 0" in reports


def test_lock_files_name_no_host() -> None:
    assert "resolved" not in (SDKS / "node" / "package-lock.json").read_text()
