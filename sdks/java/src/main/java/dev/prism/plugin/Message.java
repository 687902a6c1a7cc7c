package dev.prism.plugin;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** The messages in frames: their fields, each with its type, and the values of absent ones. */
final class Message {
    private static final String TEXT = "text", TEXTS = "texts", LIMIT = "a limit", INT = "an integer", OBJECT = "an object";
    private static final Map<String, String> REQUEST =
            Map.of("operation", TEXT, "params_json", TEXT, "params_raw", TEXT, "metadata", TEXTS);
    private static final Map<String, String> HELLO = Map.of("codec", TEXT, "max_frame", LIMIT, "window", LIMIT);
    private static final Map<String, String> GOAWAY = Map.of("reason", TEXT);
    private static final Map<String, String> INITIALIZE = Map.of("namespace", TEXT, "backend_type", TEXT,
            "config_json", TEXT, "credentials", TEXTS, "cache", OBJECT, "capabilities", OBJECT);
    private static final Map<String, String> SHUTDOWN = Map.of("timeout_seconds", INT, "reason", TEXT);

    private Message() { }

    /** What a frame carries; a field that is not of its type breaks the protocol. */
    static Map<String, Object> of(Frame frame) throws Frame.ProtocolException {
        if (frame.payload().length == 0) return Map.of();
        if (frame.codec() != Frame.JSON) {
            throw new Frame.ProtocolException(frame.name() + " in codec " + frame.codec() + "; JSON was agreed on");
        }
        Map<String, Object> message;
        try {
            message = Json.parseObject(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(frame.payload())).toString());
        } catch (CharacterCodingException error) {
            throw new Frame.ProtocolException(frame.name() + " is not UTF-8");
        } catch (IllegalArgumentException error) {
            throw new Frame.ProtocolException(frame.name() + ": " + error.getMessage());
        }
        for (Map.Entry<String, String> field : fields(frame).entrySet()) {
            Object value = message.get(field.getKey());
            if (message.containsKey(field.getKey()) && !is(field.getValue(), value)) {
                throw new Frame.ProtocolException(frame.name() + ": " + field.getKey() + " is not " + field.getValue());
            }
        }
        return message;
    }

    private static Map<String, String> fields(Frame frame) {
        return switch (frame.type()) {
            case Frame.HELLO -> HELLO;
            case Frame.GOAWAY -> GOAWAY;
            case Frame.DATA -> REQUEST;
            case Frame.OPEN -> switch (frame.method()) {
                case Frame.INITIALIZE -> INITIALIZE;
                case Frame.EXECUTE, Frame.EXECUTE_STREAM -> REQUEST;
                case Frame.SHUTDOWN -> SHUTDOWN;
                default -> Map.of();
            };
            default -> Map.of();
        };
    }

    private static boolean is(String type, Object value) {
        return switch (type) {
            case TEXT -> value instanceof String;
            case TEXTS -> value instanceof Map<?, ?> map && map.values().stream().allMatch(String.class::isInstance);
            case OBJECT -> value == null || value instanceof Map;
            case LIMIT -> value instanceof Long number && number >= 1 && number <= Frame.MAX_U32;
            default -> value instanceof Long;
        };
    }

    static String text(Map<String, Object> message, String field) {
        return (String) message.getOrDefault(field, "");
    }

    static long number(Map<String, Object> message, String field, long otherwise) {
        return (Long) message.getOrDefault(field, otherwise);
    }

    @SuppressWarnings("unchecked")
    static Map<String, String> texts(Map<String, Object> message, String field) {
        return (Map<String, String>) message.getOrDefault(field, Map.of());
    }
}
