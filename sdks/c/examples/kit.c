/* The example that every kit has, with the same operations: sdks/README.md says what each does. */
#define _POSIX_C_SOURCE 200809L
#include "prism_plugin.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_long was_cancelled;

/* A field that is a number: what it is, or `usual` where it is missing; NaN, and the call has failed. */
static double number(prism_call *call, const char *params, const char *name, double usual) {
    const char *value = prism_json_field(params, name);
    if (value != NULL && !prism_json_number(value, &usual)) {
        prism_fail(call, PRISM_INVALID_ARGUMENT, "expected a number - at `$.%s`", name);
        return NAN;
    }
    return usual;
}

static void result(prism_call *call, prism_text *text) {
    prism_result(call, text->at);
    prism_text_free(text);
}

static void echo(prism_call *call, const char *params) { prism_result(call, params); }

static void fail(prism_call *call, const char *params) {
    prism_text words = {0};
    prism_add(&words, "", 0);
    double code = number(call, params, "code", PRISM_UNKNOWN);
    if (!isnan(code) && prism_json_string(prism_json_field(params, "message"), &words))
        prism_fail(call, (prism_status)code, "%s", words.at);
    else if (!isnan(code))
        prism_fail(call, PRISM_INVALID_ARGUMENT, "expected text - at `$.message`");
    prism_text_free(&words);
}

static void no_answer(prism_call *call, const char *params) { (void)call, (void)params; }

static void sleeps(prism_call *call, const char *params) {
    double seconds = number(call, params, "seconds", 0);
    if (isnan(seconds)) return;
    if (prism_wait(call, seconds) == PRISM_OK) prism_result(call, "{}");
    else atomic_fetch_add(&was_cancelled, 1);
}

static void cancelled(prism_call *call, const char *params) {
    (void)params;
    prism_text out = {0};
    prism_add_format(&out, "{\"count\":%ld}", atomic_load(&was_cancelled));
    result(call, &out);
}

static void count(prism_call *call, const char *params) {
    double to = number(call, params, "to", 0), size = number(call, params, "size", 0);
    if (isnan(to) || isnan(size)) return;
    char *padding = calloc(1, (size_t)size + 1);
    if (padding == NULL) { prism_fail(call, PRISM_RESOURCE_EXHAUSTED, "so much padding is not to be had"); return; }
    memset(padding, 'x', (size_t)size);
    for (long n = 1; n <= (long)to; n++) {
        prism_text out = {0};
        if (size > 0) prism_add_format(&out, "{\"n\":%ld,\"padding\":\"%s\"}", n, padding);
        else prism_add_format(&out, "{\"n\":%ld}", n);
        prism_status status = prism_send(call, out.at, NULL);
        prism_text_free(&out);
        if (status != PRISM_OK) break;
    }
    free(padding);
}

static void sum(prism_call *call, const char *params) {
    double total = 0;
    for (; params != NULL; params = prism_receive(call)) {
        double n = number(call, params, "n", 0);
        if (isnan(n)) return;
        total += n;
    }
    if (prism_ended(call) != PRISM_OK) return;
    prism_text out = {0};
    prism_add_format(&out, "{\"sum\":%.15g}", total);
    prism_send(call, out.at, NULL);
    prism_text_free(&out);
}

static void big(prism_call *call, const char *params) {
    double bytes = number(call, params, "bytes", 0);
    if (isnan(bytes)) return;
    prism_text out = {0};
    prism_add_format(&out, "{\"data\":\"%0*d\"}", (int)bytes, 0);
    memset(out.at + 9, 'x', (size_t)bytes);
    result(call, &out);
}

static void add_field(prism_text *out, const char *name, const char *text) {
    prism_add_format(out, ",\"%s\":", name);
    prism_add_quoted(out, text, strlen(text));
}

static void whoami(prism_call *call, const char *params) {
    (void)params;
    prism_text out = {0};
    prism_add_format(&out, "{\"metadata\":%s", prism_metadata_json(call));
    add_field(&out, "principal", prism_principal(call));
    add_field(&out, "request_id", prism_request_id(call));
    add_field(&out, "namespace", prism_namespace(prism_session_of(call)));
    prism_add(&out, "}", 1);
    result(call, &out);
}

static void secret(prism_call *call, const char *params) {
    (void)params;
    int there = prism_credential(prism_session_of(call), "password") != NULL;
    prism_result(call, there ? "{\"password\":true}" : "{\"password\":false}");
}

static void logs(prism_call *call, const char *params) {
    static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
    prism_text words = {0}, level = {0};
    prism_level at = PRISM_INFO;
    prism_json_string(prism_json_field(params, "message"), &words);
    prism_json_string(prism_json_field(params, "level"), &level);
    for (int i = 0; i < 4; i++)
        if (level.at != NULL && strcmp(level.at, names[i]) == 0) at = (prism_level)i;
    prism_log(prism_session_of(call), at, "%s", words.at != NULL ? words.at : "");
    prism_text_free(&words);
    prism_text_free(&level);
    prism_result(call, "{}");
}

static const prism_operation operations[] = {
    {.name = "echo", .handler = echo, .quick = 1, .idempotent = 1, .access = PRISM_READ, .description = "Say it again.",
     .params_schema = "{\"type\": \"object\"}", .result_schema = "{\"type\": \"object\"}"},
    {.name = "fail", .handler = fail, .quick = 1, .access = PRISM_READ},
    {.name = "panic", .handler = no_answer, .access = PRISM_READ},
    {.name = "sleep", .handler = sleeps, .access = PRISM_READ},
    {.name = "cancelled", .handler = cancelled, .quick = 1, .idempotent = 1, .access = PRISM_READ},
    {.name = "count", .handler = count, .streaming = 1, .idempotent = 1, .access = PRISM_READ},
    {.name = "sum", .handler = sum, .streaming = 1, .idempotent = 1, .access = PRISM_READ},
    {.name = "big", .handler = big, .idempotent = 1, .access = PRISM_READ},
    {.name = "whoami", .handler = whoami, .idempotent = 1, .access = PRISM_READ},
    {.name = "secret", .handler = secret, .idempotent = 1, .access = PRISM_READ},
    {.name = "log", .handler = logs, .access = PRISM_WRITE},
    {0},
};

int main(int argc, char **argv) {
    static const prism_plugin plugin = {.name = "kit", .version = "1.0.0", .operations = operations};
    return prism_serve(&plugin, argc, argv);
}
