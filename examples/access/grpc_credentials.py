"""A gRPC client that shows a token with each call: python grpc_credentials.py FILE [ADDRESS]

FILE has an API key, or any other bearer token; it is read anew for each call, so that a fresh one
is used as soon as it is there. grpcio sends call credentials over TLS alone: ca.pem is the
authority's.

pip install grpcio grpcio-tools
"""

import json
import sys
from pathlib import Path

import grpc

if len(sys.argv) < 2:
    sys.exit("usage: python grpc_credentials.py FILE [ADDRESS]")

token_file = Path(sys.argv[1])
address = sys.argv[2] if len(sys.argv) > 2 else "localhost:50051"
sys.path.insert(0, str(Path(__file__).parents[2] / "schemas"))
messages, services = grpc.protos_and_services("prism/plugin.proto")  # type: ignore[attr-defined]


class Bearer(grpc.AuthMetadataPlugin):
    """The token as metadata of each call."""

    def __call__(self, context, callback):
        callback([("authorization", f"Bearer {token_file.read_text().strip()}")], None)


credentials = grpc.composite_channel_credentials(
    grpc.ssl_channel_credentials(Path("ca.pem").read_bytes()),
    grpc.metadata_call_credentials(Bearer()),
)
with grpc.secure_channel(address, credentials) as channel:
    prism = services.BackendPluginStub(channel)
    request = messages.ExecuteRequest(operation="get", params_json='{"key":"user:123"}')
    try:
        answer = prism.Execute(request, metadata=[("prism-namespace", "demo")], timeout=10)
        print(json.loads(answer.result_json))
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
