package dev.prism.plugin;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.channels.Pipe;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.Predicate;
import java.util.logging.Level;
import java.util.logging.Logger;

/** Tests of a plugin without a proxy: it runs in this process, behind frames, as in production. */
public final class RunningPlugin implements AutoCloseable {
    private final Host host;
    private final Map<String, String> metadata;

    private RunningPlugin(Host host, Map<String, String> metadata) {
        this.host = host;
        this.metadata = metadata;
    }

    /** Start a plugin without settings. Throws PluginException where its start refuses. */
    public static RunningPlugin of(Plugin<?> plugin) {
        return of(plugin, Map.of(), Map.of(), Map.of());
    }

    /** Start a plugin as a namespace {@code test} with these settings would, and its calls with that metadata. */
    public static RunningPlugin of(Plugin<?> plugin, Map<String, ?> config, Map<String, String> credentials, Map<String, String> metadata) {
        Host host = Host.serve(plugin, null);
        host.handshake(Map.of());
        Frame answer = host.call(Frame.INITIALIZE, Map.of("namespace", "test", "config_json", Json.write(config), "credentials", credentials));
        try {
            result(answer);
        } catch (PluginException error) {
            host.close();
            throw error;
        }
        return new RunningPlugin(host, metadata);
    }

    /** Call an operation; its result as {@link Json} reads it. Throws PluginException with the call's status. */
    public Object call(String operation, Map<String, ?> params) {
        return Json.parse((String) result(host.call(Frame.EXECUTE, request(operation, params))).get("result_json"));
    }

    /** Open a stream with the first of these messages, send the others, and return all that comes. */
    @SafeVarargs
    public final List<Object> stream(String operation, Map<String, ?>... messages) {
        Map<String, ?> first = messages.length == 0 ? Map.of() : messages[0];
        long stream = host.open(Frame.EXECUTE_STREAM, request(operation, first), 0, messages.length < 2);
        for (int n = 1; n < messages.length; n++) {
            host.send(Frame.of(Frame.DATA, stream, n == messages.length - 1 ? Frame.END : 0, 0,
                    Json.write(Map.of("params_json", Json.write(messages[n])))));
        }
        List<Object> found = new ArrayList<>();
        while (true) {
            Frame frame = host.receive(one -> one.stream() == stream);
            boolean closed = frame.type() == Frame.CLOSE;
            Map<String, Object> message = closed ? result(frame) : Host.message(frame);
            if (message.containsKey("result_json")) found.add(Json.parse((String) message.get("result_json")));
            if (closed) return found;
            if (frame.type() == Frame.DATA) host.send(Frame.of(Frame.CREDIT, stream, 0, Frame.HEADER + frame.payload().length, null));
        }
    }

    /** What the plugin says of its health. */
    public Health health() {
        Map<String, Object> said = Host.message(host.call(Frame.HEALTH_CHECK, Map.of()));
        return new Health(Health.State.values()[((Long) said.get("status")).intValue()], Message.text(said, "message"), Message.texts(said, "details"));
    }

    /** Shut it down; its service is closed then. */
    @Override
    public void close() {
        result(host.call(Frame.SHUTDOWN, Map.of("timeout_seconds", 5)));
        host.close();
    }

    private Map<String, Object> request(String operation, Map<String, ?> params) {
        return Map.of("operation", operation, "params_json", Json.write(params), "metadata", metadata);
    }

    private static Map<String, Object> result(Frame close) {
        Map<String, Object> message = Host.message(close);
        if (close.aux() == 0) return message;
        throw new PluginException(Status.of(close.aux()), Message.text(message, "error"));
    }

    /** The host's side of a connection, frame by frame; for one thread at a time. */
    static final class Host {
        final Session<?> session;
        private final Thread serving;
        private final Pipe.SourceChannel in;
        private final Pipe.SinkChannel out;
        private final Frame.Reader reader = new Frame.Reader();
        private final List<Frame> waiting = new ArrayList<>();
        private long next = 1;
        volatile Session.Outcome outcome;

        private Host(Plugin<?> plugin, Consumer<String> trace, Pipe toPlugin, Pipe toHost) {
            in = toHost.source();
            out = toPlugin.sink();
            reader.limit = Integer.MAX_VALUE - Frame.HEADER;
            Logs logs = new Logs(Level.INFO, false);
            Logger root = Logger.getLogger("");
            root.addHandler(logs);
            session = new Session<>(plugin.checked(), new Session.Connection(toPlugin.source(), toHost.sink(), () -> {
                toHost.sink().close();
                toPlugin.source().close();
            }), logs, trace);
            serving = new Thread(() -> {
                outcome = session.run();
                root.removeHandler(logs);
            });
            serving.setDaemon(true);
            serving.start();
        }

        static Host serve(Plugin<?> plugin, Consumer<String> trace) {
            try {
                return new Host(plugin, trace, Pipe.open(), Pipe.open());
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        static Map<String, Object> message(Frame frame) {
            return frame.payload().length == 0 ? Map.of() : Json.parseObject(new String(frame.payload(), java.nio.charset.StandardCharsets.UTF_8));
        }

        /** The first frame that is wanted; null once the stream has ended. */
        Frame receive(Predicate<Frame> wanted) {
            try {
                while (true) {
                    for (Frame frame : waiting) {
                        if (wanted.test(frame)) {
                            waiting.remove(frame);
                            return frame;
                        }
                    }
                    Frame frame = reader.next();
                    if (frame != null) {
                        waiting.add(frame);
                        continue;
                    }
                    int count = in.read(reader.room());
                    if (count < 0) return null;
                    reader.filled(count);
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            } catch (Frame.ProtocolException error) {
                throw new IllegalStateException("the plugin broke the protocol", error);
            }
        }

        void send(Frame frame) {
            sendBytes(frame.bytes());
        }

        void sendBytes(java.nio.ByteBuffer bytes) {
            try {
                while (bytes.hasRemaining()) out.write(bytes);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        Map<String, Object> handshake(Map<String, Object> limits) {
            Frame hello = receive(frame -> true);
            Map<String, Object> answer = new LinkedHashMap<>(Map.of("name", "prism", "codec", "json"));
            answer.putAll(limits);
            send(Frame.of(Frame.HELLO, 0, 0, 1, Json.write(answer)));
            return message(hello);
        }

        long open(int method, Map<String, ?> message, long milliseconds, boolean ended) {
            long stream = next;
            next += 2;
            Frame frame = Frame.of(Frame.OPEN, stream, ended ? Frame.END : 0, milliseconds, Json.write(message));
            send(new Frame(frame.type(), frame.flags(), frame.codec(), method, stream, frame.aux(), frame.payload()));
            return stream;
        }

        Frame closeOf(long stream) {
            return receive(frame -> frame.stream() == stream && frame.type() == Frame.CLOSE);
        }

        Frame call(int method, Map<String, ?> message) {
            return closeOf(open(method, message, 0, true));
        }

        /** No more comes from the host; returns when the session is over. */
        Session.Outcome close() {
            try {
                out.close();
                serving.join();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            return outcome;
        }

        /** Wait until the session is over by itself. */
        Session.Outcome over() throws InterruptedException {
            serving.join();
            return outcome;
        }
    }
}
