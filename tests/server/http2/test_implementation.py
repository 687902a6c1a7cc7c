"""Which codec serves, and that neither a compiler nor the library has to be there."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from prism.server.http2.implementation import CodecUnavailable, choose
from prism.server.settings import ServerSettings

ROOT = Path(__file__).parents[3]
EXTENSION = "prism.server.http2._nghttp2"


@pytest.fixture
def fresh(monkeypatch):
    choose.cache_clear()
    yield monkeypatch
    choose.cache_clear()


def without_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    monkeypatch.delattr(f"{EXTENSION}", raising=False)


def test_the_fastest_that_is_there_serves(fresh, nghttp2):
    assert choose("").name == "nghttp2"
    assert str(choose("h2")) == f"h2 {version('h2')}"


def test_without_the_extension_h2_serves(fresh):
    without_extension(fresh)
    assert choose("").name == "h2"


def test_an_extension_built_from_other_sources_does_not_serve(fresh, nghttp2):
    from prism.server.http2 import _nghttp2

    fresh.setattr(_nghttp2, "API", _nghttp2.API + 1)
    assert choose("").name == "h2"
    with pytest.raises(CodecUnavailable, match="built from other sources; install Prism again"):
        choose("nghttp2")


@pytest.mark.parametrize("name", ["nghttp2", "http3"])
def test_asking_for_what_is_not_there_is_an_error_with_the_way_out(fresh, name):
    without_extension(fresh)
    with pytest.raises(CodecUnavailable, match=f"PRISM_HTTP2_CODEC={name}: .*set it to h2"):
        choose(name)


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("PRISM_HTTP2_CODEC", "h2")
    assert ServerSettings().http2_codec == "h2"
    monkeypatch.delenv("PRISM_HTTP2_CODEC")
    assert ServerSettings().http2_codec == ""


def test_a_library_that_lacks_a_function_is_not_used(nghttp2, tmp_path):
    """The extension takes a library beside itself first; this one is libc under its name."""
    from prism.server.http2 import _nghttp2

    beside = tmp_path / Path(_nghttp2.__file__).name
    beside.write_bytes(Path(_nghttp2.__file__).read_bytes())
    (libc,) = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith("/libc.so.6")
    }
    (tmp_path / "libnghttp2.so.14").symlink_to(libc)
    program = (
        "import importlib.util as u;"
        f"spec = u.spec_from_file_location({EXTENSION!r}, {str(beside)!r});"
        "u.module_from_spec(spec).__loader__.exec_module(u.module_from_spec(spec))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: libnghttp2.so.14 has no function nghttp2_version" in done.stderr
