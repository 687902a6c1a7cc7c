"""The parameters are read within the namespace's size limit, and are JSON."""

from prism.core.json_text import check_params
from prism.core.policies.policy import Policy
from prism.core.request import Reply, Request


class ReadParams(Policy):
    """Reads and checks ``request.params``; from here on inwards its text is there."""

    async def __call__(self, request: Request) -> Reply:
        params = request.params
        params.text = check_params(await params.read(self.namespace.limits.max_payload_bytes))
        return await self.following(request)
