package my_plugin;

import dev.prism.plugin.Call;
import dev.prism.plugin.JsonObject;
import dev.prism.plugin.Plugin;
import dev.prism.plugin.Plugin.Access;
import dev.prism.plugin.Setup;

/** A plugin of the Prism data-access proxy. */
public final class MyPlugin {
    record Greeting(String text) { }

    private MyPlugin(Setup setup) {
        // Connect here: setup has the configuration and the credentials. An AutoCloseable is closed at the end.
    }

    Greeting greet(JsonObject params, Call call) {
        return new Greeting("Hello, " + params.text("name") + "!");
    }

    static Plugin<MyPlugin> plugin() {
        return Plugin.of("my-plugin", "0.1.0", MyPlugin::new)
                .operation("greet", MyPlugin::greet, it -> it.idempotent().access(Access.READ).description("Greet somebody.")
                        .paramsSchema("""
                            {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}""")
                        .resultSchema("""
                            {"type": "object", "properties": {"text": {"type": "string"}}}"""));
    }

    public static void main(String[] args) {
        plugin().serve(args);
    }
}
