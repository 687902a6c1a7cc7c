"""The codec, built to end the process at a wrong access, under broken frames."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
CODECS = HERE.parents[1] / "server/http2"


@pytest.fixture(scope="module")
def codec(sanitized):
    return sanitized("nghttp2", "prism.server.http2._nghttp2")


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1000, pytest.param(300_000, marks=pytest.mark.soak)])
def test_broken_frames_and_any_order_of_calls(codec, connections):
    codec.run(HERE / "fuzz.py", connections, 1)


@pytest.mark.slow
def test_the_codecs_own_tests(codec):
    """With every wrong argument, and every end that a stream comes to; without those on h2."""
    options = ["-q", "-p", "no:cacheprovider", "-k", "not nothing_is_left and not h2"]
    tests = [CODECS / "test_codec.py", CODECS / "test_limits.py", HERE / "test_module.py"]
    codec.run("pytest", *options, *tests)
