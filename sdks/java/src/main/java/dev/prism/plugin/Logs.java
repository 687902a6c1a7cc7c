package dev.prism.plugin;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Comparator;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.logging.Formatter;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.SimpleFormatter;
import java.util.regex.Pattern;

/** The handler of java.util.logging that keeps records until a session takes them for a NOTE. */
final class Logs extends Handler {
    private static final int MAX_PENDING = 1000; // records; beyond it the oldest are dropped and counted
    private static final int MAX_RECORDS = 100; // in one NOTE
    private static final int MAX_TEXT = 16384; // characters in one NOTE, whose frame a host may want small
    private static final int MAX_MESSAGE = 8192;
    /** Credentials that are the names of users, which are no secrets. */
    private static final Pattern USER =
            Pattern.compile("(^|[_.-])(user([_-]?(name|id))?|login|client[_-]?id)$", Pattern.CASE_INSENSITIVE);

    private final boolean echo;
    private final Formatter formatter = new SimpleFormatter();
    private final Deque<Map<String, Object>> pending = new ArrayDeque<>();
    private final List<Runnable> urgent = new CopyOnWriteArrayList<>();
    private volatile List<String> secrets = List.of();
    private int dropped;

    /** {@code echo}: write each to standard error, too. */
    Logs(Level level, boolean echo) {
        this.echo = echo;
        setLevel(level);
    }

    void listen(Runnable send) {
        urgent.add(send);
    }

    void forget(Runnable send) {
        urgent.remove(send);
    }

    /** Hide these values in all that is logged or told from now on. */
    synchronized void keepSecret(Map<String, String> credentials) {
        TreeSet<String> all = new TreeSet<>(Comparator.comparingInt(String::length).reversed().thenComparing(Comparator.naturalOrder()));
        all.addAll(secrets);
        credentials.forEach((name, value) -> {
            if (value.isEmpty() || USER.matcher(name).find()) return;
            String quoted = Json.write(value);
            all.addAll(List.of(value, URLEncoder.encode(value, StandardCharsets.UTF_8), quoted.substring(1, quoted.length() - 1),
                    Base64.getEncoder().encodeToString(value.getBytes(StandardCharsets.UTF_8))));
        });
        secrets = List.copyOf(all);
    }

    /** Text without the credentials that have come. */
    String clean(String text) {
        for (String secret : secrets) text = text.replace(secret, "[redacted]");
        return text;
    }

    @Override
    public void publish(LogRecord record) {
        if (!isLoggable(record)) return;
        String message = formatter.formatMessage(record);
        if (record.getThrown() != null) {
            StringWriter stack = new StringWriter();
            record.getThrown().printStackTrace(new PrintWriter(stack));
            message += "\n" + stack.toString().strip();
        }
        message = clean(message);
        int level = record.getLevel().intValue();
        Map<String, Object> kept = record(message.length() > MAX_MESSAGE ? message.substring(0, MAX_MESSAGE) : message,
                level >= 1000 ? "ERROR" : level >= 900 ? "WARNING" : level >= 800 ? "INFO" : "DEBUG",
                record.getLoggerName() == null ? "" : record.getLoggerName(), record.getMillis() / 1e3);
        if (echo) print(kept);
        synchronized (pending) {
            if (pending.size() == MAX_PENDING) {
                pending.remove();
                dropped++;
            }
            pending.add(kept);
        }
        if (level >= 1000) urgent.forEach(Runnable::run); // it may be a process's last words
    }

    private static Map<String, Object> record(String message, String level, String logger, double time) {
        Map<String, Object> record = new LinkedHashMap<>();
        record.put("message", message);
        record.put("level", level);
        record.put("logger", logger);
        record.put("time", time);
        return record;
    }

    private static void print(Map<String, Object> record) {
        System.err.println(record.get("level") + " " + record.get("logger") + ": " + record.get("message"));
    }

    /** The oldest records, as many as one NOTE takes. */
    List<Map<String, Object>> take() {
        List<Map<String, Object>> records = new ArrayList<>();
        synchronized (pending) {
            for (int size = 0; !pending.isEmpty() && records.size() < MAX_RECORDS && size < MAX_TEXT;) {
                records.add(pending.remove());
                size += ((String) records.get(records.size() - 1).get("message")).length();
            }
            if (dropped > 0) {
                records.add(record(dropped + " log records were dropped: too many at once", "WARNING", "prism.sdk",
                        System.currentTimeMillis() / 1e3));
                dropped = 0;
            }
        }
        return records;
    }

    @Override
    public void flush() { }

    /** Write to standard error what no host has taken. */
    @Override
    public void close() {
        for (List<Map<String, Object>> records; !(records = take()).isEmpty();) if (!echo) records.forEach(Logs::print);
    }
}
