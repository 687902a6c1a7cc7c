/*
 * The channel suite's plugin as a library, and one that does all kinds of things wrong.
 *
 * Built with -D: THREADS=n (what the table says), ABI=n, SIZE=n, NULL_OPEN, NO_SYMBOL, NO_TABLE,
 * NO_PLUGIN, VERSION="...". What its configuration names it does: fail_start, hang_start, hang_stop,
 * talk_after_stop.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../schemas/abi/prism_plugin.h"

#ifndef THREADS
#define THREADS 0
#endif
#ifndef ABI
#define ABI PRISM_ABI
#endif
#ifndef SIZE
#define SIZE sizeof(prism_plugin)
#endif
#ifndef VERSION
#define VERSION "1.2"
#endif

#define OPERATIONS \
    "{\"operations\":[{\"name\":\"echo\",\"idempotent\":true},{\"name\":\"big\"},{\"name\":\"fail\"}," \
    "{\"name\":\"seen\"},{\"name\":\"wait\"},{\"name\":\"time_left\"},{\"name\":\"metadata\"}," \
    "{\"name\":\"count\",\"streaming\":true},{\"name\":\"flood\",\"streaming\":true}," \
    "{\"name\":\"break_off\",\"streaming\":true},{\"name\":\"chat\",\"streaming\":true}," \
    "{\"name\":\"later\"},{\"name\":\"hang\"},{\"name\":\"crash\"},{\"name\":\"abort\"}," \
    "{\"name\":\"never\"},{\"name\":\"twice\"},{\"name\":\"unknown_call\"}," \
    "{\"name\":\"not_json\"},{\"name\":\"not_utf8\"},{\"name\":\"print\"},{\"name\":\"talk\"}," \
    "{\"name\":\"notes\"},{\"name\":\"version\"},{\"name\":\"empty\"},{\"name\":\"slow\"}]," \
    "\"groups\":[\"probing\"]}"

typedef struct Open {
    struct Open *next;
    uint64_t call;
    long n, sent; /* of a producer; n < 0: of a call that waits for its cancel */
    char *message;
} Open;

typedef struct Probe {
    const prism_host *host;
    pthread_mutex_t lock;
    Open *open;
    long cancelled, waiting, sent;
    bool hangs_at_stop, talks_after_stop;
} Probe;

typedef struct Late {
    Probe *probe;
    const prism_host *host;
    uint64_t call;
    long milliseconds;
} Late;

static int complete(Probe *self, uint64_t call, uint32_t status, const char *text)
{
    return self->host->complete(self->host->context, call, status, 0, text, strlen(text));
}

static int is(const prism_request *request, const char *name)
{
    return request->operation.size == strlen(name) &&
           memcmp(request->operation.data, name, strlen(name)) == 0;
}

static bool has(const prism_request *request, const char *word)
{
    return memmem(request->body.data, request->body.size, word, strlen(word)) != NULL;
}

/* The number in {"n": 5}, or 0. */
static long number(const char *body, size_t size)
{
    const char *found = memmem(body, size, "\"n\":", 4);

    return found == NULL ? 0 : atol(found + 4);
}

/* The JSON string in {"text": "..."}, with its quotes, without the last if `inside`; to be freed. */
static char *text_of(const char *body, size_t size, bool inside)
{
    const char *found = memmem(body, size, "\"text\":", 7), *end;

    if (found == NULL) {
        return strdup(inside ? "" : "\"\"");
    }
    found = strchr(found + 7, '"');
    for (end = found + 1; *end != '"'; end++) {
        end += *end == '\\';
    }
    return inside ? strndup(found + 1, (size_t)(end - found - 1))
                  : strndup(found, (size_t)(end - found + 1));
}

static void remember(Probe *self, uint64_t call, long n, char *message)
{
    Open *open = calloc(1, sizeof *open);

    *open = (Open){self->open, call, n, 0, message};
    self->open = open;
}

static Open **find(Probe *self, uint64_t call)
{
    Open **place = &self->open;

    while (*place != NULL && (*place)->call != call) {
        place = &(*place)->next;
    }
    return place;
}

static void forget(Probe *self, uint64_t call)
{
    Open **place = find(self, call), *open = *place;

    if (open != NULL) {
        *place = open->next;
        free(open->message);
        free(open);
    }
}

/* Send what a producer has, as far as the host takes it. With the lock held. */
static void produce(Probe *self, Open *open)
{
    const prism_host *host = self->host;

    for (; open->message != NULL || open->sent < open->n; open->sent++) {
        char text[32];
        const char *message = open->message;

        if (message == NULL) {
            snprintf(text, sizeof text, "%ld", open->sent);
            message = text;
        }
        if (host->send(host->context, open->call, 0, message, strlen(message), "", 0) !=
            PRISM_TAKEN) {
            return;
        }
        self->sent += open->message != NULL;
    }
    complete(self, open->call, PRISM_OK, "");
    forget(self, open->call);
}

static void *answer_late(void *argument)
{
    Late *late = argument;

    usleep((useconds_t)late->milliseconds * 1000);
    complete(late->probe, late->call, PRISM_OK, "{\"late\":true}");
    free(late);
    return NULL;
}

