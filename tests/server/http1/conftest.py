import pytest

from prism.server.http1.fields import choose

PARSERS = ["httptools", "h11"]


@pytest.fixture(params=PARSERS)
def parser_name(request) -> str:
    pytest.importorskip(request.param)
    return choose(request.param).name
