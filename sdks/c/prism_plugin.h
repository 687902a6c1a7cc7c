/* Serves plugins of the Prism data-access proxy: C11, POSIX threads, no other library.
 *
 * A plugin is a table of operations. prism_serve is the whole main program: it meets the proxy,
 * calls a handler for each call in a thread, answers it exactly once, and ends when it should.
 * Handlers run at the same time: what they share needs a lock of yours. Texts that the kit hands
 * out end with '\0' and live until the handler returns, those of a session until its stop. */
#ifndef PRISM_PLUGIN_H
#define PRISM_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PRISM_PROTOCOL 1       /* the version of the frame protocol that this kit speaks */
#define PRISM_VERSION "0.1.0"  /* of the kit, and of the proxy that it came with */

typedef enum prism_status { /* gRPC's: how a call ended */
    PRISM_OK, PRISM_CANCELLED, PRISM_UNKNOWN, PRISM_INVALID_ARGUMENT, PRISM_DEADLINE_EXCEEDED,
    PRISM_NOT_FOUND, PRISM_ALREADY_EXISTS, PRISM_PERMISSION_DENIED, PRISM_RESOURCE_EXHAUSTED,
    PRISM_FAILED_PRECONDITION, PRISM_ABORTED, PRISM_OUT_OF_RANGE, PRISM_UNIMPLEMENTED,
    PRISM_INTERNAL, PRISM_UNAVAILABLE, PRISM_DATA_LOSS, PRISM_UNAUTHENTICATED
} prism_status;

typedef enum prism_access { PRISM_UNDECLARED, PRISM_READ, PRISM_WRITE, PRISM_ADMIN } prism_access;
typedef enum prism_health { PRISM_HEALTHY, PRISM_DEGRADED, PRISM_UNHEALTHY } prism_health;
typedef enum prism_level { PRISM_DEBUG, PRISM_INFO, PRISM_WARNING, PRISM_ERROR } prism_level;

typedef struct prism_call prism_call;
typedef struct prism_session prism_session; /* one proxy, from Initialize to its end */

/* -- text that grows; free its `at` with prism_text_free ---------------------------------- */

typedef struct prism_text { char *at; size_t size, room; } prism_text;

void prism_add(prism_text *text, const char *bytes, size_t size);
void prism_add_format(prism_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void prism_add_quoted(prism_text *text, const char *bytes, size_t size); /* as a JSON string */
void prism_text_free(prism_text *text);

/* -- JSON, read in place ------------------------------------------------------------------- */

/* Whether text is one JSON object (UTF-8), and nothing else. */
int prism_json_is_object(const char *text);
/* Where the value of a field begins, of an object that is one; NULL if it has none. */
const char *prism_json_field(const char *object, const char *name);
/* Behind the value that begins at `value`. */
const char *prism_json_end(const char *value);
/* The text of a JSON string, added to `out`; 0 if the value is none. */
int prism_json_string(const char *value, prism_text *out);
/* The number; 0 if the value is none. */
int prism_json_number(const char *value, double *out);

/* -- what a plugin is ---------------------------------------------------------------------- */

/* `params` is one JSON object. A handler of a unary operation calls prism_result or prism_fail;
 * one that returns without has failed (INTERNAL). One of a stream sends, and returns. */
typedef void prism_handler(prism_call *call, const char *params);

typedef struct prism_operation {
    const char *name;        /* 1 to 64 lower-case letters, digits and underscores, a letter first */
    prism_handler *handler;
    int streaming;           /* called as a stream alone */
    int quick;               /* never waits: it runs where calls are read, at half the price */
    int idempotent;          /* to call it twice equals calling it once: the proxy may repeat it */
    prism_access access;     /* what callers need; undeclared counts as write */
    int cost;                /* of a rate limit; 0 stands for 1 */
    const char *description, *params_schema, *result_schema; /* for people; JSON Schemas */
} prism_operation;

typedef struct prism_plugin {
    const char *name, *version;
    const prism_operation *operations; /* the last one has no name */
    /* Called before the first call: open what the backend needs, and keep it with prism_set_state.
     * Anything but PRISM_OK refuses the plugin, with `error` for the operator. */
    prism_status (*start)(prism_session *session, prism_text *error);
    void (*stop)(prism_session *session); /* after start was good, at the end */
    prism_health (*health)(prism_session *session, prism_text *message);
    uint32_t max_streams; /* calls, and threads, at a time; 0 stands for 256 */
    uint32_t max_frame;   /* bytes of a message to the plugin; 0 stands for 16 MiB */
    uint32_t window;      /* bytes of a stream's messages not yet received; 0: 256 KiB */
} prism_plugin;

/* The main program: returns the exit status. How it meets the proxy, in this order: --connect
 * unix:PATH or --listen unix:PATH or tcp:HOST:PORT (with --insecure, on loopback; this kit has no
 * TLS: put a terminator before it), PRISM_PLUGIN_FD, PLUGIN_SOCKET. */
int prism_serve(const prism_plugin *plugin, int argc, char **argv);

/* -- what a handler can do ------------------------------------------------------------------ */

void prism_result(prism_call *call, const char *json);
void prism_fail(prism_call *call, prism_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* PRISM_OK, or why the caller waits no longer: PRISM_CANCELLED, PRISM_DEADLINE_EXCEEDED. */
prism_status prism_ended(prism_call *call);
prism_status prism_wait(prism_call *call, double seconds); /* sleeps; the same, as soon as so */
double prism_time_left(prism_call *call);                  /* seconds; huge without a deadline */

const char *prism_operation_name(prism_call *call);
const char *prism_metadata(prism_call *call, const char *key); /* "" where there is none */
const char *prism_metadata_json(prism_call *call);             /* all of it, an object */
const char *prism_principal(prism_call *call);                 /* who calls; "" for nobody */
const char *prism_request_id(prism_call *call);
prism_session *prism_session_of(prism_call *call);

/* Of streams. Sends a message, when the client has taken enough of those before; `position`
 * lets a later stream resume after it, and may be NULL. PRISM_OK, or why the call is over. */
prism_status prism_send(prism_call *call, const char *json, const char *position);
/* The client's next message, an object, until the next one; NULL: there are no more, or the call
 * is over. */
const char *prism_receive(prism_call *call);

/* -- of a session ---------------------------------------------------------------------------- */

const char *prism_namespace(prism_session *session);
const char *prism_config(prism_session *session);                         /* a JSON object */
const char *prism_credential(prism_session *session, const char *name);   /* NULL: none */
void prism_set_state(prism_session *session, void *state);
void *prism_state(prism_session *session);
void prism_log(prism_session *session, prism_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void prism_metric(prism_session *session, const char *name, double value); /* of your own */
void prism_report(prism_session *session, prism_health health, const char *message);

#ifdef __cplusplus
}
#endif
#endif
