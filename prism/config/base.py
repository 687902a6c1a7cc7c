"""What the blocks of the configuration are made of: their base, and their scalars.

Beside msgspec's constraints, ``Meta.extra`` carries what msgspec does not know:

- ``private``: values below may be secret and are never shown in a message;
- ``path``: a file-system path; a relative one starts at the configuration file;
- ``form``: the words for a ``pattern``;
- ``types``: the plugin types that the key belongs to;
- ``needs``: keys of which one must be there for this one to mean anything.

Patterns end in ``$(?!\\n)`` because Python's ``$`` lets a last newline pass, and
JSON Schema's dialect knows no ``\\Z``.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from prism.contract import names

NAME_PATTERN = rf"^{names.NAMESPACE}$(?!\n)"

Name = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        extra={"form": names.NAMESPACE_FORM},
    ),
]
Version = Annotated[
    str,
    Meta(
        pattern=rf"^{names.VERSION}$(?!\n)",
        extra={"form": 'a version such as "v1.2"'},
    ),
]
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(?:null|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@*\s]+)$(?!\n)",
        extra={"form": 'scheme and host, as in "https://app.example.com", and no path'},
    ),
]
PathText = Annotated[str, Meta(min_length=1, extra={"path": True})]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1024 * 1024 * 1024)]
# A day: longer waits are mistakes of unit (milliseconds for seconds).
Seconds = Annotated[float, Meta(gt=0, le=86_400)]

MIB = 1024 * 1024


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all blocks: frozen, unknown keys refused."""