static void *talk_on(void *argument)
{
    Late *late = argument;
    const prism_host *host = late->host;

    for (int i = 0; i < 300; i++) {
        usleep(1000);
        host->log(host->context, PRISM_INFO, "still here", 10);
        host->complete(host->context, late->call, PRISM_OK, 0, "{}", 2);
        host->complete(host->context, late->call + 1000, PRISM_OK, 0, "{}", 2);
        host->send(host->context, late->call, 0, "1", 1, "", 0);
        host->want(host->context, late->call, 1);
        host->note(host->context, "{}", 2);
    }
    free(late);
    return NULL;
}

static void start_thread(void *(*run)(void *), Probe *self, uint64_t call, long milliseconds)
{
    Late *late = calloc(1, sizeof *late);
    pthread_t thread;

    *late = (Late){self, self->host, call, milliseconds};
    if (pthread_create(&thread, NULL, run, late) == 0) {
        pthread_detach(thread);
    }
}

static void wait_for_ever(void)
{
    for (;;) {
        pause();
    }
}

static void initialize(Probe *self, const prism_request *request)
{
    self->hangs_at_stop = has(request, "hang_stop");
    self->talks_after_stop = has(request, "talk_after_stop");
    if (has(request, "hang_start")) {
        wait_for_ever();
    } else if (has(request, "fail_start")) {
        complete(self, request->call, PRISM_INVALID_ARGUMENT, "there is no table 'fail_start'");
    } else {
        complete(self, request->call, PRISM_OK, OPERATIONS);
    }
}

static void stop(Probe *self, const prism_request *request)
{
    if (self->hangs_at_stop) {
        return; /* and never completes it */
    }
    if (self->talks_after_stop) {
        start_thread(talk_on, self, request->call, 0);
    }
    self->host->log(self->host->context, PRISM_INFO, "stopping", 8);
    complete(self, request->call, PRISM_OK, "");
}

/* Operations of the suite; false: it is none of them. With the lock held. */
static bool execute(Probe *self, const prism_request *request)
{
    const prism_host *host = self->host;
    const char *body = request->body.data;
    size_t size = request->body.size;
    char text[256], *given;

    if (is(request, "echo")) {
        host->complete(host->context, request->call, PRISM_OK, request->flags & PRISM_MSGPACK, body,
                       size);
    } else if (is(request, "metadata")) {
        host->complete(host->context, request->call, PRISM_OK, 0, request->metadata.data,
                       request->metadata.size);
    } else if (is(request, "fail")) {
        given = text_of(body, size, true);
        complete(self, request->call, PRISM_NOT_FOUND, given);
        free(given);
    } else if (is(request, "seen")) {
        snprintf(text, sizeof text, "{\"cancelled\":%ld,\"sent\":%ld,\"waiting\":%ld}",
                 self->cancelled, self->sent, self->waiting);
        complete(self, request->call, PRISM_OK, text);
    } else if (is(request, "wait")) {
        self->waiting++;
        remember(self, request->call, -1, NULL);
    } else if (is(request, "time_left")) {
        snprintf(text, sizeof text, "%f",
                 request->milliseconds == 0 ? 1e6 : request->milliseconds / 1000.0);
        complete(self, request->call, PRISM_OK, text);
    } else if (is(request, "big") || is(request, "flood")) {
        long n = number(body, size);
        char *big = malloc((size_t)n + 3);

        memset(big, 'x', (size_t)n + 2);
        big[0] = big[n + 1] = '"';
        big[n + 2] = 0;
        if (is(request, "big")) {
            complete(self, request->call, PRISM_OK, big);
            free(big);
        } else {
            remember(self, request->call, 0, big);
            produce(self, self->open);
        }
    } else if (is(request, "count")) {
        remember(self, request->call, number(body, size), NULL);
        produce(self, self->open);
    } else if (is(request, "break_off")) {
        snprintf(text, sizeof text, "%ld", number(body, size));
        host->send(host->context, request->call, 0, text, strlen(text), "here", 4);
        complete(self, request->call, PRISM_DATA_LOSS, "broken off");
    } else if (is(request, "chat")) {
        given = text_of(body, size, false);
        host->send(host->context, request->call, 0, given, strlen(given), "", 0);
        free(given);
        remember(self, request->call, -2, NULL);
        host->want(host->context, request->call, 1);
    } else {
        return false;
    }
    return true;
}

