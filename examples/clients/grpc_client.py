"""A stock gRPC client: stores a value, reads it back, scans, and watches what changes.

pip install grpcio grpcio-tools
python examples/clients/grpc_client.py schemas 127.0.0.1:50051
"""

import json
import queue
import sys

import grpc

sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("prism/plugin.proto")  # type: ignore[attr-defined]
DEMO = [("prism-namespace", "demo")]

with grpc.insecure_channel(sys.argv[2]) as channel:
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
