"""Prism's server on each of its HTTP/2 codecs."""

from functools import partial

import pytest

from prism.server.http2.implementation import Implementation


@pytest.fixture
def start(implementation: Implementation, start_server):
    """``await start(app, **settings)``: as ``start_server``, on each codec in turn."""
    return partial(start_server, http2_codec=implementation.name)
