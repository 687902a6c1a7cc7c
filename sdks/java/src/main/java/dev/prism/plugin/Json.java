package dev.prism.plugin;

import java.lang.reflect.Array;
import java.lang.reflect.RecordComponent;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON text to values and back. Objects are {@code Map<String, Object>} in the order of the text,
 * arrays {@code List<Object>}, integers Long, or BigInteger where they are beyond it, other
 * numbers Double. Written are these, and any Number, records, arrays, Iterables, enums and
 * {@link Raw}.
 *
 * <p>The JDK has none of its own. A library would be a version that the plugin's own libraries
 * have to agree with; a plugin that has one hands its text over as {@link Raw}.
 */
public final class Json {
    /** Deeper than this, text is refused: the stack is not the sender's. */
    private static final int MAX_DEPTH = 200;

    /** A value that is JSON text already, and is written as it is. */
    public record Raw(String text) {
        public Raw {
            parse(text); // the author is told, not the client
        }
    }

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** The value that {@code text} is. Throws IllegalArgumentException, with the place. */
    public static Object parse(String text) {
        Json reader = new Json(text);
        Object value = reader.value(0);
        reader.space();
        if (reader.at < text.length()) throw reader.wrong("more text after the value");
        return value;
    }

    /** Text that has to be one object. Throws IllegalArgumentException. */
    @SuppressWarnings("unchecked")
    public static Map<String, Object> parseObject(String text) {
        if (parse(text) instanceof Map<?, ?> map) return (Map<String, Object>) map;
        throw new IllegalArgumentException("not one JSON object");
    }

    private IllegalArgumentException wrong(String what) {
        return new IllegalArgumentException(what + " at character " + at);
    }

