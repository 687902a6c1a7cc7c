import dev.prism.plugin.Call;
import dev.prism.plugin.Health;
import dev.prism.plugin.Json;
import dev.prism.plugin.JsonObject;
import dev.prism.plugin.Plugin;
import dev.prism.plugin.Plugin.Access;
import dev.prism.plugin.PluginException;
import dev.prism.plugin.Setup;
import dev.prism.plugin.Status;
import dev.prism.plugin.StreamCall;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.logging.Level;
import java.util.logging.Logger;

/** The operations that the kit of every language has for its tests (../../README.md). */
public final class Kit {
    private static final Map<String, Level> LEVELS =
            Map.of("DEBUG", Level.FINE, "INFO", Level.INFO, "WARNING", Level.WARNING, "ERROR", Level.SEVERE);
    private final AtomicLong cancelled = new AtomicLong();
    private final Setup setup;

    private Kit(Setup setup) {
        this.setup = setup;
    }

    Object echo(JsonObject params, Call call) {
        return new Json.Raw(call.paramsText()); // byte for byte, as it came
    }

    Object fail(JsonObject params, Call call) {
        throw new PluginException(Status.of(params.integer("code")), params.text("message"));
    }

    Object panic(JsonObject params, Call call) {
        throw new IllegalStateException("the handler crashed");
    }

    Object sleep(JsonObject params, Call call) throws InterruptedException {
        try {
            Thread.sleep((long) (params.number("seconds") * 1000));
        } catch (InterruptedException error) {
            cancelled.incrementAndGet();
            throw error;
        }
        return null;
    }

    Object cancelled(JsonObject params, Call call) {
        return Map.of("count", cancelled.get());
    }

    void count(JsonObject params, StreamCall call) throws InterruptedException {
        int size = (int) params.integer("size", 0);
        for (long n = 1; n <= params.integer("to"); n++) {
            Map<String, Object> message = new LinkedHashMap<>(Map.of("n", n));
            if (size > 0) message.put("padding", "x".repeat(size));
            call.send(message);
        }
    }

    void sum(JsonObject params, StreamCall call) throws InterruptedException {
        long sum = params.integer("n", 0);
        for (JsonObject message : call.messages()) sum += message.integer("n");
        call.send(Map.of("sum", sum));
    }

    Object big(JsonObject params, Call call) {
        return Map.of("data", "x".repeat((int) params.integer("bytes")));
    }

    record Who(String principal, String request_id, String namespace, Map<String, String> metadata) { }

    Object whoami(JsonObject params, Call call) {
        return new Who(call.principal(), call.requestId(), call.namespace(), call.metadata());
    }

    Object secret(JsonObject params, Call call) {
        return Map.of("password", !setup.credentials().getOrDefault("password", "").isEmpty());
    }

    Object log(JsonObject params, Call call) {
        Level level = LEVELS.get(params.text("level", "INFO"));
        if (level == null) throw new PluginException(Status.INVALID_ARGUMENT, "there is no such level");
        Logger.getLogger("kit").log(level, params.text("message"));
        return null;
    }

    public static void main(String[] args) {
        Plugin.of("kit", "1.0.0", Kit::new)
                .operation("echo", Kit::echo, it -> it.idempotent().access(Access.READ).description("Say it again.")
                        .paramsSchema("{\"type\":\"object\"}").resultSchema("{\"type\":\"object\"}"))
                .operation("fail", Kit::fail, it -> it.access(Access.READ))
                .operation("panic", Kit::panic, it -> it.access(Access.READ))
                .operation("sleep", Kit::sleep, it -> it.access(Access.READ))
                .operation("cancelled", Kit::cancelled, it -> it.access(Access.READ))
                .stream("count", Kit::count, it -> it.access(Access.READ))
                .stream("sum", Kit::sum, it -> it.access(Access.READ))
                .operation("big", Kit::big, it -> it.access(Access.READ))
                .operation("whoami", Kit::whoami, it -> it.access(Access.READ))
                .operation("secret", Kit::secret, it -> it.access(Access.READ))
                .operation("log", Kit::log)
                .health(kit -> Health.healthy().with(Map.of("cancelled", kit.cancelled.toString())))
                .serve(args);
    }
}
