"""A stock gRPC client: stores a value, reads it back, scans, and watches what changes.

pip install grpcio grpcio-tools
python examples/clients/grpc_client.py [schemas [127.0.0.1:50051 [ca.pem]]]

With ca.pem, the file of the authority that the proxy's certificate is from, over TLS.
"""

import json
import queue
import sys
from pathlib import Path

import grpc

given = sys.argv[1:]
schemas = given[0] if given else str(Path(__file__).parents[2] / "schemas")
address = given[1] if len(given) > 1 else "127.0.0.1:50051"
sys.path.insert(0, schemas)
messages, services = grpc.protos_and_services("prism/plugin.proto")  # type: ignore[attr-defined]
DEMO = [("prism-namespace", "demo")]


def connect() -> grpc.Channel:
    """A channel to the proxy, with TLS where there is an authority to trust."""
    if len(given) < 3:
        return grpc.insecure_channel(address)
    trusted = grpc.ssl_channel_credentials(Path(given[2]).read_bytes())
    return grpc.secure_channel(address, trusted)


with connect() as channel:
    prism = services.BackendPluginStub(channel)

    def call(operation, **params):
        request = messages.ExecuteRequest(operation=operation, params_json=json.dumps(params))
        answer = prism.Execute(request, metadata=DEMO, timeout=10)
        return json.loads(answer.result_json)

    def stream(operation, **params):
        first = messages.StreamRequest(operation=operation, params_json=json.dumps(params))
        # What is put here later goes to the plugin; this iterator's end would be ours.
        requests: queue.SimpleQueue[messages.StreamRequest] = queue.SimpleQueue()
        requests.put(first)
        return prism.ExecuteStream(iter(requests.get, None), metadata=DEMO)

    print(call("set", key="user:123", value={"name": "Ada"}))
    print(call("get", key="user:123"))
    try:
        call("frobnicate")
    except grpc.RpcError as error:
        print(error.code().name)

    for message in stream("scan", prefix="user:"):
        print("scanned", message.result_json)

    changes = stream("watch", prefix="user:", existing=True)
    for message in changes:
        change = json.loads(message.result_json)
        print(change["event"], change.get("key", ""))
        if change["event"] == "ready":
            call("delete", key="user:123")
        if change["event"] == "delete":
            changes.cancel()
            break
