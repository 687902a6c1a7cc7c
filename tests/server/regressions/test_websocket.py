"""permessage-deflate turned 388 KB on the wire into 429 MB in hypercorn's memory."""

import pytest

UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


@pytest.mark.outcomes(hypercorn="is negotiated", prism="is not")
async def test_compression_of_websocket_messages(start, expected, helpers):
    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
        else:
            await helpers.respond(send, 200)

    stream = await (await start(app)).connect()
    await stream.send_all(UPGRADE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some()
    negotiated = b"permessage-deflate" in answer
    assert ("is negotiated" if negotiated else "is not") == expected
