"""A plugin that logs in to a backend: a file whose lines are the passwords that are good now.

It serves with a password that was good when it started, as sessions of databases do.
"""

import hashlib
import sys
from typing import Any

import anyio

from prism.sdk import Plugin, operation, serve


class Login(Plugin):
    name = "login"
    version = "1.0.0"

    async def start(self) -> None:
        self.password = self.credentials["password"]
        good = (await anyio.Path(self.config["passwords"]).read_text()).splitlines()
        print(f"logging in with {self.password}")
        print(f"the password is {self.password}", file=sys.stderr)
        if self.password not in good:
            raise RuntimeError(f"password {self.password!r} is not accepted")

    @operation(idempotent=True)
    async def who(self, params: dict[str, Any]) -> dict[str, str]:
        """Which password it has, by a hash of it."""
        return {"hash": hashlib.sha256(self.password.encode()).hexdigest()}

    @operation
    async def fail(self, params: dict[str, Any]) -> None:
        raise RuntimeError(f"cannot log in with {self.password}")


if __name__ == "__main__":
    serve(Login)
