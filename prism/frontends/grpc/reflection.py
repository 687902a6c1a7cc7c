"""Server reflection, by which tools such as grpcurl learn what can be called here."""

from typing import Any

from google.protobuf.message import DecodeError

from prism.contract.status import StatusCode
from prism.frontends.grpc.call import GrpcCall, broken
from prism.grpc.descriptors import FILES, SERVICES, file_of, message_class

MAX_REQUEST = 4096


async def server_reflection_info(call: GrpcCall, package: str) -> None:
    """Answer each question of the stream; ``package`` is ``grpc.reflection.v1`` or v1alpha."""
    request_class = message_class(f"{package}.ServerReflectionRequest")
    response_class = message_class(f"{package}.ServerReflectionResponse")
    call.expect_messages(MAX_REQUEST)
    while (payload := await call.next_message()) is not None:
        try:
            request = request_class.FromString(payload)
        except DecodeError:
            raise broken("the message is not a ServerReflectionRequest") from None
        response = response_class(valid_host=request.host, original_request=request)
        _answer(request, response)
        await call.send_messages([response.SerializeToString()])
    await call.finish()


def _answer(request: Any, response: Any) -> None:
    match request.WhichOneof("message_request"):
        case "list_services":
            for name in SERVICES:
                response.list_services_response.service.add(name=name)
            return
        case "file_by_filename":
            asked = request.file_by_filename
            found = FILES.get(asked)
        case "file_containing_symbol":
            asked = request.file_containing_symbol
            found = file_of(asked)
        case "all_extension_numbers_of_type":
            asked, found = request.all_extension_numbers_of_type, None
        case "file_containing_extension":
            asked, found = request.file_containing_extension.containing_type, None
        case _:
            response.error_response.error_code = int(StatusCode.INVALID_ARGUMENT)
            response.error_response.error_message = "the request asks for nothing"
            return
    if found is not None:
        response.file_descriptor_response.file_descriptor_proto.append(found)
    else:
        response.error_response.error_code = int(StatusCode.NOT_FOUND)
        response.error_response.error_message = f"nothing here is called {asked[:200]!r}"
