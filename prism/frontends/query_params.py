"""A stream's parameters, read from the URL."""

from urllib.parse import unquote_to_bytes

from prism.calls.request import Params
from prism.contract.errors import InvalidRequest, PayloadTooLarge

PARAMS_KEY = b"params="


class QueryParams(Params):
    """The params in the URL, as ``?params=`` and JSON: an EventSource of a browser sends
    no body."""

    place = "params= of the query"

    def __init__(self, query: bytes) -> None:
        self._query = query

    async def read(self, limit: int) -> bytes:
        """The JSON; ``{}`` without a query."""
        if not self._query:
            return b""
        if not self._query.startswith(PARAMS_KEY) or b"&" in self._query:
            raise InvalidRequest("the query of a stream is params=, and its parameters as JSON")
        params = unquote_to_bytes(self._query.removeprefix(PARAMS_KEY).replace(b"+", b" "))
        if len(params) > limit:
            raise PayloadTooLarge(limit, "the query")
        return params
