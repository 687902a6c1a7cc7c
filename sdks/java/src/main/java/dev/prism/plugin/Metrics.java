package dev.prism.plugin;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

/** Counters of the contract, since the start. The kit keeps the first two and the latency. */
public final class Metrics {
    public final AtomicLong requestsTotal = new AtomicLong();
    public final AtomicLong requestsFailed = new AtomicLong();
    public final AtomicLong connectionsActive = new AtomicLong();
    public final AtomicLong connectionsIdle = new AtomicLong();
    public final AtomicLong queriesExecuted = new AtomicLong();
    public final AtomicLong cacheHits = new AtomicLong();
    public final AtomicLong cacheMisses = new AtomicLong();
    /** Any others, by name. */
    public final Map<String, Number> custom = new ConcurrentHashMap<>();
    volatile double latencyMs;

    Map<String, Object> onTheWire() {
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("requests_total", requestsTotal.get());
        all.put("requests_failed", requestsFailed.get());
        all.put("latency_ms", latencyMs);
        all.put("connections_active", connectionsActive.get());
        all.put("connections_idle", connectionsIdle.get());
        all.put("queries_executed", queriesExecuted.get());
        all.put("cache_hits", cacheHits.get());
        all.put("cache_misses", cacheMisses.get());
        if (!custom.isEmpty()) all.put("custom_metrics_json", Json.write(custom));
        return all;
    }
}
