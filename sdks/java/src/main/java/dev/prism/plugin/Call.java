package dev.prism.plugin;

import java.time.Duration;
import java.util.Map;

/**
 * What a handler may know of its call beside the parameters. Its thread is interrupted at the
 * deadline, and when the caller no longer waits: let InterruptedException pass. A call whose handler
 * goes on for two seconds after that is closed without it.
 */
public class Call {
    final Session<?> session;
    final Run run;
    private final Map<String, Object> request;

    Call(Session<?> session, Run run, Map<String, Object> request) {
        this.session = session;
        this.run = run;
        this.request = request;
    }

    public String operation() {
        return Message.text(request, "operation");
    }

    public Setup setup() {
        return session.setup();
    }

    public String namespace() {
        return setup().namespace();
    }

    /** All of the call's metadata. */
    public Map<String, String> metadata() {
        return Message.texts(request, "metadata");
    }

    /** Who calls, as authenticated by the proxy; empty for nobody. */
    public String principal() {
        return metadata().getOrDefault("prism-principal", "");
    }

    public String requestId() {
        return metadata().getOrDefault("prism-request-id", "");
    }

    public String traceparent() {
        return metadata().getOrDefault("traceparent", "");
    }

    /** The parameters as they came. */
    public String paramsText() {
        String text = Message.text(request, "params_json");
        return text.isEmpty() ? "{}" : text;
    }

    /** Until the deadline: hand it to your driver. Some hundred years without a deadline. */
    public Duration timeLeft() {
        return Duration.ofNanos(Math.max(0, run.nanosLeft()));
    }

    /** Does the caller no longer wait, or is the time up? For what does not heed interrupts. */
    public boolean isCancelled() {
        return run.cancelled != null || run.nanosLeft() <= 0;
    }
}
