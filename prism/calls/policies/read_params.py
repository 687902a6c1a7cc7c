"""The parameters are read within the namespace's size limit, and are JSON."""

import trio
from msgspec.structs import replace

from prism.calls.json_text import LARGE_BODY, check_params
from prism.calls.policies.policy import Policy
from prism.calls.request import Reply, Request


class ReadParams(Policy):
    """Reads and checks ``request.params``; from here on inwards its text is there.

    MessagePack passes as it is: the SDK decodes it by the operation's types.
    """

    async def __call__(self, request: Request) -> Reply:
        params = request.params
        body = await params.read(self.namespace.limits.max_payload_bytes)
        if params.operation:
            request = replace(request, operation=params.operation)
        if params.raw:
            return await self.following(request)
        if len(body) <= LARGE_BODY:
            params.text = check_params(body, params.place)
        else:
            params.text = await trio.to_thread.run_sync(check_params, body, params.place)
        return await self.following(request)
