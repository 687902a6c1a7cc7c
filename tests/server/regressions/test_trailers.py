"""What gRPC needs of a response's end."""

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes


@pytest.mark.outcomes(hypercorn="nothing", prism=ErrorCodes.INTERNAL_ERROR)
async def test_an_application_that_fails_within_its_response(start, expected, h2_client, helpers):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request()
    outcome = "nothing"
    with trio.move_on_after(0.5):
        outcome = (await client.wait_for(h2.events.StreamReset, stream_id)).error_code
    assert outcome == expected


@pytest.mark.outcomes(hypercorn="the connection ends", prism="the connection serves on")
async def test_a_thousand_failures_use_no_stream_up(start, expected, h2_client, helpers):
    """hypercorn's connection ends with the first one above its hundred streams."""

    async def app(scope, receive, send):
        if scope["path"] == "/fine":
            return await helpers.respond(send, 200)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    client = h2_client(await (await start(app)).connect())
    for _ in range(1000):
        await client.request()
        if client.h2.open_outbound_streams >= 90:
            with trio.move_on_after(0.5):
                while client.h2.open_outbound_streams >= 10 and await client.read():
                    pass
            if client.h2.open_outbound_streams >= 90:
                break
    outcome = "the connection ends"
    with trio.move_on_after(1):
        if client.h2.open_outbound_streams < 90:
            assert await client.response(await client.request(path="/fine")) == (200, b"")
            outcome = "the connection serves on"
    assert outcome == expected


@pytest.mark.outcomes(hypercorn="stays half open", prism=ErrorCodes.NO_ERROR)
async def test_a_request_that_goes_on_after_its_response(start, expected, h2_client, helpers):
    """RFC 9113, 8.1: RST_STREAM with NO_ERROR asks the client to stop."""

    async def app(scope, receive, send):
        await helpers.respond(send, 200)

    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request("POST", end=False)
    outcome = "stays half open"
    with trio.move_on_after(1):
        outcome = (await client.wait_for(h2.events.StreamReset, stream_id)).error_code
    assert outcome == expected


@pytest.mark.outcomes(hypercorn="DATA ends the stream", prism="HEADERS end the stream")
async def test_an_answer_without_a_message_ends_in_trailers(start, expected, h2_client):
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
    trailers = client.got(h2.events.TrailersReceived, stream_id)
    assert ("HEADERS end the stream" if trailers else "DATA ends the stream") == expected
