ABI: int
END: int
NOT_STARTED: int
TOO_LARGE: int
MSGPACK: int
SAID_COMPLETE: int
SAID_SEND: int
SAID_WANT: int
SAID_LOG: int
SAID_NOTE: int
SAID_WRONG: int
SAID_DROPPED: int

_Said = tuple[int, int, int, int, bytes, bytes]

def load(path: str, /) -> Library: ...

class Library:
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def make(self, descriptor: int, longest: int, /) -> Instance: ...

class Instance:
    @property
    def open_calls(self) -> int: ...
    @property
    def is_made(self) -> bool: ...
    def open(
        self,
        call: int,
        method: int,
        flags: int,
        milliseconds: int,
        operation: str,
        body: str | bytes,
        metadata: str | bytes,
        /,
    ) -> list[_Said] | None: ...
    def data(self, call: int, flags: int, body: str | bytes, /) -> list[_Said] | None: ...
    def cancel(self, call: int, status: int, /) -> list[_Said] | None: ...
    def give_room(self, call: int, size: int, /) -> list[_Said] | None: ...
    def take(self) -> list[_Said] | None: ...
    def close(self) -> None: ...
    def destroy(self, seconds: float, /) -> bool: ...
