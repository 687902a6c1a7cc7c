package dev.prism.plugin;

import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.NoSuchElementException;

/** A call with more than one message. One thread at a time may send, and one read. */
public final class StreamCall extends Call {
    StreamCall(Session<?> session, Run run, Map<String, Object> request) {
        super(session, run, request);
    }

    /** Send a message, when the client has taken enough of what was sent before. */
    public void send(Object value) throws InterruptedException {
        send(value, "");
    }

    /** Send a message, and the position (up to 1 KiB) after which a later stream can resume. */
    public void send(Object value, String position) throws InterruptedException {
        Map<String, Object> message = new LinkedHashMap<>();
        message.put("result_json", Session.marshal(value));
        if (!position.isEmpty()) message.put("position", position);
        session.sendItem(run, Json.write(message));
    }

    /** The position after which the client wants the stream; empty without a resume. */
    public String resumeAfter() {
        return metadata().getOrDefault("prism-last-event-id", "");
    }

    /** The client's further messages, in order. They block; cancelling ends them with an exception. */
    public Iterable<JsonObject> messages() {
        return () -> new Iterator<>() {
            private JsonObject next;

            @Override
            public boolean hasNext() {
                try {
                    return next != null || (next = session.nextMessage(run)) != null;
                } catch (InterruptedException error) {
                    Thread.currentThread().interrupt();
                    throw new PluginException(run.cancelled == null ? Status.CANCELLED : run.cancelled, "the call was cancelled", error);
                }
            }

            @Override
            public JsonObject next() {
                if (!hasNext()) throw new NoSuchElementException();
                JsonObject found = next;
                next = null;
                return found;
            }
        };
    }
}
