package dev.prism.plugin;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ReadableByteChannel;
import java.nio.channels.WritableByteChannel;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * One connection to a host: frames in, calls to the plugin, frames out.
 *
 * <p>The thread of {@link #run} reads. Each call has a thread of the executor, which also writes what
 * it sends: frames go to a queue, and whoever finds the writer's place free writes all that are in it. Each call ends
 * with the one CLOSE of {@link #close}: it takes the call's entry out of {@code calls}, and who finds none sends nothing.
 */
final class Session<S> {
    /** How a session ended. */
    enum Outcome { SHUTDOWN, REPLACED, DRAINED, ENDED, REFUSED, BROKEN }

    private static final Logger LOG = Logger.getLogger("prism.sdk");
    private static final long HANDSHAKE_TIMEOUT = TimeUnit.SECONDS.toNanos(30); // for the host's HELLO
    private static final long CANCEL_GRACE = TimeUnit.SECONDS.toNanos(2); // before a cancelled call is closed without its handler
    private static final long STOP_GRACE = TimeUnit.SECONDS.toNanos(25); // for running calls after SIGTERM
    private static final long CLOSING_TIMEOUT = TimeUnit.SECONDS.toNanos(2);
    private static final long STOP_TIMEOUT = TimeUnit.SECONDS.toMillis(10); // for the service's close
    private static final long TICK = 100; // milliseconds: logs, deadlines that the host forgot, calls left by their handlers
    private static final int METRICS_EVERY = 100; // ticks
    private static final int MAX_CONTROL_CALLS = 4; // of the other methods, beside max_streams
    private static final long DRAIN_TOKEN = 0x647261; // of the PING after a GOAWAY: its echo says that the host has read both
    private static final ThreadFactory DAEMONS = task -> {
        Thread thread = new Thread(task, "prism");
        thread.setDaemon(true);
        return thread;
    };

    private final Plugin<S> plugin;
    private final Connection connection;
    private final Logs logs;
    private final Consumer<String> trace;
    private final ExecutorService threads;
    private final ExecutorService control = Executors.newCachedThreadPool(DAEMONS);
    private final ScheduledExecutorService ticks = Executors.newSingleThreadScheduledExecutor(DAEMONS);
    private final Map<Long, Run> calls = new ConcurrentHashMap<>();
    private final AtomicLong running = new AtomicLong(); // Execute and ExecuteStream of them
    private final AtomicLong controls = new AtomicLong(); // the others
    private final Queue<Frame> queue = new ConcurrentLinkedQueue<>();
    private final ReentrantLock writing = new ReentrantLock();
    private final ByteBuffer together = ByteBuffer.allocateDirect(65536); // of who writes
    private final Metrics metrics = new Metrics();
    private final CountDownLatch drainSeen = new CountDownLatch(1);
    private final AtomicBoolean ended = new AtomicBoolean();
    private final Runnable urgent = () -> soon(this::sendLogs);
    private final long begun = System.nanoTime();
    private final CountDownLatch over = new CountDownLatch(1);
    private volatile Outcome outcome;
    private volatile boolean broken; // nothing more is written
    private volatile boolean draining;
    private volatile boolean serving;
    private volatile long hostMaxFrame; // 0: no HELLO has come
    private volatile long last; // highest call id served
    private volatile Setup setup;
    private volatile S service;
    private volatile boolean started;
    private boolean initialized;
    private long hostWindow;
    private String noted = "";
    private int tick;

    /** What the frames travel in; closing ends a read that waits, too. */
    record Connection(ReadableByteChannel in, WritableByteChannel out, Closeable closing) { }

    Session(Plugin<S> plugin, Connection connection, Logs logs, Consumer<String> trace) {
        this.plugin = plugin;
        this.connection = connection;
        this.logs = logs;
        this.trace = trace;
        threads = VirtualThreads.executor(plugin.threads);
    }

    Setup setup() {
        return setup;
    }

    // -- reading -------------------------------------------------------------------

    /** Serve until it is over. */
    Outcome run() {
        Map<String, Object> hello = new LinkedHashMap<>();
        hello.put("name", plugin.name);
        hello.put("version", plugin.version);
        hello.put("instance", UUID.randomUUID().toString());
        hello.put("codecs", List.of("json"));
        hello.put("max_frame", plugin.maxFrame);
        hello.put("window", plugin.window);
        hello.put("max_streams", plugin.threads);
        send(Frame.of(Frame.HELLO, 0, 0, Plugin.PROTOCOL, Json.write(hello)));
        ticks.scheduleWithFixedDelay(this::tick, TICK, TICK, TimeUnit.MILLISECONDS);
        Frame.Reader reader = new Frame.Reader();
        try {
            while (outcome == null) {
                int count = connection.in().read(reader.room());
                if (count < 0) break;
                reader.filled(count);
                for (Frame frame; outcome == null && (frame = reader.next()) != null;) take(frame, reader);
            }
        } catch (Frame.ProtocolException error) {
            LOG.severe("the host broke the frame protocol: " + error.getMessage());
            goAway(error.getMessage());
            end(Outcome.BROKEN);
        } catch (IOException error) {
            if (outcome == null) LOG.log(Level.FINE, "the connection to the host broke", error);
        } finally {
            end(Outcome.ENDED);
        }
        awaitUninterruptibly(over, Long.MAX_VALUE);
        return outcome;
    }

    private void take(Frame frame, Frame.Reader reader) throws Frame.ProtocolException {
        if (trace != null) trace.accept(logs.clean(frame.describe("<-")));
        if (hostMaxFrame == 0) {
            handshake(frame);
            reader.limit = plugin.maxFrame;
            return;
        }
        switch (frame.type()) {
            case Frame.OPEN -> open(frame);
            case Frame.PING -> {
                if (!frame.has(Frame.ACK)) send(Frame.of(Frame.PING, 0, Frame.ACK, frame.aux(), null));
                else if (frame.aux() == DRAIN_TOKEN) drainSeen.countDown();
            }
            case Frame.GOAWAY -> LOG.info("the host says GOAWAY: " + Message.text(Message.of(frame), "reason"));
            case Frame.NOTE -> { }
            case Frame.HELLO -> throw new Frame.ProtocolException("a second HELLO");
            default -> takeOfCall(frame);
        }
    }

    private void takeOfCall(Frame frame) throws Frame.ProtocolException {
        if (frame.stream() > last || frame.stream() % 2 == 0) {
            throw new Frame.ProtocolException("a frame for call " + frame.stream() + ", which was never opened");
        }
        Run run = calls.get(frame.stream());
        if (run == null) return; // it is over: the two crossed
        switch (frame.type()) {
            case Frame.CANCEL -> run.cancel(Status.of(frame.aux()) == Status.DEADLINE_EXCEEDED
                    ? Status.DEADLINE_EXCEEDED : Status.CANCELLED);
            case Frame.CREDIT -> {
                run.lock.lock();
                try {
                    run.credit += frame.aux();
                    if (run.credit > Frame.MAX_U32) throw new Frame.ProtocolException("credit of call " + run.id + " above 2^32 - 1");
                    run.changed();
                } finally {
                    run.lock.unlock();
                }
            }
            case Frame.DATA -> data(run, frame);
            default -> throw new Frame.ProtocolException("CLOSE of call " + run.id + ", which only the plugin closes");
        }
    }

    private void handshake(Frame frame) throws Frame.ProtocolException {
        if (frame.type() != Frame.HELLO && frame.type() != Frame.GOAWAY) throw new Frame.ProtocolException("no HELLO came first");
        Map<String, Object> message = Message.of(frame);
        if (frame.type() == Frame.GOAWAY) {
            LOG.severe("the host refused this plugin: " + Message.text(message, "reason"));
            end(Outcome.REFUSED);
            return;
        }
        String codec = Message.text(message, "codec");
        if (!codec.equals("json")) throw new Frame.ProtocolException("codec \"" + codec + "\"; json was offered");
        if (frame.aux() != Plugin.PROTOCOL) throw new Frame.ProtocolException("version " + frame.aux() + "; 1 was offered");
        hostWindow = Message.number(message, "window", 262144);
        hostMaxFrame = Message.number(message, "max_frame", 1048576);
        logs.listen(urgent);
    }

    private void open(Frame frame) throws Frame.ProtocolException {
        if (frame.stream() % 2 == 0 || frame.stream() <= last) {
            throw new Frame.ProtocolException("OPEN of call " + frame.stream() + " after " + last);
        }
        if (frame.method() < Frame.INITIALIZE || frame.method() > Frame.SHUTDOWN) {
            throw new Frame.ProtocolException("unknown method " + frame.method());
        }
        Map<String, Object> request = Message.of(frame);
        Run run = new Run(frame.stream(), frame.method(), frame.aux());
        AtomicLong kind = run.isCall() ? running : controls;
        if (kind.get() >= (run.isCall() ? plugin.threads : MAX_CONTROL_CALLS)) {
            throw new Frame.ProtocolException("call " + run.id + " is one more than may be open at a time");
        }
        last = run.id;
        kind.incrementAndGet();
        calls.put(run.id, run);
        if (run.method == Frame.SHUTDOWN) draining = true; // before the next frame is read
        if (draining && run.method != Frame.SHUTDOWN) {
            refuse(run, Status.UNAVAILABLE, "the plugin is draining", Frame.NOT_STARTED);
        } else if (!run.isCall()) {
            control.execute(() -> control(run, request));
        } else if (!serving) {
            refuse(run, Status.FAILED_PRECONDITION, "Initialize has to come first", 0);
        } else {
            metrics.requestsTotal.incrementAndGet();
            run.inboxEnded = frame.has(Frame.END);
            run.credit = hostWindow;
            run.room = plugin.window;
            try {
                threads.execute(() -> execute(run, request));
            } catch (RejectedExecutionException error) {
                refuse(run, Status.RESOURCE_EXHAUSTED, "all threads are held, some by calls that were cancelled", Frame.NOT_STARTED);
            }
        }
    }

    private void data(Run run, Frame frame) throws Frame.ProtocolException {
        boolean overrun;
        run.lock.lock();
        try {
            if (run.method != Frame.EXECUTE_STREAM) throw new Frame.ProtocolException("DATA for call " + run.id + ", which is no stream");
            if (run.inboxEnded) throw new Frame.ProtocolException("DATA for call " + run.id + " after its END");
            Map<String, Object> message = Message.of(frame);
            run.inboxEnded = frame.has(Frame.END);
            overrun = run.room <= 0;
            int size = Frame.HEADER + frame.payload().length;
            run.room -= size;
            // END may come without a message. What comes for a cancelled call was under way.
            boolean says = !message.isEmpty() || !run.inboxEnded;
            if (says && !overrun && run.cancelled == null) run.inbox.add(new Run.Item(message, size));
            run.changed();
        } finally {
            run.lock.unlock();
        }
        if (overrun && run.cancelled == null) {
            run.cancel(Status.CANCELLED);
            refuse(run, Status.CANCELLED, "the host sent more than it had credit for", 0);
        }
    }

    // -- calls: in a thread of theirs ----------------------------------------------------

    private void execute(Run run, Map<String, Object> request) {
        String operation = Message.text(request, "operation");
        if (!run.enter()) {
            refuse(run, run.cancelled, "the call was cancelled", Frame.NOT_STARTED);
            return;
        }
        try {
            Plugin.Operation<S> found = plugin.operations.get(operation);
            if (found == null) throw new PluginException(Status.UNIMPLEMENTED, "there is no operation \"" + operation + "\"");
            boolean unary = run.method == Frame.EXECUTE;
            if (unary ? found.handler == null : found.stream == null) {
                throw new PluginException(Status.UNIMPLEMENTED, operation + (unary
                        ? " is a stream: call it by ExecuteStream" : " is no stream: call it by Execute"));
            }
            JsonObject params = params(request);
            if (unary) {
                Map<String, Object> answer = new LinkedHashMap<>();
                answer.put("success", true);
                answer.put("result_json", marshal(found.handler.handle(service, params, new Call(this, run, request))));
                run.leave();
                close(run, Status.OK, answer, 0);
            } else {
                found.stream.handle(service, params, new StreamCall(this, run, request));
                run.leave();
                close(run, Status.OK, null, 0);
            }
        } catch (Throwable error) { // an Error, too, is this call's alone
            run.leave();
            fail(run, error, operation, request);
        }
    }

    private static JsonObject params(Map<String, Object> request) {
        if (!Message.text(request, "params_raw").isEmpty()) {
            throw new PluginException(Status.INVALID_ARGUMENT, "MessagePack is not understood: send JSON");
        }
        return JsonObject.parse(Message.text(request, "params_json"));
    }

    static String marshal(Object result) {
        return result instanceof Json.Raw raw ? raw.text() : result == null ? "{}" : Json.write(result);
    }

    /** Send one message of a stream, once there is credit. */
    void sendItem(Run run, String message) throws InterruptedException {
        Frame frame = Frame.of(Frame.DATA, run.id, 0, 0, message);
        if (frame.payload().length > hostMaxFrame) {
            throw new TooLarge("a message of " + frame.payload().length + " bytes, the host takes " + hostMaxFrame);
        }
        run.lock.lockInterruptibly();
        try {
            while (run.credit <= 0 || run.cancelled != null) run.await();
            run.credit -= Frame.HEADER + frame.payload().length;
        } finally {
            run.lock.unlock();
        }
        Thread left = run.leave();
        if (calls.containsKey(run.id)) send(frame);
        run.back(left);
    }

    /** The next message of the client; null where there are no more. */
    JsonObject nextMessage(Run run) throws InterruptedException {
        Run.Item item;
        long credit = 0;
        run.lock.lockInterruptibly();
        try {
            while (run.inbox.isEmpty() && !run.inboxEnded || run.cancelled != null) run.await();
            item = run.inbox.poll();
            if (item == null) return null;
            run.dealtWith += item.size();
            if (!run.inboxEnded && run.dealtWith >= plugin.window / 2) {
                credit = run.dealtWith;
                run.room += credit;
                run.dealtWith = 0;
            }
        } finally {
            run.lock.unlock();
        }
        if (credit > 0) {
            Thread left = run.leave();
            if (calls.containsKey(run.id)) send(Frame.of(Frame.CREDIT, run.id, 0, credit, null));
            run.back(left);
        }
        return params(item.message());
    }

    /** A message that the host does not take. */
    private static final class TooLarge extends RuntimeException {
        private static final long serialVersionUID = 1L;

        TooLarge(String message) {
            super(message);
        }
    }

    private void fail(Run run, Throwable error, String operation, Map<String, Object> request) {
        if (error instanceof TooLarge) {
            refuse(run, Status.RESOURCE_EXHAUSTED, error.getMessage(), Frame.TOO_LARGE);
        } else if (error instanceof PluginException said) {
            refuse(run, said.status(), logs.clean(String.valueOf(said.getMessage())), 0);
        } else if (run.cancelled != null) {
            refuse(run, run.cancelled, "the call was cancelled", 0);
        } else {
            String id = String.format("%08x", ThreadLocalRandom.current().nextInt());
            String of = Message.texts(request, "metadata").get("prism-request-id");
            LOG.log(Level.SEVERE, "operation \"" + operation + "\" failed, error id " + id
                    + (of == null ? "" : ", request " + of), error);
            refuse(run, Status.INTERNAL, "the plugin failed unexpectedly; its log has the cause under error id " + id, 0);
        }
    }

    private void refuse(Run run, Status status, String error, int flags) {
        Map<String, Object> answer = new LinkedHashMap<>();
        if (run.method == Frame.HEALTH_CHECK) {
            answer.put("status", Health.State.UNHEALTHY.ordinal());
            answer.put("message", error);
        } else {
            answer.put("error", error);
            if (run.method != Frame.SHUTDOWN) answer.put("error_code", status.ordinal());
            if (run.method == Frame.EXECUTE_STREAM) answer.put("is_final", true);
        }
        close(run, status, answer, flags);
    }

    /** The one CLOSE of a call. */
    private void close(Run run, Status status, Map<String, Object> answer, int flags) {
        if (calls.remove(run.id) == null) return;
        Frame frame = Frame.of(Frame.CLOSE, run.id, flags, status.ordinal(), answer == null ? null : Json.write(answer));
        if (frame.payload().length > hostMaxFrame) {
            status = Status.RESOURCE_EXHAUSTED;
            String error = "an answer of " + frame.payload().length + " bytes, the host takes " + hostMaxFrame;
            String text = Json.write(Map.of("error", error, "error_code", status.ordinal()));
            frame = Frame.of(Frame.CLOSE, run.id, Frame.TOO_LARGE, status.ordinal(), text.length() > hostMaxFrame ? null : text);
        }
        if (run.isCall()) {
            metrics.latencyMs = (System.nanoTime() - run.began) / 1e6;
            if (status != Status.OK) metrics.requestsFailed.incrementAndGet();
        }
        (run.isCall() ? running : controls).decrementAndGet(); // before the host can open the next
        send(frame);
        if (draining && running.get() == 0) {
            synchronized (running) {
                running.notifyAll();
            }
        }
    }

    // -- the other methods ---------------------------------------------------------------

    private void control(Run run, Map<String, Object> request) {
        try {
            switch (run.method) {
                case Frame.INITIALIZE -> initialize(run, request);
                case Frame.HEALTH_CHECK -> healthCheck(run);
                default -> shutdown(run, request);
            }
        } catch (Throwable error) {
            fail(run, error, "of the kit itself", request);
        }
    }

    private void initialize(Run run, Map<String, Object> request) {
        synchronized (this) {
            if (initialized) {
                refuse(run, Status.FAILED_PRECONDITION, "Initialize came before", 0);
                return;
            }
            initialized = true;
        }
        Map<String, String> credentials = Map.copyOf(Message.texts(request, "credentials"));
        logs.keepSecret(credentials);
        try {
            JsonObject cache = cache(request);
            setup = new Setup(Message.text(request, "namespace"), Message.text(request, "backend_type"),
                    JsonObject.parse(Message.text(request, "config_json")), credentials, cache, metrics,
                    health -> soon(() -> note(Map.of("health", onTheWire(health)))));
            service = plugin.start.start(setup);
            started = true;
        } catch (PluginException error) {
            refuse(run, error.status(), logs.clean(String.valueOf(error.getMessage())), 0);
            return;
        } catch (Exception error) {
            LOG.log(Level.SEVERE, "start failed", error);
            refuse(run, Status.INTERNAL, logs.clean("start failed: " + error), 0);
            return;
        }
        serving = true;
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("success", true);
        answer.put("plugin_version", plugin.version);
        answer.put("supported_operations", plugin.operations.keySet());
        answer.put("operations", plugin.declarations());
        close(run, Status.OK, answer, 0);
    }

    @SuppressWarnings("unchecked")
    private JsonObject cache(Map<String, Object> request) {
        if (request.get("cache") == null) return null;
        if (plugin.cache) return new JsonObject((Map<String, Object>) request.get("cache"), "$");
        throw new PluginException(Status.INVALID_ARGUMENT, "this plugin keeps no cache: take `cache:` out of the namespace");
    }

    private void healthCheck(Run run) {
        Health found;
        try {
            found = serving ? plugin.health.apply(service) : Health.unhealthy("not initialized");
        } catch (RuntimeException error) {
            found = Health.unhealthy(String.valueOf(error.getMessage()));
        }
        Map<String, Object> answer = onTheWire(found);
        answer.put("metrics", metrics.onTheWire());
        close(run, Status.OK, answer, 0);
    }

    private Map<String, Object> onTheWire(Health health) {
        Map<String, String> details = new LinkedHashMap<>();
        health.details().forEach((key, value) -> details.put(key, logs.clean(value)));
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("status", health.state().ordinal());
        answer.put("message", logs.clean(health.message()));
        answer.put("details", details);
        return answer;
    }

    private void shutdown(Run run, Map<String, Object> request) {
        long seconds = Message.number(request, "timeout_seconds", 0);
        finishCalls(seconds > 0 ? TimeUnit.SECONDS.toNanos(Math.min(seconds, 86400)) : STOP_GRACE);
        String error = stop();
        close(run, error.isEmpty() ? Status.OK : Status.INTERNAL,
                error.isEmpty() ? Map.of("success", true) : Map.of("error", error), 0);
        end(Message.text(request, "reason").equals("replaced") ? Outcome.REPLACED : Outcome.SHUTDOWN);
    }

    /** Let running calls finish, and close those that do not. */
    private void finishCalls(long nanos) {
        long until = System.nanoTime() + nanos;
        synchronized (running) {
            for (long left; running.get() > 0 && outcome == null && (left = until - System.nanoTime()) > 0;) {
                try {
                    running.wait(Math.min(left / 1_000_000 + 1, 1000));
                } catch (InterruptedException error) {
                    break;
                }
            }
        }
        for (Run run : calls.values()) {
            if (!run.isCall()) continue;
            run.cancel(Status.UNAVAILABLE);
            refuse(run, Status.UNAVAILABLE, "the plugin stopped before the call had ended; it may have run", 0);
        }
    }

    /** Close the service, once; the text of what went wrong. */
    private String stop() {
        synchronized (this) {
            if (!started) return "";
            started = serving = false;
        }
        if (!(service instanceof AutoCloseable closeable)) return "";
        String[] wrong = {"it took more than 10 s"};
        Thread thread = DAEMONS.newThread(() -> {
            try {
                closeable.close();
                wrong[0] = "";
            } catch (Exception error) {
                LOG.log(Level.SEVERE, "stop failed", error);
                wrong[0] = String.valueOf(error);
            }
        });
        thread.start();
        try {
            thread.join(STOP_TIMEOUT);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
        return wrong[0].isEmpty() ? "" : logs.clean("stop failed: " + wrong[0]);
    }

    // -- writing ----------------------------------------------------------------------------

    /** Queue a frame, and write what is queued unless another thread does. Its thread has no interrupt pending. */
    private void send(Frame frame) {
        if (trace != null) trace.accept(logs.clean(frame.describe("->")));
        queue.add(frame);
        while (!queue.isEmpty() && writing.tryLock()) {
            try {
                write();
            } finally {
                writing.unlock();
            }
        }
    }

    private void write() {
        for (Frame frame; (frame = queue.poll()) != null;) {
            if (broken) continue;
            ByteBuffer bytes;
            if (Frame.HEADER + frame.payload().length > together.capacity()) {
                bytes = frame.bytes();
            } else { // of many short ones, those that are there leave together
                frame.putInto(together.clear());
                for (Frame next; (next = queue.peek()) != null && together.remaining() >= Frame.HEADER + next.payload().length;) {
                    queue.remove().putInto(together);
                }
                bytes = together.flip();
            }
            try {
                while (bytes.hasRemaining()) connection.out().write(bytes);
            } catch (IOException error) {
                broken = true; // the reader sees the end, too
            }
        }
    }

    private void note(Map<String, Object> note) {
        if (hostMaxFrame == 0 || outcome != null) return;
        Frame frame = Frame.of(Frame.NOTE, 0, 0, 0, Json.write(note));
        if (frame.payload().length <= hostMaxFrame) send(frame);
    }

    private void sendLogs() {
        for (List<Map<String, Object>> records; hostMaxFrame != 0 && outcome == null && !writing.isLocked() && !(records = logs.take()).isEmpty();) {
            note(Map.of("logs", records));
        }
    }

    /** Of a thread of ours: the one that logs, or tells, may have an interrupt pending, which would close the channel. */
    private void soon(Runnable act) {
        try {
            ticks.execute(act);
        } catch (RejectedExecutionException error) {
            // it is over
        }
    }

    private void tick() {
        if (hostMaxFrame == 0 && System.nanoTime() - begun > HANDSHAKE_TIMEOUT) {
            LOG.severe("the host did not answer HELLO in time");
            end(Outcome.REFUSED);
        }
        for (Run run : calls.values()) {
            if (run.cancelled == null && run.nanosLeft() <= 0) run.cancel(Status.DEADLINE_EXCEEDED);
            if (run.cancelled != null && System.nanoTime() - run.cancelledAt > CANCEL_GRACE && run.isCall()) {
                LOG.warning("call " + run.id + " went on 2 s after it was cancelled; its handler should heed interrupts");
                refuse(run, run.cancelled, "the call was cancelled", 0);
            }
        }
        sendLogs();
        if (++tick % METRICS_EVERY != 0) return;
        Map<String, Object> now = metrics.onTheWire();
        if (Json.write(now).equals(noted)) return;
        noted = Json.write(now);
        note(Map.of("metrics", now));
    }

    // -- the end ------------------------------------------------------------------------------

    /** Start no more calls, let the running ones finish, and end. Returns when it is over. */
    void drain(String reason) {
        draining = true;
        if (hostMaxFrame != 0 && outcome == null) {
            goAway(reason);
            send(Frame.of(Frame.PING, 0, 0, DRAIN_TOKEN, null));
            awaitUninterruptibly(drainSeen, CLOSING_TIMEOUT);
            finishCalls(STOP_GRACE);
            sendLogs();
        }
        end(Outcome.DRAINED);
        awaitUninterruptibly(over, Long.MAX_VALUE);
    }

    private void goAway(String reason) {
        send(Frame.of(Frame.GOAWAY, 0, 0, last, Json.write(Map.of("reason", reason))));
    }

    private void end(Outcome how) {
        if (!ended.compareAndSet(false, true)) return;
        if (how != Outcome.ENDED) sendLogs(); // else nobody takes them: what started this process gets them printed
        outcome = how;
        logs.forget(urgent);
        drainSeen.countDown();
        ticks.shutdown(); // without an interrupt: it may be writing
        for (Run run : calls.values()) run.cancel(Status.CANCELLED);
        calls.clear();
        control.execute(() -> {
            stop();
            try {
                if (writing.tryLock(CLOSING_TIMEOUT, TimeUnit.NANOSECONDS)) { // what is queued leaves first
                    try {
                        write();
                    } finally {
                        writing.unlock();
                    }
                }
                connection.closing().close();
            } catch (IOException | InterruptedException error) {
                LOG.log(Level.FINE, "the connection did not close well", error);
            }
            threads.shutdownNow();
            control.shutdown();
            over.countDown();
        });
    }

    private static void awaitUninterruptibly(CountDownLatch latch, long nanos) {
        try {
            if (!latch.await(nanos, TimeUnit.NANOSECONDS)) return;
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }
}
