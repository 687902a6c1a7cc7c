"""Commands that the client writes itself, from an allow list."""

from typing import Any

from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode, operation

from . import params as p
from .commands import prefix_keys
from .store import RedisStore
from .transport import packed
from .values import argument, shown


class CommandOperations(RedisStore):
    """What Redis has beyond the other operations. Keys have the namespace's prefix here too."""

    @operation(access="write")
    async def command(self, params: p.Command) -> p.Result:
        """Run one command."""
        command = self._command(params)
        data = packed(command)
        reply = await self.connection.shared.call(data, len(data))
        if isinstance(reply, ReplyError):
            raise self.connection.translate(reply, of_client=True)
        return p.Result(shown(reply))

    @operation(access="write")
    async def transaction(self, params: p.Transaction) -> p.Results:
        """Run commands one after the other, without another's between them.

        A command that Redis refuses to begin with lets none run. One that fails when it runs (a
        key of another kind) fails alone: Redis has no way back, and the answer says which.
        """
        commands = [self._command(command) for command in params.commands]
        replies = await self.connection.transaction(commands)
        return p.Results([self._shown(reply) for reply in replies])

    def _shown(self, reply: Any) -> Any:
        if isinstance(reply, ReplyError):
            error = self.connection.translate(reply, of_client=True)
            return {"error": error.detail, "error_code": int(error.status)}
        return shown(reply)

    def _command(self, params: p.Command) -> list[bytes]:
        name = params.name.upper()
        if name not in self.allowed:
            raise PluginError(
                StatusCode.PERMISSION_DENIED,
                f"the command {name[:64]!r} is not allowed here (allowed_commands)",
            )
        arguments = [argument(value) for value in params.args]
        return [
            name.encode(),
            *prefix_keys(name, arguments, lambda key: self.prefix + key),
        ]
