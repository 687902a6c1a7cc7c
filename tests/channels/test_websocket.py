"""The client's half of frames in a WebSocket; ``test_channel`` has calls over it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, WebSocketServer

from prism.channels import websocket
from prism.channels.websocket import MAX_MESSAGE, SUBPROTOCOL, WebSocketStream
from prism.streams.errors import ConnectionAged, LaunchError

Serve = Callable[[WebSocketConnection], Awaitable[None]]


async def listening() -> tuple[trio.SocketListener, str]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener, f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/plugin"


@asynccontextmanager
async def dialled(serve: Serve) -> AsyncIterator[WebSocketStream]:
    """A stream to a server that does ``serve`` with its end."""
    listener, url = await listening()

    async def handle(request: WebSocketRequest) -> None:
        assert request.proposed_subprotocols == (SUBPROTOCOL,)
        await serve(await request.accept(subprotocol=SUBPROTOCOL))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(WebSocketServer(handle, [listener]).run)
        stream = await websocket.dial(url, None, nursery)
        try:
            yield stream
        finally:
            await stream.aclose()
            nursery.cancel_scope.cancel()


async def refusal(answer: bytes) -> str:
    """What is said of a server that answers this to the request."""
    listener, url = await listening()
    async with listener, trio.open_nursery() as nursery:

        async def serve() -> None:
            async with await listener.accept() as stream:
                await stream.receive_some()
                await stream.send_all(answer)

        nursery.start_soon(serve)
        with pytest.raises(LaunchError) as caught:
            await websocket.dial(url, None, nursery)
    return str(caught.value).replace(url, "URL")


async def test_messages_are_one_stream_of_bytes() -> None:
    sent = bytes(range(256)) * 5000  # more than one message

    async def echo(peer: WebSocketConnection) -> None:
        left = len(sent)
        while left:
            message = await peer.get_message()
            assert isinstance(message, bytes)
            assert len(message) <= MAX_MESSAGE
            left -= len(message)
            await peer.send_message(message)

    async with dialled(echo) as stream:
        await stream.send_all(sent)
        received = b""
        while len(received) < len(sent):
            received += await stream.receive_some(1000)
        assert received == sent
        assert await stream.receive_some() == b""


async def test_a_clean_close_is_the_end() -> None:
    async with dialled(lambda peer: peer.aclose(1000)) as stream:
        assert await stream.receive_some() == b""


@pytest.mark.parametrize("code", [1001, 1012])
async def test_a_peer_that_goes_away_or_restarts_says_so(code: int) -> None:
    async with dialled(lambda peer: peer.aclose(code, "max age")) as stream:
        for _ in range(2):
            with pytest.raises(ConnectionAged, match=f"closed with {code} max age"):
                await stream.receive_some()


async def test_any_other_close_is_an_error_with_its_reason() -> None:
    async with dialled(lambda peer: peer.aclose(1011, "no memory")) as stream:
        with pytest.raises(trio.BrokenResourceError, match="closed with 1011 no memory"):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="closed with 1011"):
            await stream.send_all(b"x")


async def test_text_is_an_error() -> None:
    async with dialled(lambda peer: peer.send_message("{}")) as stream:
        with pytest.raises(trio.BrokenResourceError, match="a text message"):
            await stream.receive_some()


async def test_closing_ends_the_reader_that_nobody_reads_from() -> None:
    async def flood(peer: WebSocketConnection) -> None:
        try:
            while True:
                await peer.send_message(bytes(100_000))
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        listener, url = await listening()

        async def handle(request: WebSocketRequest) -> None:
            await flood(await request.accept())

        nursery.start_soon(WebSocketServer(handle, [listener]).run)
        async with trio.open_nursery() as readers:
            stream = await websocket.dial(url, None, readers)
            await stream.receive_some()
            await stream.aclose()
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_connection_cut_off_is_broken_and_its_nursery_goes_on() -> None:
    async def cut_off(peer: WebSocketConnection) -> None:
        await trio.aclose_forcefully(peer._stream)

    async with dialled(cut_off) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_what_is_no_websocket_is_said() -> None:
    refused = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone"
    assert await refusal(refused) == "URL answered HTTP 404, not a WebSocket"
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert await refusal(empty) == "URL answered HTTP 204, not a WebSocket"


async def test_an_opening_can_be_cancelled() -> None:
    listener, url = await listening()
    async with listener, trio.open_nursery() as nursery:
        with trio.move_on_after(0.05) as scope:
            await websocket.dial(url, None, nursery)
        assert scope.cancelled_caught
        async with await listener.accept() as stream:
            while await stream.receive_some():
                pass
