package dev.prism.plugin;

import java.util.Map;
import java.util.function.Consumer;

/**
 * What the namespace's configuration says.
 *
 * @param namespace its name
 * @param backendType its {@code backend}
 * @param config its {@code config:} block
 * @param credentials its {@code credentials:} block with the secrets, which come only this way: do not log them
 * @param cache its {@code cache:} block, for a plugin that says {@link Plugin#keepsCache}; null without one
 * @param metrics to be set or added to
 * @param tellHealth tells the proxy of a change at once; it asks at intervals anyway
 */
public record Setup(String namespace, String backendType, JsonObject config, Map<String, String> credentials,
        JsonObject cache, Metrics metrics, Consumer<Health> tellHealth) {
    @Override
    public String toString() {
        return "Setup[" + namespace + "]"; // not the credentials
    }
}
