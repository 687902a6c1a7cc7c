/* my-plugin is a plugin of the Prism data-access proxy. */
#include "prism_plugin.h"

/* Adds the answer to `out`; 0 where there is no name in `params`. */
static int greeting(const char *params, prism_text *out) {
    prism_text name = {0}, text = {0};
    int there = prism_json_string(prism_json_field(params, "name"), &name) && name.size > 0;
    if (there) {
        prism_add_format(&text, "Hello, %s!", name.at);
        prism_add_format(out, "{\"text\":");
        prism_add_quoted(out, text.at, text.size);
        prism_add_format(out, "}");
    }
    prism_text_free(&name);
    prism_text_free(&text);
    return there;
}

static void greet(prism_call *call, const char *params) {
    prism_text out = {0};
    if (greeting(params, &out)) prism_result(call, out.at);
    else prism_fail(call, PRISM_INVALID_ARGUMENT, "name is missing, or no text");
    prism_text_free(&out);
}

static const prism_operation operations[] = {
    {.name = "greet", .handler = greet, .quick = 1, .idempotent = 1, .access = PRISM_READ,
     .description = "Greet somebody.",
     .params_schema = "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}}, \"required\": [\"name\"]}",
     .result_schema = "{\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"}}}"},
    {0},
};

int main(int argc, char **argv) {
    static const prism_plugin plugin = {.name = "my-plugin", .version = "0.1.0", .operations = operations};
    return prism_serve(&plugin, argc, argv);
}
