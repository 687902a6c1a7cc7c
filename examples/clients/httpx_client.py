"""Calls and streams with httpx: a call, lines of JSON, server-sent events.

pip install httpx
python examples/clients/httpx_client.py [http://127.0.0.1:50051]
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx

DEMO = "".join(sys.argv[1:2] or ["http://127.0.0.1:50051"]) + "/v1/demo"

# No read timeout: a stream may be silent; Prism sends a comment every 15 seconds.
with httpx.Client(timeout=httpx.Timeout(10, read=None)) as client:

    def call(operation: str, **params: Any) -> Any:
        response = client.post(f"{DEMO}/{operation}", json=params)
        response.raise_for_status()
        return response.json()

    def lines(operation: str, **params: Any) -> Iterator[Any]:
        """The messages of a stream, one JSON value a line."""
        headers = {"accept": "application/x-ndjson"}
        with client.stream("POST", f"{DEMO}/{operation}", json=params, headers=headers) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                message = json.loads(line)
                if isinstance(message, dict) and "$error" in message:
                    raise RuntimeError(message["$error"]["detail"])
                yield message

    def events(operation: str, after: str = "", **params: Any) -> Iterator[tuple[str, Any]]:
        """(id, message) of each event; give the last id as ``after`` to go on behind it."""
        headers = {"accept": "text/event-stream"} | ({"last-event-id": after} if after else {})
        with client.stream("POST", f"{DEMO}/{operation}", json=params, headers=headers) as response:
            response.raise_for_status()
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line.startswith(":"):
                    continue
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                if fields.get("event") == "end":
                    return
                if fields.get("event") == "error":
                    raise RuntimeError(json.loads(fields["data"])["detail"])
                if fields:
                    yield fields["id"], json.loads(fields["data"])
                fields = {}

    print(call("set", key="user:123", value={"name": "Ada"}))
    print(call("get", key="user:123"))
    for message in lines("scan", prefix="user:"):
        print("scanned", message)
    for _, change in events("watch", prefix="user:", existing=True):
        print(change["event"], change.get("key", ""))
        if change["event"] == "ready":
            call("delete", key="user:123")
        if change["event"] == "delete":
            break
