"""Params in, results out: JSON text or MessagePack, whichever the caller chose.

A request with ``params_raw`` speaks MessagePack and is answered in MessagePack;
every other request speaks JSON. Empty ``params_json`` means ``{}``.
"""

from typing import Any, Generic, TypeVar

import msgspec

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode

T = TypeVar("T")

_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


class ParamsDecoder(Generic[T]):
    """Decodes one operation's params; made once per operation, used for every call."""

    def __init__(self, params_type: type[T]) -> None:
        """Raises TypeError for a type that msgspec cannot decode."""
        self._decode_json = msgspec.json.Decoder(params_type).decode
        self._decode_msgpack = msgspec.msgpack.Decoder(params_type).decode

    def decode(self, params_json: str, params_raw: bytes) -> T:
        """The typed params of one request.

        Raises:
            PluginError: INVALID_ARGUMENT, with msgspec's sentence and path.
        """
        try:
            if params_raw:
                return self._decode_msgpack(params_raw)
            return self._decode_json(params_json or "{}")
        except msgspec.MsgspecError as error:
            raise PluginError(StatusCode.INVALID_ARGUMENT, str(error)) from error
        except RecursionError as error:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT, "the params are nested too deeply"
            ) from error
        except UnicodeError as error:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT, "the params contain text that is not valid UTF-8"
            ) from error


def encode_json(result: object) -> str:
    """A result as JSON text; None becomes ``{}``, ``msgspec.Raw`` stays as it is."""
    return "{}" if result is None else _json_encoder.encode(result).decode()


def encode_msgpack(result: object) -> bytes:
    """A result as MessagePack; None becomes an empty map, ``msgspec.Raw`` stays as it is."""
    return _msgpack_encoder.encode({} if result is None else result)


def decode_config(config_type: type[msgspec.Struct] | None, text: str) -> Any:
    """The configuration as ``config_type``, or as a dictionary where there is none.

    Raises:
        PluginError: INVALID_ARGUMENT, with msgspec's sentence and path.
    """
    expected: Any = dict[str, Any] if config_type is None else config_type
    try:
        return msgspec.json.decode(text or "{}", type=expected)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise PluginError(StatusCode.INVALID_ARGUMENT, f"config: {error}") from error
