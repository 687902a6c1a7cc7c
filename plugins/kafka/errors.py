"""What Kafka's errors mean to a caller: a status, and words that say what to do."""

from confluent_kafka import KafkaError, KafkaException

from prism.sdk import PluginError, StatusCode

NO_BROKER = "no broker can be reached"

_MEANING: dict[StatusCode, tuple[str, ...]] = {
    StatusCode.NOT_FOUND: (
        "UNKNOWN_TOPIC_OR_PART",
        "UNKNOWN_TOPIC_ID",
        "_UNKNOWN_TOPIC",
        "_UNKNOWN_PARTITION",
        "GROUP_ID_NOT_FOUND",
    ),
    StatusCode.ALREADY_EXISTS: ("TOPIC_ALREADY_EXISTS",),
    StatusCode.INVALID_ARGUMENT: (
        "MSG_SIZE_TOO_LARGE",
        "RECORD_LIST_TOO_LARGE",
        "TOPIC_EXCEPTION",
        "INVALID_PARTITIONS",
        "INVALID_REPLICATION_FACTOR",
        "INVALID_REPLICA_ASSIGNMENT",
        "INVALID_CONFIG",
        "INVALID_REQUEST",
        "INVALID_TIMESTAMP",
        "INVALID_RECORD",
        "INVALID_MSG",
        "INVALID_GROUP_ID",
        "_INVALID_ARG",
    ),
    StatusCode.PERMISSION_DENIED: (
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "POLICY_VIOLATION",
        "TOPIC_DELETION_DISABLED",
    ),
    StatusCode.RESOURCE_EXHAUSTED: (
        "_QUEUE_FULL",
        "THROTTLING_QUOTA_EXCEEDED",
        "GROUP_MAX_SIZE_REACHED",
    ),
    StatusCode.FAILED_PRECONDITION: (
        "NON_EMPTY_GROUP",
        "UNKNOWN_MEMBER_ID",
        "REBALANCE_IN_PROGRESS",
        "INCONSISTENT_GROUP_PROTOCOL",
        "GROUP_SUBSCRIBED_TO_TOPIC",
    ),
    StatusCode.OUT_OF_RANGE: ("OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET"),
    StatusCode.UNIMPLEMENTED: ("UNSUPPORTED_VERSION", "_UNSUPPORTED_FEATURE"),
    StatusCode.UNAVAILABLE: (
        "_TRANSPORT",
        "_ALL_BROKERS_DOWN",
        "_RESOLVE",
        "_TIMED_OUT",
        "_TIMED_OUT_QUEUE",
        "_WAIT_COORD",
        "_AUTHENTICATION",
        "_SSL",
        "_FATAL",
        "_STATE",
        "_DESTROY",
        "_PURGE_QUEUE",
        "_PURGE_INFLIGHT",
        "_MAX_POLL_EXCEEDED",
        "SASL_AUTHENTICATION_FAILED",
        "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION",
        "REQUEST_TIMED_OUT",
        "BROKER_NOT_AVAILABLE",
        "NETWORK_EXCEPTION",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "NOT_CONTROLLER",
        "KAFKA_STORAGE_ERROR",
    ),
}
_STATUS: dict[int, StatusCode] = {
    getattr(KafkaError, name): status for status, names in _MEANING.items() for name in names
}
_WORDS: dict[int, str] = {
    KafkaError._TRANSPORT: NO_BROKER,
    KafkaError._ALL_BROKERS_DOWN: NO_BROKER,
    KafkaError._RESOLVE: NO_BROKER,
    KafkaError._TIMED_OUT: "no broker has answered in time",
    KafkaError._TIMED_OUT_QUEUE: "no broker has answered in time",
    KafkaError._AUTHENTICATION: "the brokers refuse the plugin's credentials",
    KafkaError.SASL_AUTHENTICATION_FAILED: "the brokers refuse the plugin's credentials",
    KafkaError._SSL: "no TLS connection to a broker can be made",
    KafkaError.MSG_SIZE_TOO_LARGE: "the message is too large",
    KafkaError._UNKNOWN_PARTITION: "it has no partition of this number",
    KafkaError.TOPIC_ALREADY_EXISTS: "there is one already",
}
"""Where the usual words would tell clients addresses, names that are not theirs, or nothing."""


def status_of(error: KafkaError) -> StatusCode:
    """The status for an error of librdkafka's or a broker's."""
    return _STATUS.get(error.code(), StatusCode.INTERNAL)


def translate(error: KafkaError | KafkaException, what: str) -> PluginError:
    """The answer to who wanted ``what``, such as ``"topic 'orders'"``."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    words = _WORDS.get(error.code()) or error.str().removeprefix("Broker: ")
    return PluginError(status_of(error), f"{what}: {words} ({error.name()})")
