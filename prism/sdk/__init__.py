"""Floor 3, plugin side: write a plugin as a class, serve it in-process or as a process.

Needs msgspec, anyio and the standard library, and nothing of the proxy.
"""

from prism.contract.exceptions import PluginError
from prism.contract.status import StatusCode
from prism.sdk.call import Call
from prism.sdk.health import Health
from prism.sdk.metrics import Metrics
from prism.sdk.operation import operation
from prism.sdk.plugin import Plugin
from prism.sdk.serving import serve
from prism.sdk.value import Encoding, Value

__all__ = [
    "Call",
    "Encoding",
    "Health",
    "Metrics",
    "Plugin",
    "PluginError",
    "StatusCode",
    "Value",
    "operation",
    "serve",
]
