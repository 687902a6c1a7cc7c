package dev.prism.plugin;

/** gRPC's statuses, in the order of their numbers: how a call ended. */
public enum Status {
    OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS,
    PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE,
    UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED;

    /** The status of a number; UNKNOWN for one that there is not. */
    public static Status of(long number) {
        return number >= 0 && number < values().length ? values()[(int) number] : UNKNOWN;
    }
}
