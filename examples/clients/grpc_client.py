"""A stock gRPC client: stores a value and reads it back.

pip install grpcio grpcio-tools
python examples/clients/grpc_client.py schemas 127.0.0.1:50051
"""

import json
import sys

import grpc

sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("prism/plugin.proto")  # type: ignore[attr-defined]

with grpc.insecure_channel(sys.argv[2]) as channel:
    prism = services.BackendPluginStub(channel)

    def call(operation, **params):
        request = messages.ExecuteRequest(operation=operation, params_json=json.dumps(params))
        answer = prism.Execute(request, metadata=[("prism-namespace", "demo")], timeout=10)
        return json.loads(answer.result_json)

    print(call("set", key="user:123", value={"name": "Ada"}))
    print(call("get", key="user:123"))
    try:
        call("frobnicate")
    except grpc.RpcError as error:
        print(error.code().name)
