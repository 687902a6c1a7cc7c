"""Calls are recorded, to be played again against another version of the plugin.

What is recorded is what passes between the proxy and the plugin: the operation, its params, the
answer and how long it took. The file is somebody else's (``observability.recording``): a record is
handed over when its call is over, and nothing here waits.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from prism.calls.policies.policy import Measure, Policy, Witness
from prism.config.types import RecordConfig
from prism.contract.errors import CallError
from prism.contract.messages import ExecuteResponse, OperationDeclaration

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace


class Recorded(NamedTuple):
    """One call that the plugin had. ``began`` is Unix time; ``response`` is None where there was
    no answer, and ``error`` says why."""

    began: float
    seconds: float
    namespace: str
    operation: str
    declared: OperationDeclaration | None
    request_id: str
    principal: str
    instance: str
    params: bytes | bytearray
    raw: bytes
    metadata: dict[str, str] | None
    response: ExecuteResponse | None
    error: CallError | None


class Recorder(Protocol):
    """Where records go. ``written`` and ``dropped`` count them, ``waiting`` are to be written."""

    written: int
    dropped: int
    trouble: str

    def add(self, record: Recorded) -> None:
        """Take a record, or drop it where there is no room. Never waits."""

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""

    def close(self) -> None:
        """No more come: write what waits. Does not wait for that."""


MakeRecorder = Callable[[str, RecordConfig], Recorder]
"""Opens the recording of the namespace of that name. Plain code: a thread does what may block."""

_RECORDS = Measure("prism_recorded_calls", "counter", "Calls in the recording's file")
_DROPPED = Measure(
    "prism_recorded_dropped", "counter", "Calls that found no room in the recording, or no disk"
)


class Record(Policy):
    """Records the namespace's calls. In the list only where the configuration says so."""

    name = "record"
    measures = (_RECORDS, _DROPPED)

    def __init__(self, namespace: "Namespace") -> None:
        self._config: RecordConfig | None = None
        self._recorder: Recorder | None = None
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.config.record is not None and namespace.recorder is not None

    def configure(self) -> None:
        before, config = self._config, self.namespace.config.record
        make = self.namespace.recorder
        assert config is not None  # noqa: S101 - as `applies` says
        assert make is not None  # noqa: S101 - likewise
        self._config = config
        if self._recorder is None or before is None or _file_of(before) != _file_of(config):
            self.discard()
            self._recorder = make(self.namespace.name, config)

    def discard(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    def enter(self, call: "Call") -> None:
        config, recorder = self._config, self._recorder
        if call.stream is not None or config is None or recorder is None:
            return
        if config.share >= 1 or random.random() < config.share:  # noqa: S311 - a sample
            call.witnesses = (*call.witnesses, Recording(recorder))

    def state(self) -> dict[str, object]:
        config, recorder = self._config, self._recorder
        if config is None or recorder is None:
            return {}
        return {
            "file": config.file,
            "values": config.values,
            "share": config.share,
            "written": recorder.written,
            "waiting": recorder.waiting,
            "dropped": recorder.dropped,
            "trouble": recorder.trouble,
        }

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        recorder = self._recorder
        if recorder is not None:
            yield _RECORDS, (), recorder.written
            yield _DROPPED, (), recorder.dropped


def _file_of(config: RecordConfig) -> tuple[str, str, int, int]:
    return config.file, config.values, config.max_bytes, config.keep_files


class Recording(Witness):
    """Sees one call, and hands its record over when it is over."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._began = 0.0
        self._params: bytes | bytearray = b""
        self._raw = b""
        self._response: ExecuteResponse | None = None

    def began(self, call: "Call") -> None:
        if not self._began:  # else it is a further attempt
            self._began = time.time()
            self._params, self._raw = call.params, call.raw

    def answered(self, call: "Call", response: ExecuteResponse) -> None:
        self._response = response

    def ended(self, call: "Call", error: CallError | None) -> None:
        if not self._began:
            return
        target = call.target
        self._recorder.add(
            Recorded(
                self._began,
                call.plugin_seconds or 0.0,
                call.namespace,
                call.operation,
                None if target is None else target.slot.operations.get(call.operation),
                call.request_id,
                call.principal,
                call.instance_id,
                self._params,
                self._raw,
                call.metadata,
                self._response,
                error,
            )
        )
