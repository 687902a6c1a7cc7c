"""What gRPC needs of a response's end."""

import h2.events
from h2.errors import ErrorCodes


async def test_an_application_that_fails_within_its_response(start, h2_client, helpers):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request()
    reset = await client.wait_for(h2.events.StreamReset, stream_id)
    assert reset.error_code == ErrorCodes.INTERNAL_ERROR


async def test_a_thousand_failures_use_no_stream_up(start, h2_client, helpers):
    async def app(scope, receive, send):
        if scope["path"] == "/fine":
            return await helpers.respond(send, 200)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    client = h2_client(await (await start(app)).connect())
    for _ in range(1000):
        await client.request()
        while client.h2.open_outbound_streams >= 90:
            assert await client.read()
    assert await client.response(await client.request(path="/fine")) == (200, b"")


async def test_a_request_that_goes_on_after_its_response(start, h2_client, helpers):
    """RFC 9113, 8.1: RST_STREAM with NO_ERROR asks the client to stop."""

    async def app(scope, receive, send):
        await helpers.respond(send, 200)

    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request("POST", end=False)
    reset = await client.wait_for(h2.events.StreamReset, stream_id)
    assert reset.error_code == ErrorCodes.NO_ERROR


async def test_an_answer_without_a_message_ends_in_trailers(start, h2_client):
    """start, an empty body, trailers: how the gRPC front end answers with a status alone.

    The client does not say ``te: trailers``; a proxy before it may have dropped that.
    """

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b""})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"5")]})

    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request()
    await client.wait_for(h2.events.StreamEnded, stream_id)
    assert client.got(h2.events.TrailersReceived, stream_id)