static void misbehave(Probe *self, const prism_request *request)
{
    const prism_host *host = self->host;
    uint64_t call = request->call;

    if (is(request, "later")) {
        start_thread(answer_late, self, call, number(request->body.data, request->body.size));
    } else if (is(request, "slow")) {
        usleep((useconds_t)number(request->body.data, request->body.size) * 1000);
        complete(self, call, PRISM_OK, "{}");
    } else if (is(request, "hang")) {
        wait_for_ever();
    } else if (is(request, "crash")) {
        *(volatile int *)8 = 1;
    } else if (is(request, "abort")) {
        abort();
    } else if (is(request, "twice")) {
        complete(self, call, PRISM_OK, "{\"first\":true}");
        complete(self, call, PRISM_OK, "{\"first\":false}");
    } else if (is(request, "unknown_call")) {
        complete(self, call + 1000, PRISM_OK, "{}");
        complete(self, call, PRISM_OK, "{}");
    } else if (is(request, "not_json")) {
        complete(self, call, PRISM_OK, "{\"a\":}");
    } else if (is(request, "not_utf8")) {
        complete(self, call, PRISM_OK, "{\"a\":\"\xff\"}");
    } else if (is(request, "print")) {
        printf("printed on standard output\n");
        fflush(stdout);
        complete(self, call, PRISM_OK, "{}");
    } else if (is(request, "talk")) {
        for (long i = 0; i < 3000; i++) {
            host->log(host->context, PRISM_INFO, "line", 4);
        }
        complete(self, call, PRISM_OK, "{}");
    } else if (is(request, "notes")) {
        const char *note = "{\"logs\":[{\"message\":\"noted\",\"level\":\"WARNING\"}],\"metrics\":"
                           "{\"cache_hits\":7,\"custom_metrics_json\":\"{\\\"x\\\":1.5}\"},"
                           "\"health\":{\"status\":1,\"message\":\"lags\"}}";
        host->note(host->context, note, strlen(note));
        host->note(host->context, "nonsense", 8);
        complete(self, call, PRISM_OK, "{}");
    } else if (is(request, "version")) {
        complete(self, call, PRISM_OK, "\"" VERSION "\"");
    } else if (is(request, "empty")) {
        complete(self, call, PRISM_OK, "");
    } /* "never" */
}

static void *create(const prism_host *host)
{
#ifdef NO_PLUGIN
    host->log(host->context, PRISM_ERROR, "there is no licence", 19);
    return NULL;
#else
    Probe *self = calloc(1, sizeof *self);

    self->host = host;
    pthread_mutex_init(&self->lock, NULL);
    return self;
#endif
}

static void open_call(void *plugin, const prism_request *request)
{
    Probe *self = plugin;
    bool done;

    switch (request->method) {
    case PRISM_INITIALIZE:
        initialize(self, request);
        return;
    case PRISM_HEALTH_CHECK:
        complete(self, request->call, PRISM_OK, "{\"status\":0,\"details\":{\"kind\":\"probe\"}}");
        return;
    case PRISM_SHUTDOWN:
        stop(self, request);
        return;
    default:
        pthread_mutex_lock(&self->lock);
        done = execute(self, request);
        pthread_mutex_unlock(&self->lock);
        if (!done) {
            misbehave(self, request);
        }
    }
}

static void data(void *plugin, uint64_t call, uint32_t flags, const char *body, size_t size)
{
    Probe *self = plugin;
    const prism_host *host = self->host;
    char *text;

    pthread_mutex_lock(&self->lock);
    if (*find(self, call) == NULL) {
        host->log(host->context, PRISM_ERROR, "data of a call that is over", 27);
    }
    if (size > 0) {
        text = text_of(body, size, false);
        host->send(host->context, call, 0, text, strlen(text), "", 0);
        host->want(host->context, call, 1);
        free(text);
    }
    if (flags & PRISM_END) {
        host->send(host->context, call, 0, "\"bye\"", 5, "", 0);
        forget(self, call);
        complete(self, call, PRISM_OK, "");
    }
    pthread_mutex_unlock(&self->lock);
}

static void cancel(void *plugin, uint64_t call, uint32_t status)
{
    Probe *self = plugin;

    pthread_mutex_lock(&self->lock);
    if (*find(self, call) != NULL) {
        self->cancelled += (*find(self, call))->n != -2; /* a chat's cancel is not counted */
        forget(self, call);
        complete(self, call, status, "");
    }
    pthread_mutex_unlock(&self->lock);
}

static void room(void *plugin, uint64_t call)
{
    Probe *self = plugin;

    pthread_mutex_lock(&self->lock);
    if (*find(self, call) != NULL) {
        produce(self, *find(self, call));
    }
    pthread_mutex_unlock(&self->lock);
}

static void destroy(void *plugin)
{
    Probe *self = plugin;

    while (self->open != NULL) {
        forget(self, self->open->call);
    }
    pthread_mutex_destroy(&self->lock);
    free(self);
}

static const prism_plugin table = {
    .abi = ABI,
    .size = SIZE,
    .threads = THREADS,
    .name = "probe",
    .version = VERSION,
    .create = create,
#ifndef NULL_OPEN
    .open = open_call,
#endif
    .data = data,
    .cancel = cancel,
    .room = room,
    .destroy = destroy,
};

#ifdef NO_SYMBOL
const void *another_symbol(void)
{
    return &table;
}
#elif defined(NO_TABLE)
const prism_plugin *prism_plugin_v1(void)
{
    return table.name == NULL ? &table : NULL;
}
#else
const prism_plugin *prism_plugin_v1(void)
{
    return &table;
}
#endif
