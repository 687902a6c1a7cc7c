package dev.prism.plugin;

import java.util.Map;

/** What a plugin says of itself: degraded keeps its traffic, unhealthy loses it. */
public record Health(State state, String message, Map<String, String> details) {
    public enum State { HEALTHY, DEGRADED, UNHEALTHY }

    public static Health healthy() {
        return new Health(State.HEALTHY, "", Map.of());
    }

    public static Health degraded(String message) {
        return new Health(State.DEGRADED, message, Map.of());
    }

    public static Health unhealthy(String message) {
        return new Health(State.UNHEALTHY, message, Map.of());
    }

    public Health with(Map<String, String> details) {
        return new Health(state, message, Map.copyOf(details));
    }
}
