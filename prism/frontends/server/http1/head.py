"""What a proxy must refuse in a request's head though h11 takes it.

Where two ways of framing a body are given, another server before this one may choose
the other, and take for a request's body what this one takes for the next request.
"""

import h11

from prism.frontends.server.asgi import BadRequest


def check_head(request: h11.Request) -> None:
    """See that there is one way to read ``request``.

    Raises:
        BadRequest: it is of another HTTP, or its body's length is given twice
            (RFC 9112, 6.1).
    """
    if not request.http_version.startswith(b"1."):
        raise BadRequest(505, "with this syntax, only HTTP/1.0 and HTTP/1.1 are served")
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise BadRequest(400, "a request has content-length or transfer-encoding, not both")
    if request.http_version == b"1.0":
        raise BadRequest(400, "HTTP/1.0 has no transfer-encoding")
