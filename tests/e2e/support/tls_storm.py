"""A fleet of clients that connect over TLS all at once, and make one call each.

Usage: python tls_storm.py PORT CLIENTS CA CERTIFICATE KEY. Prints how many were answered,
and the seconds until the last one was.
"""

import ssl
import sys
import time

import trio

CALL = b"POST /v1/demo/get HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n" + b'{"key":"a"}'


async def main(port: int, clients: int, context: ssl.SSLContext) -> None:
    answered = 0
    connected = trio.Event()
    waiting = clients
    streams = []

    async def client() -> None:
        nonlocal answered, waiting
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        waiting -= 1
        if not waiting:
            connected.set()
        await connected.wait()
        stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
        streams.append(stream)
        try:
            await stream.send_all(CALL)
            answer = await stream.receive_some(1000)
            answered += answer.startswith(b"HTTP/1.1 200")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    begun = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(client)
    print(answered, f"{time.monotonic() - begun:.1f}", flush=True)


if __name__ == "__main__":
    port, clients, ca, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    trio.run(main, int(port), int(clients), context)
