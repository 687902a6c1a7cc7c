/*
 * A native plugin in C: `echo` answers with its parameters, `count` streams numbers.
 *
 *   cc -std=c99 -O2 -shared -fPIC -I../../../schemas/abi -o libecho.so echo.c
 *
 * Everything happens in the functions that the host calls, one at a time, so it needs no lock. What
 * waits for something would go on in a thread of its own, or say so by `threads` (prism_plugin.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prism_plugin.h"

/* A stream that is being sent: its call, and how far it is. */
typedef struct Count {
    struct Count *next;
    uint64_t call;
    long sent, to;
} Count;

typedef struct Echo {
    const prism_host *host;
    Count *counts;
} Echo;

static void complete(const Echo *self, uint64_t call, uint32_t status, const char *text)
{
    self->host->complete(self->host->context, call, status, 0, text, strlen(text));
}

static int is(prism_text text, const char *name)
{
    return text.size == strlen(name) && memcmp(text.data, name, text.size) == 0;
}

static Count **find(Echo *self, uint64_t call)
{
    Count **place = &self->counts;

    while (*place != NULL && (*place)->call != call) {
        place = &(*place)->next;
    }
    return place;
}

static void forget(Count **place)
{
    Count *count = *place;

    *place = count->next;
    free(count);
}

/* Send until all is said, or the host has enough for now: it calls `room` then. */
static void go_on(Echo *self, Count **place)
{
    const prism_host *host = self->host;
    Count *count = *place;
    char message[40];

    while (count->sent < count->to) {
        int size = snprintf(message, sizeof message, "{\"n\":%ld}", count->sent + 1);

        if (host->send(host->context, count->call, 0, message, (size_t)size, NULL, 0) !=
            PRISM_TAKEN) {
            return;
        }
        count->sent++;
    }
    complete(self, count->call, PRISM_OK, "");
    forget(place);
}

/* {"to": 3}. A real plugin has a JSON library; this one looks for digits, and takes 10 without. */
static long limit(prism_text params)
{
    long found = 0;
    size_t i;

    for (i = 0; i < params.size && found < 1000000; i++) {
        if (params.data[i] >= '0' && params.data[i] <= '9') {
            found = found * 10 + (params.data[i] - '0');
        }
    }
    return found == 0 ? 10 : found;
}

static void execute(Echo *self, const prism_request *request)
{
    const prism_host *host = self->host;

    if (request->flags & PRISM_MSGPACK) {
        complete(self, request->call, PRISM_INVALID_ARGUMENT, "this plugin reads JSON alone");
    } else if (is(request->operation, "echo")) {
        host->complete(host->context, request->call, PRISM_OK, 0, request->body.data,
                       request->body.size);
    } else if (is(request->operation, "count")) {
        Count *count = calloc(1, sizeof *count);

        if (count == NULL) {
            complete(self, request->call, PRISM_RESOURCE_EXHAUSTED, "out of memory");
            return;
        }
        count->call = request->call;
        count->to = limit(request->body);
        count->next = self->counts;
        self->counts = count;
        go_on(self, &self->counts);
    } else {
        complete(self, request->call, PRISM_UNIMPLEMENTED, "there is no such operation");
    }
}

static void *create(const prism_host *host)
{
    Echo *self = host->abi == PRISM_ABI ? calloc(1, sizeof *self) : NULL;

    if (self != NULL) {
        self->host = host;
    }
    return self;
}

static void open_call(void *plugin, const prism_request *request)
{
    Echo *self = plugin;

    switch (request->method) {
    case PRISM_INITIALIZE: /* `body` has the configuration and the credentials */
        complete(self, request->call, PRISM_OK,
                 "{\"operations\": [{\"name\": \"echo\", \"idempotent\": true, \"access\": 1},"
                 " {\"name\": \"count\", \"streaming\": true, \"access\": 1}]}");
        break;
    case PRISM_HEALTH_CHECK:
        complete(self, request->call, PRISM_OK, "{\"status\": 0}");
        break;
    case PRISM_SHUTDOWN:
        complete(self, request->call, PRISM_OK, "");
        break;
    default:
        execute(self, request);
    }
}

/* The client's further messages: it gets none, since it never calls `want`. */
static void data(void *plugin, uint64_t call, uint32_t flags, const char *body, size_t size)
{
    (void)plugin, (void)call, (void)flags, (void)body, (void)size;
}

static void cancel(void *plugin, uint64_t call, uint32_t status)
{
    Echo *self = plugin;
    Count **place = find(self, call);

    if (*place != NULL) { /* else it was completed already */
        forget(place);
        complete(self, call, status, "");
    }
}

static void room(void *plugin, uint64_t call)
{
    Echo *self = plugin;
    Count **place = find(self, call);

    if (*place != NULL) {
        go_on(self, place);
    }
}

static void destroy(void *plugin)
{
    free(plugin); /* no call is open, so there is no Count */
}

const prism_plugin *prism_plugin_v1(void)
{
    static const prism_plugin table = {
        PRISM_ABI, sizeof table, 0,      0,    "echo", "1.0.0",
        create,    open_call,    data,   cancel, room,   destroy,
    };

    return &table;
}
