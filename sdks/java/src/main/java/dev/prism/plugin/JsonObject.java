package dev.prism.plugin;

import java.util.Collections;
import java.util.List;
import java.util.Map;

/**
 * Parameters or a configuration: one JSON object whose fields are asked for by type. A field that
 * is missing, or of another type, is answered INVALID_ARGUMENT with its path.
 */
public final class JsonObject {
    private final Map<String, Object> fields;
    private final String path;

    JsonObject(Map<String, Object> fields, String path) {
        this.fields = fields;
        this.path = path;
    }

    /** Text that clients sent. Throws PluginException where it is not one object. */
    static JsonObject parse(String text) {
        try {
            return new JsonObject(text.isEmpty() ? Map.of() : Json.parseObject(text), "$");
        } catch (IllegalArgumentException error) {
            throw new PluginException(Status.INVALID_ARGUMENT, "the parameters are not one JSON object: " + error.getMessage());
        }
    }

    /** All fields, as {@link Json} reads them. */
    public Map<String, Object> asMap() {
        return Collections.unmodifiableMap(fields);
    }

    public boolean has(String name) {
        return fields.containsKey(name);
    }

    /** A field as it is; null where it is missing. */
    public Object get(String name) {
        return fields.get(name);
    }

    public String text(String name) {
        return typed(name, String.class, "text");
    }

    public String text(String name, String otherwise) {
        return has(name) ? text(name) : otherwise;
    }

    public long integer(String name) {
        return typed(name, Long.class, "an integer of 64 bits");
    }

    public long integer(String name, long otherwise) {
        return has(name) ? integer(name) : otherwise;
    }

    public double number(String name) {
        return typed(name, Number.class, "a number").doubleValue();
    }

    public double number(String name, double otherwise) {
        return has(name) ? number(name) : otherwise;
    }

    public boolean bool(String name) {
        return typed(name, Boolean.class, "true or false");
    }

    public boolean bool(String name, boolean otherwise) {
        return has(name) ? bool(name) : otherwise;
    }

    @SuppressWarnings("unchecked")
    public List<Object> list(String name) {
        return typed(name, List.class, "an array");
    }

    @SuppressWarnings("unchecked")
    public JsonObject object(String name) {
        return new JsonObject(typed(name, Map.class, "an object"), path + "." + name);
    }

    /** Refuse fields that are none of these: a misspelt one is then an error, not a surprise. */
    public JsonObject only(String... names) {
        for (String name : fields.keySet()) {
            if (!List.of(names).contains(name)) {
                throw new PluginException(Status.INVALID_ARGUMENT, "unknown field - at `" + path + "." + name + "`");
            }
        }
        return this;
    }

    private <T> T typed(String name, Class<T> type, String what) {
        Object value = fields.get(name);
        if (type.isInstance(value)) return type.cast(value);
        String found = !has(name) ? "it is missing" : value == null ? "found null"
                : "found " + (value instanceof String ? "text" : value instanceof Number ? "the number " + value
                : value instanceof Map ? "an object" : value instanceof List ? "an array" : value.toString());
        throw new PluginException(Status.INVALID_ARGUMENT, "expected " + what + ", " + found + " - at `" + path + "." + name + "`");
    }
}
