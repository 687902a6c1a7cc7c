package dev.prism.plugin;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.prism.plugin.Plugin.Access;
import dev.prism.plugin.RunningPlugin.Host;
import java.math.BigInteger;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.logging.Logger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class SessionTest {
    record Point(int x, List<String> names) { }

    record Ledger(Setup setup, AtomicBoolean closed) implements AutoCloseable {
        static AtomicBoolean seen = new AtomicBoolean();

        static Ledger open(Setup setup) {
            setup.config().only("url", "size");
            return new Ledger(setup, seen = new AtomicBoolean());
        }

        Object size(JsonObject params, Call call) {
            return setup.config().integer("size", 10);
        }

        Object leak(JsonObject params, Call call) {
            throw new PluginException(Status.UNAVAILABLE, "login " + setup.credentials().get("password") + " failed");
        }

        Health health() {
            return Health.degraded("replica lags").with(Map.of("lag", "3"));
        }

        @Override
        public void close() {
            closed.set(true);
        }
    }

    private static Status refusal(org.junit.jupiter.api.function.Executable call) {
        return assertThrows(PluginException.class, call).status();
    }

    @Test
    void resultsErrorsAndWhatACallKnows() {
        Plugin<Ledger> plugin = Plugin.of("ledger", "1.0.0", Ledger::open)
                .operation("size", Ledger::size, it -> it.idempotent().access(Access.READ))
                .operation("leak", Ledger::leak)
                .operation("point", (ledger, params, call) -> new Point(3, List.of("ü")))
                .operation("exact", (ledger, params, call) -> new Json.Raw("{\"same\":" + call.paramsText() + "}"))
                .operation("nothing", (ledger, params, call) -> null)
                .operation("who", (ledger, params, call) -> Map.of("who", call.principal(), "in", call.namespace(),
                        "left", call.timeLeft().compareTo(Duration.ofDays(1)) > 0, "id", call.requestId()))
                .operation("typed", (ledger, params, call) -> params.text("name") + params.integer("n", 1))
                .operation("bug", (ledger, params, call) -> List.of().get(1))
                .operation("overflow", (ledger, params, call) -> { throw new StackOverflowError(); })
                .operation("object", (ledger, params, call) -> new Object())
                .health(Ledger::health);
        try (RunningPlugin running = RunningPlugin.of(plugin, Map.of("size", 7), Map.of("password", "s3cr3t"),
                Map.of("prism-principal", "ada", "prism-request-id", "r1"))) {
            assertEquals(7L, running.call("size", Map.of()));
            assertEquals(Map.of("x", 3L, "names", List.of("ü")), running.call("point", Map.of()));
            BigInteger big = new BigInteger("12345678901234567890");
            assertEquals(Map.of("same", Map.of("n", big)), running.call("exact", Map.of("n", big)));
            assertEquals(Map.of(), running.call("nothing", Map.of()));
            assertEquals(Map.of("who", "ada", "in", "test", "left", true, "id", "r1"), running.call("who", Map.of()));
            assertEquals("Ada1", running.call("typed", Map.of("name", "Ada")));
            PluginException typed = assertThrows(PluginException.class, () -> running.call("typed", Map.of("name", 7)));
            assertEquals("expected text, found the number 7 - at `$.name`", typed.getMessage());
            PluginException leak = assertThrows(PluginException.class, () -> running.call("leak", Map.of()));
            assertEquals("login [redacted] failed", leak.getMessage());
            for (String fault : List.of("bug", "overflow", "object")) {
                PluginException error = assertThrows(PluginException.class, () -> running.call(fault, Map.of()));
                assertEquals(Status.INTERNAL, error.status());
                assertTrue(error.getMessage().matches(".*error id [0-9a-f]{8}"), error.getMessage());
            }
            assertEquals(Status.UNIMPLEMENTED, refusal(() -> running.call("fly", Map.of())));
            assertEquals(new Health(Health.State.DEGRADED, "replica lags", Map.of("lag", "3")), running.health());
            assertFalse(Ledger.seen.get());
        }
        assertTrue(Ledger.seen.get(), "the service is closed");
        assertEquals(Status.INVALID_ARGUMENT, refusal(() -> RunningPlugin.of(plugin, Map.of("sise", 7), Map.of(), Map.of())));
    }

    @Test
    void mistakesOfTheAuthorAreToldTogether() {
        Plugin<Setup> wrong = Plugin.of("", "1").operation("getUser", (s, p, c) -> 1).operation("a", (s, p, c) -> 1)
                .operation("a", (s, p, c) -> 1).operation("b", (s, p, c) -> 1, it -> it.paramsSchema("[]"));
        String message = assertThrows(IllegalArgumentException.class, wrong::checked).getMessage();
        for (String part : List.of("no name", "\"getUser\": no client", "such as \"get_user\"", "\"a\" is there twice", "\"b\": not one JSON")) {
            assertTrue(message.contains(part), message);
        }
        assertThrows(IllegalArgumentException.class, Plugin.of("p", "1")::checked);
    }

    @Test
    void streams() {
        Plugin<Setup> plugin = Plugin.of("p", "1")
                .stream("count", (s, params, call) -> { for (long n = 0; n < params.integer("upto"); n++) call.send(n); })
                .operation("both", (s, params, call) -> "unary")
                .stream("both", (s, params, call) -> call.send("stream"))
                .stream("sum", (s, params, call) -> {
                    long sum = params.integer("n");
                    for (JsonObject message : call.messages()) sum += message.integer("n");
                    call.send(sum);
                })
                .stream("fails", (s, params, call) -> { call.send(1); throw new PluginException(Status.DATA_LOSS, "gone"); })
                .stream("placed", (s, params, call) -> call.send(call.resumeAfter(), "seven"));
        assertEquals(true, plugin.declarations().get(1).get("also_streaming"));
        try (RunningPlugin running = RunningPlugin.of(plugin, Map.of(), Map.of(), Map.of("prism-last-event-id", "six"))) {
            assertEquals(List.of(0L, 1L, 2L), running.stream("count", Map.of("upto", 3)));
            assertEquals("unary", running.call("both", Map.of()));
            assertEquals(List.of("stream"), running.stream("both"));
            assertEquals(List.of(6L), running.stream("sum", Map.of("n", 1), Map.of("n", 2), Map.of("n", 3)));
            assertEquals(Status.DATA_LOSS, refusal(() -> running.stream("fails")));
            assertEquals(List.of("six"), running.stream("placed"));
            assertEquals(Status.UNIMPLEMENTED, refusal(() -> running.call("count", Map.of())));
        }
    }

    /** A plugin that is ready, and its host. */
    static Host ready(Plugin<?> plugin, Map<String, Object> limits) {
        Host host = Host.serve(plugin, null);
        host.handshake(limits);
        assertEquals(0, host.call(Frame.INITIALIZE, Map.of("namespace", "n")).aux());
        return host;
    }

    @Test
    void aStreamSendsNoMoreThanItHasCreditFor() {
        AtomicInteger sent = new AtomicInteger();
        AtomicBoolean left = new AtomicBoolean();
        Host host = ready(Plugin.of("p", "1").stream("many", (s, params, call) -> {
            try {
                for (;; sent.incrementAndGet()) call.send("x".repeat(100));
            } finally {
                left.set(true);
            }
        }), Map.of("window", 300));
        long stream = host.open(Frame.EXECUTE_STREAM, Map.of("operation", "many"), 0, true);
        Frame first = host.receive(frame -> frame.stream() == stream);
        int size = Frame.HEADER + first.payload().length;
        int count = (300 + size - 1) / size; // it may send while its credit is above 0
        for (int n = 1; n < count; n++) assertEquals(Frame.DATA, host.receive(frame -> frame.stream() == stream).type());
        host.send(Frame.of(Frame.CREDIT, stream, 0, (long) size * count, null));
        for (int n = 0; n < count; n++) assertEquals(Frame.DATA, host.receive(frame -> frame.stream() == stream).type());
        host.send(Frame.of(Frame.CANCEL, stream, 0, Status.CANCELLED.ordinal(), null));
        Frame close = host.receive(frame -> frame.stream() == stream); // and no DATA before it
        assertEquals(Frame.CLOSE, close.type());
        assertEquals(Status.CANCELLED.ordinal(), close.aux());
        assertTrue(sent.get() <= 2 * count, sent.toString());
        assertTrue(left.get(), "its finally has run before the CLOSE");
        host.close();
    }

    @Test
    void whatIsReadIsGivenBackAndWhatIsBeyondTheCreditEndsTheCall() {
        CountDownLatch go = new CountDownLatch(1);
        Host host = ready(Plugin.of("p", "1").window(64)
                .stream("sum", (s, params, call) -> {
                    go.await();
                    long sum = 0;
                    for (JsonObject message : call.messages()) sum += message.integer("n");
                    call.send(sum);
                })
                .stream("deaf", (s, params, call) -> Thread.sleep(60_000)), Map.of());
        String message = Json.write(Map.of("params_json", "{\"n\":1}"));
        long stream = host.open(Frame.EXECUTE_STREAM, Map.of("operation", "sum"), 0, false);
        for (int n = 0; n < 2; n++) host.send(Frame.of(Frame.DATA, stream, 0, 0, message));
        go.countDown();
        Frame credit = host.receive(frame -> frame.stream() == stream);
        assertEquals(List.of(Frame.CREDIT, 16L + message.length()), List.of(credit.type(), credit.aux()));
        host.send(Frame.of(Frame.DATA, stream, Frame.END, 0, null));
        Frame answer = host.receive(frame -> frame.stream() == stream && frame.type() == Frame.DATA);
        assertEquals("2", Host.message(answer).get("result_json"));
        assertEquals(0, host.closeOf(stream).aux());

        long deaf = host.open(Frame.EXECUTE_STREAM, Map.of("operation", "deaf"), 0, false);
        for (int n = 0; n < 9; n++) host.send(Frame.of(Frame.DATA, deaf, 0, 0, message));
        assertEquals(Status.CANCELLED.ordinal(), host.closeOf(deaf).aux());
        assertEquals(0L, Host.message(host.call(Frame.HEALTH_CHECK, Map.of())).get("status"));
        host.close();
    }

    @Test
    void exactlyOneClose() throws Exception {
        CountDownLatch begun = new CountDownLatch(1), interrupted = new CountDownLatch(1), end = new CountDownLatch(1);
        Host host = ready(Plugin.of("p", "1")
                .operation("heeds", (s, params, call) -> {
                    begun.countDown();
                    try {
                        Thread.sleep(60_000);
                    } catch (InterruptedException error) {
                        interrupted.countDown();
                        throw error;
                    }
                    return 1;
                })
                .operation("ignores", (s, params, call) -> {
                    while (end.getCount() > 0) Thread.onSpinWait();
                    return call.isCancelled();
                })
                .operation("quick", (s, params, call) -> Thread.currentThread().isInterrupted()), Map.of());
        long first = host.open(Frame.EXECUTE, Map.of("operation", "heeds"), 0, true);
        begun.await();
        for (int n = 0; n < 2; n++) host.send(Frame.of(Frame.CANCEL, first, 0, Status.CANCELLED.ordinal(), null));
        assertEquals(Status.CANCELLED.ordinal(), host.closeOf(first).aux());
        interrupted.await();
        long quick = host.open(Frame.EXECUTE, Map.of("operation", "quick"), 0, true);
        assertEquals("false", Host.message(host.closeOf(quick)).get("result_json"));
        host.send(Frame.of(Frame.CANCEL, quick, 0, Status.CANCELLED.ordinal(), null));
        long timed = host.open(Frame.EXECUTE, Map.of("operation", "heeds"), 30, true);
        assertEquals(Status.DEADLINE_EXCEEDED.ordinal(), host.closeOf(timed).aux());
        long ignores = host.open(Frame.EXECUTE, Map.of("operation", "ignores"), 0, true);
        host.send(Frame.of(Frame.CANCEL, ignores, 0, Status.DEADLINE_EXCEEDED.ordinal(), null));
        assertEquals(Status.DEADLINE_EXCEEDED.ordinal(), host.closeOf(ignores).aux());
        end.countDown(); // what it answers now, nobody hears
        assertEquals(0, host.call(Frame.EXECUTE, Map.of("operation", "quick")).aux());
        host.close();
        assertNull(host.receive(frame -> frame.type() == Frame.CLOSE));
    }

    @Test
    void manyCallsAtATimeAndCancelsAmongThem() {
        Host host = ready(Plugin.of("p", "1").threads(16)
                .operation("echo", (s, params, call) -> new Json.Raw(call.paramsText())), Map.of());
        for (int round = 0; round < 300; round++) {
            List<Long> open = new ArrayList<>();
            for (int n = 0; n < 16; n++) {
                long stream = host.open(Frame.EXECUTE, Map.of("operation", "echo", "params_json", "{\"n\":" + n + "}"), 0, true);
                if (n % 4 == 0) host.send(Frame.of(Frame.CANCEL, stream, 0, 1, null));
                open.add(stream);
            }
            for (int n = 0; n < 16; n++) {
                Frame close = host.closeOf(open.get(n));
                if (n % 4 != 0) assertEquals("{\"n\":" + n + "}", Host.message(close).get("result_json"));
            }
        }
        host.close();
        assertNull(host.receive(frame -> frame.type() == Frame.CLOSE), "one CLOSE for each");
    }

    @Test
    void answersThatAreTooLargeForTheHost() {
        String big = "x".repeat(2000);
        Host host = ready(Plugin.of("p", "1").operation("big", (s, params, call) -> big)
                .stream("stream", (s, params, call) -> { call.send(1); call.send(big); }), Map.of("max_frame", 1000));
        Frame unary = host.call(Frame.EXECUTE, Map.of("operation", "big"));
        assertEquals(List.of(8L, Frame.TOO_LARGE), List.of(unary.aux(), unary.flags()));
        Frame stream = host.call(Frame.EXECUTE_STREAM, Map.of("operation", "stream"));
        assertEquals(List.of(8L, Frame.TOO_LARGE), List.of(stream.aux(), stream.flags()));
        host.close();
    }

    @Test
    void aDrainLetsWhatRunsEndAndStartsNothing() throws Exception {
        CountDownLatch begun = new CountDownLatch(1), go = new CountDownLatch(1);
        Host host = ready(Plugin.of("p", "1").operation("wait", (s, params, call) -> {
            begun.countDown();
            go.await();
            return "done";
        }), Map.of());
        long running = host.open(Frame.EXECUTE, Map.of("operation", "wait"), 0, true);
        begun.await();
        CompletableFuture<Void> drained = CompletableFuture.runAsync(() -> host.session.drain("stop"));
        assertEquals(running, host.receive(frame -> frame.type() == Frame.GOAWAY).aux());
        Frame ping = host.receive(frame -> frame.type() == Frame.PING);
        Frame crossed = host.call(Frame.EXECUTE, Map.of("operation", "wait"));
        assertEquals(List.of(14L, Frame.NOT_STARTED), List.of(crossed.aux(), crossed.flags()));
        host.send(Frame.of(Frame.PING, 0, Frame.ACK, ping.aux(), null));
        go.countDown();
        assertEquals("\"done\"", Host.message(host.closeOf(running)).get("result_json"));
        assertNull(host.receive(frame -> frame.type() != Frame.NOTE));
        drained.get();
        assertEquals(Session.Outcome.DRAINED, host.over());
    }

    @Test
    void shutdownRefusesWaitsAndClosesWhatIsLeft() throws Exception {
        Host host = ready(Plugin.of("p", "1").operation("wait", (s, params, call) -> {
            Thread.sleep(60_000);
            return 1;
        }), Map.of());
        long stuck = host.open(Frame.EXECUTE, Map.of("operation", "wait"), 0, true);
        long shutdown = host.open(Frame.SHUTDOWN, Map.of("timeout_seconds", 1, "reason", "replaced"), 0, true);
        Frame refused = host.call(Frame.EXECUTE, Map.of("operation", "wait"));
        assertEquals(List.of(14L, Frame.NOT_STARTED), List.of(refused.aux(), refused.flags()));
        assertEquals(Status.UNAVAILABLE.ordinal(), host.closeOf(stuck).aux());
        assertEquals(true, Host.message(host.closeOf(shutdown)).get("success"));
        assertEquals(Session.Outcome.REPLACED, host.over());
    }

    @Test
    void logsAndHealthAreToldWithoutSecrets() {
        Host host = Host.serve(Plugin.of("p", "1", setup -> setup).operation("tell", (setup, params, call) -> {
            Thread.currentThread().interrupt(); // which must not reach the connection
            Logger.getLogger("ledger").severe("ada used hunter22");
            setup.tellHealth().accept(Health.degraded("hunter22 lags"));
            return Thread.interrupted();
        }), null);
        host.handshake(Map.of());
        host.call(Frame.INITIALIZE, Map.of("credentials", Map.of("password", "hunter22", "username", "ada")));
        Frame answer = host.call(Frame.EXECUTE, Map.of("operation", "tell"));
        assertEquals("true", Host.message(answer).get("result_json"));
        Map<String, Object> note = Host.message(host.receive(frame -> frame.type() == Frame.NOTE
                && Host.message(frame).containsKey("logs")));
        Map<?, ?> record = (Map<?, ?>) ((List<?>) note.get("logs")).get(0);
        assertEquals(List.of("ada used [redacted]", "ERROR", "ledger"), List.of(record.get("message"), record.get("level"), record.get("logger")));
        Map<String, Object> health = Host.message(host.receive(frame -> frame.type() == Frame.NOTE
                && Host.message(frame).containsKey("health")));
        assertEquals(Map.of("status", 1L, "message", "[redacted] lags", "details", Map.of()), health.get("health"));
        host.close();
    }

    @Test
    void theTraceShowsFramesAndNoCredentials() {
        List<String> lines = Collections.synchronizedList(new ArrayList<>());
        Host host = Host.serve(Plugin.of("p", "1").operation("echo", (s, params, call) -> new Json.Raw(call.paramsText())), lines::add);
        host.handshake(Map.of());
        host.call(Frame.INITIALIZE, Map.of("credentials", Map.of("password", "hunter22")));
        host.call(Frame.EXECUTE, Map.of("operation", "echo", "params_json", "{\"a\":\"hunter22\"}"));
        host.close();
        assertTrue(lines.get(0).startsWith("-> HELLO stream=0 flags=0 aux=1 "), lines.get(0));
        assertTrue(lines.stream().anyMatch(line -> line.startsWith("<- OPEN Execute stream=3 flags=1 ")), lines.toString());
        assertFalse(lines.toString().contains("hunter22"), lines.toString());
    }
}
