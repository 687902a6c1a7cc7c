"""A stream's parameters, read from the URL."""

from urllib.parse import unquote_to_bytes

from prism.contract.errors import InvalidRequest, PayloadTooLarge

PARAMS_KEY = b"params="
PLACE = "params= of the query"


def query_params(query: bytes, limit: int) -> bytes:
    """The params in the URL, as ``?params=`` and JSON: an EventSource of a browser sends no body.

    Empty without a query.

    Raises:
        InvalidRequest: the query is something else.
        PayloadTooLarge: the params have more than ``limit`` bytes.
    """
    if not query:
        return b""
    if not query.startswith(PARAMS_KEY) or b"&" in query:
        raise InvalidRequest("the query of a stream is params=, and its parameters as JSON")
    params = unquote_to_bytes(query.removeprefix(PARAMS_KEY).replace(b"+", b" "))
    if len(params) > limit:
        raise PayloadTooLarge(limit, "the query")
    return params
