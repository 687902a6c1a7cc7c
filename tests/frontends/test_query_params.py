import pytest

from prism.contract.errors import InvalidRequest, PayloadTooLarge
from prism.frontends.query_params import query_params


@pytest.mark.parametrize(
    ("query", "params"),
    [(b"", b""), (b"params=%7B%22a%22%3A+1%7D", b'{"a": 1}'), (b"params=", b"")],
)
def test_params_in_the_url(query, params):
    assert query_params(query, 100) == params


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (b"a=1", InvalidRequest),
        (b"params={}&b=1", InvalidRequest),
        (b"params=" + b"x" * 101, PayloadTooLarge),
    ],
)
def test_other_queries_are_refused(query, error):
    with pytest.raises(error):
        query_params(query, 100)
