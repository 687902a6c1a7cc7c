"""What a run is given, and what it learns of a plugin: which operations there are to call."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from prism.contract.messages import OperationAccess
from prism.contract.service import Method
from prism.sdk.conformance.rules import Skipped

if TYPE_CHECKING:
    from prism.sdk.conformance.link import Answer, Link

CANARY = "prism_conformance_canary"
"""A credential that no plugin knows, and whose value nobody may find."""


class Call(NamedTuple):
    """A call: the operation, and its params as JSON text; of a stream each message's."""

    operation: str
    params: str
    more: tuple[str, ...] = ()

    def request(self) -> dict[str, Any]:
        """The message of OPEN."""
        return {"operation": self.operation, "params_json": self.params}


class Setup:
    """What the one who tests says of the plugin.

    ``calls`` are calls that succeed, by operation: params, or of a streaming operation a list of
    them, a message each. ``slow`` is one that runs until it is cancelled, or for long.
    """

    def __init__(
        self,
        *,
        namespace: str = "conformance",
        backend_type: str = "conformance",
        config: Mapping[str, Any] | None = None,
        credentials: Mapping[str, str] | None = None,
        calls: Mapping[str, Any] | None = None,
        slow: tuple[str, Any] | None = None,
        canary: str = "canary-5up3r-53cr3t-v41u3",
    ) -> None:
        self.namespace = namespace
        self.backend_type = backend_type
        self.config = dict(config or {})
        self.credentials = dict(credentials or {})
        self.calls = dict(calls or {})
        self.slow = slow
        self.canary = canary

    def initialize(self, **changes: Any) -> dict[str, Any]:
        """An InitializeRequest that is in order, but for ``changes``."""
        return {
            "namespace": self.namespace,
            "backend_type": self.backend_type,
            "config_json": json.dumps(self.config),
            "credentials": self.credentials,
            "capabilities": {"supports_metrics_push": True, "proxy_version": "conformance"},
            **changes,
        }


class Facts:
    """What is known of the plugin. ``answer`` is its InitializeResponse, ``None`` until then."""

    def __init__(self, setup: Setup) -> None:
        self.offer: dict[str, Any] = {}
        self.answer: dict[str, Any] | None = None
        self.answer_size = 0
        self.operations: list[dict[str, Any]] = []
        self._setup = setup
        self._good: Call | None = None
        self._growing: Call | None = None

    @property
    def name(self) -> str:
        """The plugin's name and version, as its HELLO has them."""
        said = [str(self.offer.get(key) or "") for key in ("name", "version")]
        return " ".join(filter(None, said)) or "(no name)"

    @property
    def codecs(self) -> list[str]:
        """The codecs it offers."""
        return self.offer.get("codecs") or ["json"]

    def learn(self, answer: "Answer", link: "Link") -> None:
        """Take in the answer to Initialize, and look for a call that succeeds."""
        if self.answer is not None:
            return
        self.answer = answer.message
        self.answer_size = answer.size
        declared = {
            each["name"]: each
            for each in answer.message.get("operations") or []
            if isinstance(each, dict) and isinstance(each.get("name"), str)
        }
        names = answer.message.get("supported_operations") or list(declared)
        self.operations = [declared.get(name, {"name": name}) for name in names]
        self._look_for_good(link)

    def _look_for_good(self, link: "Link") -> None:
        for call in self._candidates():
            answer = link.call(Method.EXECUTE, call.request())
            if answer.ok and answer.message.get("success"):
                self._good = self._good or call
                grown = _grown(call)
                if grown is None:
                    continue
                bigger = link.call(Method.EXECUTE, grown.request())
                if bigger.ok and bigger.size > answer.size + PADDING // 2:
                    self._growing = call
                    return

    def _candidates(self) -> list[Call]:
        given = [
            Call(name, json.dumps(params))
            for name, params in self._setup.calls.items()
            if not isinstance(params, list) and self._is_unary(name)
        ]
        if given:
            return given
        harmless = [each["name"] for each in self._unary() if _reads(each)]
        return [Call(name, "{}") for name in harmless]

    def _unary(self) -> list[dict[str, Any]]:
        return [each for each in self.operations if not each.get("streaming")]

    def _is_unary(self, name: str) -> bool:
        return any(each["name"] == name for each in self._unary())

    def any_unary(self) -> Call:
        """A call that the plugin answers somehow; one that succeeds, if such a one is known.

        Raises:
            Skipped: all operations are streams.
        """
        if self._good is not None:
            return self._good
        unary = self._unary()
        if not unary:
            raise Skipped("it has no operation that Execute calls")
        return Call(next(filter(_reads, unary), unary[0])["name"], "{}")

    def good(self) -> Call:
        """A call that succeeds.

        Raises:
            Skipped: none is known.
        """
        if self._good is None:
            raise Skipped("no call that succeeds is known; name one: --call OPERATION=PARAMS")
        return self._good

    def growing(self, size: int) -> Call:
        """A call whose result is at least ``size`` bytes.

        Raises:
            Skipped: none is known.
        """
        if self._growing is None:
            raise Skipped(
                "no call is known whose result grows with its params; name one: --call echo={}"
            )
        grown = _grown(self._growing, size)
        assert grown is not None  # noqa: S101 - it was grown before
        return grown

    def slow(self) -> Call:
        """A call that takes long.

        Raises:
            Skipped: none was named.
        """
        if self._setup.slow is None:
            raise Skipped("no call that takes long is known; name one: --slow OPERATION=PARAMS")
        name, params = self._setup.slow
        return Call(name, json.dumps(params))

    def stream(self, *, talking: bool = False) -> Call:
        """A call of a streaming operation; with ``talking`` one whose client says more than one
        message, and else rather one whose client does not.

        Raises:
            Skipped: there is none, or none that was named.
        """
        streams = [
            each["name"]
            for each in self.operations
            if each.get("streaming") or each.get("also_streaming")
        ]
        if not streams:
            raise Skipped("it has no streaming operation")
        found = []
        for name, params in self._setup.calls.items():
            if name in streams:
                messages = params if isinstance(params, list) else [params]
                first, *more = map(json.dumps, messages or [{}])
                found.append(Call(name, first, tuple(more)))
        if talking:
            found = [call for call in found if call.more]
        if not found:
            params = "[PARAMS, PARAMS]" if talking else "PARAMS"
            raise Skipped(
                f"no such call of a stream is known; name one: --call '{streams[0]}={params}'"
            )
        return min(found, key=lambda call: bool(call.more) != talking)

    def streaming_names(self, *, only: bool) -> list[str]:
        """Names of operations that are streams; with ``only``, streams alone."""
        return [
            each["name"]
            for each in self.operations
            if each.get("streaming") or (not only and each.get("also_streaming"))
        ]

    def unary_only(self) -> str:
        """An operation that ExecuteStream may not call.

        Raises:
            Skipped: there is none.
        """
        for each in self._unary():
            if not each.get("also_streaming"):
                return str(each["name"])
        raise Skipped("every operation may be called by ExecuteStream")


PADDING = 2000


def _grown(call: Call, size: int = PADDING) -> Call | None:
    params = json.loads(call.params)
    if not isinstance(params, dict):
        return None
    return Call(call.operation, json.dumps({**params, "prism_conformance_padding": "x" * size}))


def _reads(operation: Mapping[str, Any]) -> bool:
    return bool(operation.get("idempotent")) and operation.get("access") == OperationAccess.READ
