"""Commands that the client writes itself, from an allow list."""

from typing import Any

from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode, operation

from . import params as p
from .commands import key_places, prefix_keys
from .connection import Request
from .store import RedisStore
from .transport import packed
from .values import argument, shown


class CommandOperations(RedisStore):
    """What Redis has beyond the other operations. Keys have the namespace's prefix here too."""

    @operation(access="write")
    async def command(self, params: p.Command) -> p.Result:
        """Run one command."""
        command, keys = self._command(params)
        self.connection.check_together(keys)
        key = keys[0] if keys else b""
        reply = (await self.connection.exchange(Request(key, packed(command))))[0]
        if isinstance(reply, ReplyError):
            raise self.connection.translate(reply, of_client=True)
        return p.Result(shown(reply))

    @operation(access="write")
    async def transaction(self, params: p.Transaction) -> p.Results:
        """Run commands one after the other, without another's between them.

        A command that Redis refuses to begin with lets none run. One that fails when it runs (a
        key of another kind) fails alone: Redis has no way back, and the answer says which.
        """
        commands, keys = zip(*map(self._command, params.commands), strict=True)
        all_keys = [key for those in keys for key in those]
        replies = await self.connection.transaction(commands, all_keys or [b""])
        return p.Results([self._shown(reply) for reply in replies])

    def _shown(self, reply: Any) -> Any:
        if isinstance(reply, ReplyError):
            error = self.connection.translate(reply, of_client=True)
            return {"error": error.detail, "error_code": int(error.status)}
        return shown(reply)

    def _command(self, params: p.Command) -> tuple[list[bytes], list[bytes]]:
        """The command with the namespace's prefix before its keys, and these."""
        name = params.name.upper()
        if name not in self.allowed:
            raise PluginError(
                StatusCode.PERMISSION_DENIED,
                f"the command {name[:64]!r} is not allowed here (allowed_commands)",
            )
        arguments = [argument(value) for value in params.args]
        prefix_keys(name, arguments, lambda key: self.prefix + key)
        keys = [arguments[place] for place in key_places(name, len(arguments))]
        return [name.encode(), *arguments], keys
