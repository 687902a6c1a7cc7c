package dev.prism.plugin;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/** A frame: a header of 16 bytes and a payload, which is one JSON object (docs/protocol.md, 3). */
record Frame(int type, int flags, int codec, int method, long stream, long aux, byte[] payload) {
    static final int HELLO = 1, OPEN = 2, DATA = 3, CLOSE = 4, CANCEL = 5, CREDIT = 6, PING = 7, GOAWAY = 8, NOTE = 9;
    static final int END = 1, NOT_STARTED = 2, ACK = 4, TOO_LARGE = 8;
    static final int INITIALIZE = 1, HEALTH_CHECK = 2, EXECUTE = 3, EXECUTE_STREAM = 4, SHUTDOWN = 5;
    static final int HEADER = 16, MAX_HELLO = 65536, JSON = 1;
    static final long MAX_U32 = 0xffffffffL;
    private static final byte[] NOTHING = new byte[0];
    private static final String[] TYPES = {"HELLO", "OPEN", "DATA", "CLOSE", "CANCEL", "CREDIT", "PING", "GOAWAY", "NOTE"};
    private static final String[] METHODS = {"Initialize", "HealthCheck", "Execute", "ExecuteStream", "Shutdown"};
    private static final int TRACED = 300; // bytes of a payload that are shown

    /** The host broke a rule of the protocol: the connection ends. */
    static final class ProtocolException extends Exception {
        private static final long serialVersionUID = 1L;

        ProtocolException(String message) {
            super(message);
        }
    }

    static Frame of(int type, long stream, int flags, long aux, String message) {
        byte[] payload = message == null ? NOTHING : message.getBytes(StandardCharsets.UTF_8);
        return new Frame(type, flags, payload.length == 0 ? 0 : JSON, 0, stream, aux, payload);
    }

    ByteBuffer bytes() {
        ByteBuffer bytes = ByteBuffer.allocate(HEADER + payload.length);
        putInto(bytes);
        return bytes.flip();
    }

    void putInto(ByteBuffer bytes) {
        bytes.putInt(payload.length).putInt((int) stream).put((byte) type).put((byte) flags).put((byte) codec)
                .put((byte) method).putInt((int) aux).put(payload);
    }

    boolean has(int flag) {
        return (flags & flag) != 0;
    }

    String name() {
        return TYPES[type - 1];
    }

    /** For the eyes of a person; the values of credentials are left out. */
    String describe(String direction) {
        String name = name();
        String text = new String(payload, 0, Math.min(payload.length, TRACED), StandardCharsets.UTF_8);
        if (type == OPEN) {
            name += " " + (method >= 1 && method <= 5 ? METHODS[method - 1] : method);
            if (method == INITIALIZE) { // nothing is known of its secrets yet
                try {
                    Map<String, Object> message = new LinkedHashMap<>(Json.parseObject(new String(payload, StandardCharsets.UTF_8)));
                    message.computeIfPresent("credentials", (key, value) -> "(hidden)");
                    text = Json.write(message);
                } catch (IllegalArgumentException error) {
                    text = "(not JSON)";
                }
            }
        }
        return direction + " " + name + " stream=" + stream + " flags=" + flags + " aux=" + aux + " length=" + payload.length + " "
                + (text.length() > TRACED ? text.substring(0, TRACED) : text) + (payload.length > TRACED ? "…" : "");
    }

    /** Cuts frames out of the bytes that come, in whatever portions they do. */
    static final class Reader {
        /** Longest payload that is taken: that of a HELLO, until it has come. */
        int limit = MAX_HELLO;
        private static final int KEPT = 1 << 20; // a large message's place is given back
        private byte[] bytes = new byte[65536];
        private int start;
        private int end;

        /** Where to put what is read next: there is always room. Tell {@link #filled} how much came. */
        ByteBuffer room() {
            if (start == end) {
                start = end = 0;
                if (bytes.length > KEPT) bytes = new byte[65536];
            }
            return ByteBuffer.wrap(bytes, end, bytes.length - end);
        }

        void filled(int count) {
            end += count;
        }

        /** The next frame, or null until more bytes come; its header is checked before its payload is awaited. */
        Frame next() throws ProtocolException {
            if (end - start < HEADER) return waitFor(HEADER);
            ByteBuffer header = ByteBuffer.wrap(bytes, start, HEADER);
            long length = header.getInt() & MAX_U32, stream = header.getInt() & MAX_U32;
            int type = header.get() & 255, flags = header.get() & 255, codec = header.get() & 255, method = header.get() & 255;
            long aux = header.getInt() & MAX_U32;
            if (type < HELLO || type > NOTE) throw new ProtocolException("unknown frame type " + type);
            boolean ofConnection = type == HELLO || type == PING || type == GOAWAY || type == NOTE;
            if (ofConnection != (stream == 0)) throw new ProtocolException(TYPES[type - 1] + " on stream " + stream);
            boolean bare = type == CANCEL || type == CREDIT || type == PING;
            if (length > (bare ? 0 : limit)) {
                throw new ProtocolException(TYPES[type - 1] + " with " + length + " bytes, which is too long");
            }
            int size = HEADER + (int) length;
            if (end - start < size) return waitFor(size);
            byte[] payload = length == 0 ? NOTHING : java.util.Arrays.copyOfRange(bytes, start + HEADER, start + size);
            start += size;
            return new Frame(type, flags, codec, method, stream, aux, payload);
        }

        private Frame waitFor(int size) {
            if (bytes.length - start >= size) return null;
            byte[] into = size > bytes.length ? new byte[size] : bytes; // no more than was checked
            System.arraycopy(bytes, start, into, 0, end - start);
            bytes = into;
            end -= start;
            start = 0;
            return null;
        }
    }
}
