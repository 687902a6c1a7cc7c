package dev.prism.plugin;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.regex.Pattern;

/**
 * A plugin: a name, a version, and operations on a service {@code S} that is made for each proxy.
 *
 * <pre>{@code
 * Plugin.of("ledger", "1.0.0", Ledger::new)
 *     .operation("balance", Ledger::balance, it -> it.idempotent().access(Access.READ))
 *     .stream("accounts", Ledger::accounts, it -> it.access(Access.READ))
 *     .health(Ledger::health)
 *     .serve(args);
 * }</pre>
 *
 * Methods of the service are called by many threads at a time. A service that is AutoCloseable is
 * closed at the end.
 */
public final class Plugin<S> {
    /** Version of the frame protocol. */
    public static final int PROTOCOL = 1;
    private static final Pattern NAME = Pattern.compile("[a-z][a-z0-9_]{0,63}");

    /** An operation with one answer: what it returns is written as {@link Json}; null as {@code {}}. */
    @FunctionalInterface
    public interface Handler<S> {
        Object handle(S service, JsonObject params, Call call) throws Exception;
    }

    /** An operation that sends any number of answers, and may read further messages. */
    @FunctionalInterface
    public interface StreamHandler<S> {
        void handle(S service, JsonObject params, StreamCall call) throws Exception;
    }

    /** Opens what the backend needs. What it throws refuses the plugin, and the operator reads why. */
    @FunctionalInterface
    public interface Start<S> {
        S start(Setup setup) throws Exception;
    }

    /** The permission that callers need, where the proxy knows them. */
    public enum Access { READ, WRITE, ADMIN }

    /** What may be relied on in an operation, and what clients are told of it. */
    public static final class Declaration {
        private final Map<String, Object> said = new LinkedHashMap<>();

        /** Calling twice equals calling once: the proxy may repeat it when a connection breaks. */
        public Declaration idempotent() {
            return say("idempotent", true);
        }

        /** Without it WRITE. */
        public Declaration access(Access access) {
            return say("access", access.ordinal() + 1);
        }

        /** What a call uses of a rate limit; without it 1. */
        public Declaration cost(int cost) {
            if (cost < 1) throw new IllegalArgumentException("a cost of " + cost + " is less than 1");
            return say("cost", cost);
        }

        public Declaration description(String description) {
            return say("description", description);
        }

        /** A JSON Schema (2020-12); of a stream, of the first message. */
        public Declaration paramsSchema(String schema) {
            Json.parseObject(schema);
            return say("params_schema", schema);
        }

        /** A JSON Schema; of a stream, of each message from it. */
        public Declaration resultSchema(String schema) {
            Json.parseObject(schema);
            return say("result_schema", schema);
        }

        private Declaration say(String field, Object value) {
            said.put(field, value);
            return this;
        }
    }

    /** Both forms of an operation, of which one may be missing. */
    static final class Operation<S> {
        Handler<S> handler;
        StreamHandler<S> stream;
        final Map<String, Object> declared = new LinkedHashMap<>();
    }

    final String name;
    final String version;
    final Start<S> start;
    final Map<String, Operation<S>> operations = new LinkedHashMap<>();
    Function<S, Health> health = service -> Health.healthy();
    boolean cache;
    int threads = VirtualThreads.EXIST ? 4096 : 256;
    int maxFrame = 16 * 1024 * 1024;
    int window = 256 * 1024;
    private final List<String> mistakes = new ArrayList<>();

    private Plugin(String name, String version, Start<S> start) {
        this.name = name;
        this.version = version;
        this.start = start;
        if (name.isEmpty()) mistakes.add("it has no name");
    }

    /** A plugin whose operations are methods of the service that {@code start} makes. */
    public static <S> Plugin<S> of(String name, String version, Start<S> start) {
        return new Plugin<>(name, version, start);
    }

    /** A plugin without a service: its operations get the setup in its place. */
    public static Plugin<Setup> of(String name, String version) {
        return new Plugin<>(name, version, setup -> setup);
    }

    public Plugin<S> operation(String name, Handler<S> handler) {
        return operation(name, handler, it -> { });
    }

