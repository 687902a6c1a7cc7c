package dev.prism.plugin;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.prism.plugin.RunningPlugin.Host;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** schemas/vectors, whole and byte by byte; the folder is the property {@code vectors}. */
class VectorsTest {
    private static final Path VECTORS = Path.of(System.getProperty("vectors", "../../schemas/vectors"));

    /** Frames that come when the call is over here, since it came before Initialize and was answered at once. */
    private static final Set<String> OVER = Set.of("data for a unary call", "data after END", "close from the caller",
            "the stream ends in the middle of a frame");

    private static Stream<JsonObject> cases(String file) {
        try {
            return Json.parseObject(Files.readString(VECTORS.resolve(file))).get("cases") instanceof List<?> list
                    ? list.stream().map(VectorsTest::object).filter(one -> !one.has("codec") || one.text("codec").equals("json"))
                    : Stream.of();
        } catch (IOException error) {
            throw new IllegalStateException("the vectors are not in " + VECTORS + ": say -Dvectors=…", error);
        }
    }

    @SuppressWarnings("unchecked")
    private static JsonObject object(Object map) {
        return new JsonObject((Map<String, Object>) map, "$");
    }

    private static Stream<DynamicTest> bothWays(String file, Case test) {
        return cases(file).flatMap(one -> Stream.of(false, true).map(bytewise -> DynamicTest.dynamicTest(
                one.text("name") + (bytewise ? ", byte by byte" : ", whole"), () ->
                assertTimeoutPreemptively(Duration.ofSeconds(60), () -> test.run(one, bytewise)))));
    }

    private interface Case {
        void run(JsonObject one, boolean bytewise) throws Exception;
    }

    private static void send(Host host, JsonObject one, boolean bytewise) {
        byte[] bytes = HexFormat.of().parseHex(one.text("hex"));
        for (int n = 0; bytewise && n < bytes.length; n++) host.sendBytes(ByteBuffer.wrap(bytes, n, 1));
        if (!bytewise) host.sendBytes(ByteBuffer.wrap(bytes));
    }

    @TestFactory
    Stream<DynamicTest> broken() {
        return bothWays("errors.json", (one, bytewise) -> {
            if (!one.text("to").equals("plugin")) return;
            Host host = Host.serve(Plugin.of("x", "1").operation("echo", (s, p, c) -> 1), null);
            if (one.text("state").equals("ready")) host.handshake(Map.of());
            try {
                send(host, one, bytewise);
            } catch (java.io.UncheckedIOException error) {
                // it does not read on
            }
            boolean over = OVER.contains(one.text("name"));
            Frame goAway = over ? null : host.receive(frame -> frame.type() == Frame.GOAWAY);
            if (!over) assertTrue(!Message.text(Host.message(goAway), "reason").isEmpty());
            assertEquals(over ? Session.Outcome.ENDED : Session.Outcome.BROKEN, over ? host.close() : host.over());
        });
    }

    @TestFactory
    Stream<DynamicTest> tolerated() {
        return bothWays("tolerance.json", (one, bytewise) -> {
            Host host = Host.serve(Plugin.of("x", "1").operation("get", (s, p, c) -> 1), null);
            host.handshake(Map.of());
            send(host, one, bytewise);
            for (Object event : one.list("events")) {
                if (!object(event).text("event").equals("Open")) continue;
                assertEquals(Status.FAILED_PRECONDITION.ordinal(), host.closeOf(object(event).integer("stream")).aux());
            }
            host.send(Frame.of(Frame.PING, 0, 0, 9, null));
            assertEquals(9, host.receive(frame -> frame.type() == Frame.PING).aux());
            assertEquals(Session.Outcome.ENDED, host.close());
        });
    }

    @TestFactory
    Stream<DynamicTest> conversations() {
        return bothWays("conversations.json", (one, bytewise) -> {
            CountDownLatch second = new CountDownLatch(1);
            Plugin<Setup> plugin = Plugin.of("echo", "1.0.0").window(64)
                    .operation("echo", (s, params, call) -> new Json.Raw(call.paramsText()))
                    .operation("get", (s, params, call) -> { // of two at a time, the first waits for the second
                        if (call.run.id == 3) second.await();
                        else second.countDown();
                        return call.run.id;
                    })
                    .stream("chat", (s, params, call) -> {
                        for (JsonObject message : call.messages()) call.send(message.text("text"));
                    });
            Host host = Host.serve(plugin, null);
            List<Object> steps = new ArrayList<>(one.list("steps"));
            for (int n = 0; n < steps.size(); n++) {
                JsonObject step = object(steps.get(n));
                if (step.text("sender").equals("plugin")) {
                    for (Object event : step.list("events")) check(host, object(event));
                    continue;
                }
                boolean drains = n + 1 < steps.size() && object(steps.get(n + 1)).list("events").stream()
                        .anyMatch(event -> object(event).text("event").equals("GoAway"));
                if (drains) {
                    new Thread(() -> host.session.drain("leaving")).start();
                    check(host, object(object(steps.get(n + 1)).list("events").get(0))); // it crosses what comes now
                    steps.remove(n + 1);
                }
                send(host, step, bytewise);
            }
            host.close();
            assertEquals(null, host.receive(frame -> frame.type() == Frame.CLOSE), "one CLOSE for each");
        });
    }

    private static void check(Host host, JsonObject wanted) {
        String event = wanted.text("event");
        long stream = wanted.integer("stream", 0);
        Frame frame = host.receive(one -> one.stream() == stream && one.name().equals(event.toUpperCase(java.util.Locale.ROOT)));
        switch (event) {
            case "Credit" -> assertEquals(wanted.integer("size"), frame.aux());
            case "Ping" -> assertEquals(List.of(wanted.integer("token"), (long) Frame.ACK), List.of(frame.aux(), (long) frame.flags()));
            case "GoAway" -> assertEquals(wanted.integer("last_stream"), frame.aux());
            case "Data" -> assertEquals(wanted.object("message").text("result_json"), Host.message(frame).get("result_json"));
            case "Close" -> {
                Status status = Status.of(frame.aux()), expected = Status.valueOf(wanted.text("status"));
                assertTrue(status == expected || expected == Status.CANCELLED && status == Status.DEADLINE_EXCEEDED, status.toString());
                boolean raced = expected == Status.CANCELLED; // it may have come before the handler began
                if (!raced) assertEquals(wanted.bool("not_started"), frame.has(Frame.NOT_STARTED));
                if (wanted.get("message") != null && wanted.object("message").has("success")) {
                    assertEquals(true, Host.message(frame).get("success"));
                    assertEquals(wanted.object("message").get("result_json"), Host.message(frame).get("result_json"));
                }
            }
            default -> { }
        }
    }

    @TestFactory
    Stream<DynamicTest> whatAPluginSendsIsWrittenAlike() {
        return cases("frames-json.json").filter(one -> one.text("sender").equals("plugin")).map(one ->
                DynamicTest.dynamicTest(one.text("name"), () -> {
                    byte[] bytes = HexFormat.of().parseHex(one.text("hex"));
                    Frame.Reader reader = new Frame.Reader();
                    reader.room().put(bytes);
                    reader.filled(bytes.length);
                    byte[] again = new byte[bytes.length];
                    reader.next().bytes().get(again);
                    assertEquals(one.text("hex"), HexFormat.of().formatHex(again));
                }));
    }
}
