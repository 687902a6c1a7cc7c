"""The plugin's side: write a plugin as a class, serve it in-process or as a process.

Writing one needs msgspec, anyio and the standard library. ``serve`` brings the
frame protocol and is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from prism.contract.errors import PluginError
from prism.contract.files import exposed_key, unfit_pem
from prism.contract.settings import SettingsProblem, Store, did_you_mean
from prism.contract.status import StatusCode
from prism.sdk.call import Call, Positioned
from prism.sdk.health import Health, Metrics
from prism.sdk.operation import operation
from prism.sdk.plugin import Plugin
from prism.sdk.value import Encoding, Value

if TYPE_CHECKING:
    from prism.sdk.serving import serve

__all__ = [
    "Call",
    "Encoding",
    "Health",
    "Metrics",
    "Plugin",
    "PluginError",
    "Positioned",
    "SettingsProblem",
    "StatusCode",
    "Store",
    "Value",
    "did_you_mean",
    "exposed_key",
    "operation",
    "serve",
    "unfit_pem",
]


def __getattr__(name: str) -> Any:
    if name == "serve":
        from prism.sdk.serving import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
