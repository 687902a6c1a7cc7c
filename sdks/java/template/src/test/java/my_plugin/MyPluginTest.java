package my_plugin;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.prism.plugin.PluginException;
import dev.prism.plugin.RunningPlugin;
import dev.prism.plugin.Status;
import java.util.Map;
import org.junit.jupiter.api.Test;

class MyPluginTest {
    @Test
    void greets() {
        try (RunningPlugin plugin = RunningPlugin.of(MyPlugin.plugin())) {
            assertEquals(Map.of("text", "Hello, Ada!"), plugin.call("greet", Map.of("name", "Ada")));
            PluginException refused = assertThrows(PluginException.class, () -> plugin.call("greet", Map.of()));
            assertEquals(Status.INVALID_ARGUMENT, refused.status());
        }
    }
}