    private void space() {
        while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) at++;
    }

    private char next() {
        if (at >= text.length()) throw wrong("the text ends too early");
        return text.charAt(at);
    }

    private void expect(char wanted) {
        space();
        if (next() != wanted) throw wrong("'" + wanted + "' is missing");
        at++;
    }

    private Object value(int depth) {
        if (depth > MAX_DEPTH) throw wrong("nested deeper than " + MAX_DEPTH);
        space();
        char first = next();
        return switch (first) {
            case '{' -> object(depth);
            case '[' -> array(depth);
            case '"' -> string();
            case 't' -> word("true", Boolean.TRUE);
            case 'f' -> word("false", Boolean.FALSE);
            case 'n' -> word("null", null);
            default -> number();
        };
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) throw wrong("no JSON value");
        at += word.length();
        return value;
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> map = new LinkedHashMap<>();
        at++;
        space();
        if (next() == '}') {
            at++;
            return map;
        }
        while (true) {
            space();
            if (next() != '"') throw wrong("a key is missing");
            String key = string();
            expect(':');
            map.put(key, value(depth + 1));
            space();
            char after = next();
            at++;
            if (after == '}') return map;
            if (after != ',') throw wrong("',' or '}' is missing");
        }
    }

    private List<Object> array(int depth) {
        List<Object> list = new ArrayList<>();
        at++;
        space();
        if (next() == ']') {
            at++;
            return list;
        }
        while (true) {
            list.add(value(depth + 1));
            space();
            char after = next();
            at++;
            if (after == ']') return list;
            if (after != ',') throw wrong("',' or ']' is missing");
        }
    }

    private String string() {
        int start = ++at;
        while (true) { // most have no escape
            char c = next();
            if (c == '"') return text.substring(start, at++);
            if (c == '\\') break;
            if (c < ' ') throw wrong("a control character in a string");
            at++;
        }
        StringBuilder built = new StringBuilder().append(text, start, at);
        while (true) {
            char c = next();
            at++;
            if (c == '"') return built.toString();
            if (c < ' ') throw wrong("a control character in a string");
            built.append(c == '\\' ? escaped() : c);
        }
    }

    private char escaped() {
        char c = next();
        at++;
        return switch (c) {
            case '"', '\\', '/' -> c;
            case 'b' -> '\b';
            case 'f' -> '\f';
            case 'n' -> '\n';
            case 'r' -> '\r';
            case 't' -> '\t';
            case 'u' -> {
                int code = 0;
                for (int n = 0; n < 4; n++) {
                    int digit = next() < 128 ? Character.digit(next(), 16) : -1;
                    if (digit < 0) throw wrong("\\u wants four hexadecimal digits");
                    code = code * 16 + digit;
                    at++;
                }
                yield (char) code;
            }
            default -> throw wrong("no such escape");
        };
    }

    private Number number() {
        int start = at;
        if (next() == '-') at++;
        int digits = digits();
        if (digits > 1 && text.charAt(at - digits) == '0') throw wrong("a number begins with 0");
        boolean whole = true;
        if (at < text.length() && text.charAt(at) == '.') {
            at++;
            digits();
            whole = false;
        }
        if (at < text.length() && (text.charAt(at) | 32) == 'e') {
            at++;
            if (next() == '+' || next() == '-') at++;
            digits();
            whole = false;
        }
        String number = text.substring(start, at);
        if (!whole) return Double.valueOf(number);
        if (number.length() <= 18) return Long.valueOf(number);
        BigInteger big = new BigInteger(number);
        return big.bitLength() < 64 ? (Number) big.longValue() : big;
    }

    private int digits() {
        int start = at;
        while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') at++;
        if (at == start) throw wrong("no JSON value");
        return at - start;
    }

    /** {@code value} as text. Throws IllegalArgumentException for what JSON cannot hold. */
    public static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(out, value, 0);
        return out.toString();
    }

    private static void write(StringBuilder out, Object value, int depth) {
        if (depth > MAX_DEPTH) throw new IllegalArgumentException("nested deeper than " + MAX_DEPTH);
        if (value == null || value instanceof Boolean || value instanceof Long || value instanceof Integer) {
            out.append(value);
        } else if (value instanceof String || value instanceof Character || value instanceof Enum<?>) {
            quote(out, value.toString());
        } else if (value instanceof Raw raw) {
            out.append(raw.text());
        } else if (value instanceof Map<?, ?> map) {
            char before = '{';
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                quote(out.append(before), String.valueOf(entry.getKey()));
                write(out.append(':'), entry.getValue(), depth + 1);
                before = ',';
            }
            out.append(before == '{' ? "{}" : "}");
        } else if (value instanceof Iterable<?> many) {
            char before = '[';
            for (Object one : many) {
                write(out.append(before), one, depth + 1);
                before = ',';
            }
            out.append(before == '[' ? "[]" : "]");
        } else if (value instanceof BigInteger || value instanceof BigDecimal) {
            out.append(value);
        } else if (value instanceof Number number) {
            if (Double.isNaN(number.doubleValue()) || Double.isInfinite(number.doubleValue())) {
                throw new IllegalArgumentException("JSON has no " + number);
            }
            out.append(number);
        } else if (value instanceof Record made) {
            writeRecord(out, made, depth);
        } else if (value.getClass().isArray() && !(value instanceof byte[])) {
            List<Object> many = new ArrayList<>();
            for (int n = 0; n < Array.getLength(value); n++) many.add(Array.get(value, n));
            write(out, many, depth);
        } else {
            throw new IllegalArgumentException("a " + value.getClass().getName() + " is no JSON: return a Map, a record, "
                    + "or the text of a library as Json.Raw");
        }
    }

    private static void writeRecord(StringBuilder out, Record value, int depth) {
        Map<String, Object> fields = new LinkedHashMap<>();
        try {
            for (RecordComponent component : value.getClass().getRecordComponents()) {
                component.getAccessor().setAccessible(true);
                fields.put(component.getName(), component.getAccessor().invoke(value));
            }
        } catch (ReflectiveOperationException error) {
            throw new IllegalArgumentException("cannot read " + value.getClass().getName(), error);
        }
        write(out, fields, depth);
    }

    private static void quote(StringBuilder out, String text) {
        out.append('"');
        int written = 0;
        for (int n = 0; n < text.length(); n++) {
            char c = text.charAt(n);
            boolean alone = Character.isSurrogate(c) && !paired(text, n);
            if (c >= ' ' && c != '"' && c != '\\' && !alone) continue;
            out.append(text, written, n);
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c == '\n') out.append("\\n");
            else out.append(String.format("\\u%04x", (int) c));
            written = n + 1;
        }
        out.append(text, written, text.length()).append('"');
    }

    private static boolean paired(String text, int n) {
        return Character.isHighSurrogate(text.charAt(n))
                ? n + 1 < text.length() && Character.isLowSurrogate(text.charAt(n + 1))
                : n > 0 && Character.isHighSurrogate(text.charAt(n - 1));
    }
}