    public Plugin<S> operation(String name, Handler<S> handler, Consumer<Declaration> declare) {
        Operation<S> operation = declared(name, declare, "");
        if (operation.handler != null) mistakes.add("operation \"" + name + "\" is there twice");
        operation.handler = handler;
        return this;
    }

    public Plugin<S> stream(String name, StreamHandler<S> handler) {
        return stream(name, handler, it -> { });
    }

    /** With the name of an {@link #operation}, the client chooses between the two. */
    public Plugin<S> stream(String name, StreamHandler<S> handler, Consumer<Declaration> declare) {
        Operation<S> operation = declared(name, declare, operations.containsKey(name) ? "stream_" : "");
        if (operation.stream != null) mistakes.add("stream \"" + name + "\" is there twice");
        operation.stream = handler;
        return this;
    }

    /** Asked at intervals; without it the plugin is healthy. Throwing counts as unhealthy. */
    public Plugin<S> health(Function<S, Health> health) {
        this.health = health;
        return this;
    }

    /** It keeps a cache, as {@link Setup#cache} says. Without this, a namespace with one is refused. */
    public Plugin<S> keepsCache() {
        cache = true;
        return this;
    }

    /** Calls at a time, each with a thread: 256, or 4,096 where the runtime has virtual threads. */
    public Plugin<S> threads(int threads) {
        this.threads = positive("threads", threads);
        return this;
    }

    /** Longest message that is accepted: 16 MiB. */
    public Plugin<S> maxFrame(int bytes) {
        maxFrame = positive("maxFrame", bytes);
        return this;
    }

    /** Of a stream's messages that wait to be read: 256 KiB. */
    public Plugin<S> window(int bytes) {
        window = positive("window", bytes);
        return this;
    }

    private int positive(String what, int value) {
        if (value < 1) mistakes.add(what + " is " + value + ", less than 1");
        return value;
    }

    private Operation<S> declared(String name, Consumer<Declaration> declare, String prefix) {
        if (!NAME.matcher(name).matches()) {
            String would = name.replaceAll("(?<=[a-z0-9])(?=[A-Z])", "_").toLowerCase(Locale.ROOT)
                    .replaceAll("[^a-z0-9_]+", "_").replaceAll("^[^a-z]+", "");
            mistakes.add("operation \"" + name + "\": no client could call it; a name is 1 to 64 lower-case letters, digits "
                    + "and underscores, a letter first, such as \"" + (would.isEmpty() ? "get" : would) + "\"");
        }
        Operation<S> operation = operations.computeIfAbsent(name, key -> new Operation<>());
        try {
            Declaration declaration = new Declaration();
            declare.accept(declaration);
            declaration.said.forEach((field, value) -> operation.declared.put(
                    field.endsWith("_schema") ? prefix + field : field, value));
        } catch (IllegalArgumentException error) {
            mistakes.add("operation \"" + name + "\": " + error.getMessage());
        }
        return operation;
    }

    /** This plugin, found right. Throws IllegalArgumentException with all that is wrong. */
    Plugin<S> checked() {
        if (operations.isEmpty()) mistakes.add("it has no operations: .operation(\"greet\", (service, params, call) -> …)");
        if (mistakes.isEmpty()) return this;
        throw new IllegalArgumentException("plugin \"" + name + "\": " + String.join("; ", mistakes));
    }

    List<Map<String, Object>> declarations() {
        List<Map<String, Object>> all = new ArrayList<>();
        operations.forEach((name, operation) -> {
            Map<String, Object> one = new LinkedHashMap<>(Map.of("name", name));
            one.putAll(operation.declared);
            if (operation.stream != null) one.put(operation.handler == null ? "streaming" : "also_streaming", true);
            all.add(one);
        });
        return all;
    }

    /**
     * The whole main program: meets the proxy (standard input or PLUGIN_SOCKET where it started this
     * process, otherwise {@code --connect} and {@code --listen}), serves it, and ends the process: status
     * 0 after a clean end, 1 where no host can be served, 2 for wrong arguments or a wrong plugin.
     */
    public void serve(String... args) {
        System.exit(Server.main(this, args));
    }
}
