package dev.prism.plugin;

/**
 * What a handler throws for the client to read: no secrets, no internals. Anything else that it
 * throws is INTERNAL for the client, with an id under which the log has the stack.
 */
public class PluginException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private final Status status;

    public PluginException(Status status, String message) {
        this(status, message, null);
    }

    public PluginException(Status status, String message, Throwable cause) {
        super(message, cause);
        if (status == Status.OK) throw new IllegalArgumentException("OK is not the status of an error");
        this.status = status;
    }

    public Status status() {
        return status;
    }
}
