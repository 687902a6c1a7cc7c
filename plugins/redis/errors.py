"""What Redis' errors mean to a caller: a status, and words that say what to do."""

from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode

_CREDENTIALS = "the server refuses the namespace's credentials (username, password)"
_CLUSTER = "the server is one of a cluster; name some of its servers in config.cluster.addresses"

_BY_CODE: dict[str, tuple[StatusCode, str]] = {
    "WRONGTYPE": (StatusCode.FAILED_PRECONDITION, "the key holds another kind of value"),
    "OOM": (
        StatusCode.RESOURCE_EXHAUSTED,
        "the server has no memory left for writes (maxmemory)",
    ),
    "READONLY": (StatusCode.UNAVAILABLE, "the server is a replica and takes no writes"),
    "LOADING": (StatusCode.UNAVAILABLE, "the server is still loading its data"),
    "BUSY": (StatusCode.UNAVAILABLE, "the server is busy with a script"),
    "MASTERDOWN": (StatusCode.UNAVAILABLE, "the replica has lost its master"),
    "NOREPLICAS": (StatusCode.UNAVAILABLE, "the server lacks the replicas that writes need"),
    "MISCONF": (StatusCode.UNAVAILABLE, "the server cannot save to disk and refuses writes"),
    "CLUSTERDOWN": (StatusCode.UNAVAILABLE, "the cluster is down"),
    "TRYAGAIN": (StatusCode.UNAVAILABLE, "the cluster is moving these keys"),
    "MOVED": (StatusCode.FAILED_PRECONDITION, _CLUSTER),
    "ASK": (StatusCode.FAILED_PRECONDITION, _CLUSTER),
    "CROSSSLOT": (StatusCode.FAILED_PRECONDITION, _CLUSTER),
    "NOAUTH": (StatusCode.FAILED_PRECONDITION, _CREDENTIALS),
    "WRONGPASS": (StatusCode.FAILED_PRECONDITION, _CREDENTIALS),
    "NOPERM": (StatusCode.PERMISSION_DENIED, "the server's ACL does not let the plugin do this"),
    "NOGROUP": (StatusCode.NOT_FOUND, "there is no such topic or group"),
    "BUSYGROUP": (StatusCode.ALREADY_EXISTS, "the group exists"),
    "UNBLOCKED": (StatusCode.UNAVAILABLE, "the server has become a replica"),
    "EXECABORT": (StatusCode.INVALID_ARGUMENT, "the transaction was not run"),
}

_MOVING = (StatusCode.UNAVAILABLE, "the cluster is giving these keys to another server; try again")
_BY_CODE_OF_A_CLUSTER: dict[str, tuple[StatusCode, str]] = {
    "MOVED": _MOVING,
    "ASK": _MOVING,
    "CROSSSLOT": (
        StatusCode.INVALID_ARGUMENT,
        "the keys lie in different slots of the cluster; those with the same text in braces lie "
        "in one, as {tag}a and {tag}b do",
    ),
}

_BY_TEXT: tuple[tuple[str, StatusCode], ...] = (
    ("would overflow", StatusCode.OUT_OF_RANGE),
    ("is not an integer", StatusCode.FAILED_PRECONDITION),
    ("is not a float", StatusCode.FAILED_PRECONDITION),
    ("would produce NaN", StatusCode.OUT_OF_RANGE),
    ("max number of clients reached", StatusCode.RESOURCE_EXHAUSTED),
    ("DB index is out of range", StatusCode.FAILED_PRECONDITION),
    ("ID specified in XADD", StatusCode.INVALID_ARGUMENT),
    ("exceeds maximum allowed size", StatusCode.INVALID_ARGUMENT),
)
"""For what has the code ERR, which says nothing."""

CODES_OF_A_WRONG_SERVER = frozenset({"READONLY", "MASTERDOWN", "LOADING"})
"""After which a sentinel may know a better one."""


def code_of(error: ReplyError) -> str:
    """The first word."""
    return str(error).partition(" ")[0]


def translate(
    error: ReplyError, *, of_client: bool = False, of_cluster: bool = False
) -> PluginError:
    """The answer for an error that the server gave.

    ``of_client``: the client wrote the command, so that what is wrong with it is theirs.
    ``of_cluster``: the server is known to be one of a cluster.
    """
    text = str(error)
    code, _, rest = text.partition(" ")
    known = (_BY_CODE_OF_A_CLUSTER.get(code) if of_cluster else None) or _BY_CODE.get(code)
    if known is not None:
        status, words = known
        return PluginError(status, f"{words} ({text[:500]})")
    for part, status in _BY_TEXT:
        if part in text:
            return PluginError(status, rest[:500])
    status = StatusCode.INVALID_ARGUMENT if of_client else StatusCode.INTERNAL
    return PluginError(status, f"the server reported an error: {text[:500]}")
