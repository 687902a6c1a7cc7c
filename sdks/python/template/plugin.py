"""my-plugin, a plugin of the Prism data-access proxy."""

from msgspec import Struct

from prism.sdk import Plugin, PluginError, StatusCode, operation, serve


class Person(Struct, forbid_unknown_fields=True):
    name: str


class Greeting(Struct):
    text: str


class MyPlugin(Plugin):
    name = "my-plugin"
    version = "0.1.0"

    @operation(idempotent=True, access="read")
    async def greet(self, params: Person) -> Greeting:
        """Greet somebody."""
        if not params.name:
            raise PluginError(StatusCode.INVALID_ARGUMENT, "name is missing")
        return Greeting(f"Hello, {params.name}!")


if __name__ == "__main__":
    serve(MyPlugin)
