"""Both codecs, wherever a test does not care which one it has."""

import os

import pytest

from prism.frontends.server.http2.implementation import Implementation, choose

NEEDS = (
    "the nghttp2 codec is not there; it needs a C compiler when Prism is installed, "
    "and libnghttp2 (Debian: gcc, libc6-dev, libnghttp2-14)"
)


@pytest.fixture(params=["h2", "nghttp2"])
def codec_name(request: pytest.FixtureRequest) -> str:
    if request.param == "nghttp2":
        request.getfixturevalue("nghttp2")
    return request.param


@pytest.fixture
def implementation(codec_name: str) -> Implementation:
    return choose(codec_name)


@pytest.fixture(scope="session")
def nghttp2() -> Implementation:
    if choose().name != "nghttp2":
        assert "CI" not in os.environ, NEEDS
        pytest.skip(NEEDS)
    return choose("nghttp2")
