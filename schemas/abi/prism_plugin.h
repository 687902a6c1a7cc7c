/*
 * prism_plugin.h: the C interface of Prism's native plugins, version 1.
 *
 * A native plugin is a shared library (`library: libecho.so`) that exports one function,
 * prism_plugin_v1, which returns one table of functions. By default a process of its own loads it,
 * and the proxy itself with `isolation: none`; to the library both are the same. Anything that can
 * make a shared library with C functions can be one: C, C++, Rust, Zig, Go (cgo).
 *
 * It is the frame protocol (docs/protocol.md) as function calls: the same five methods, statuses,
 * streams, cancels, and drain. There are no frames and no HELLO, and the bodies of calls are bare:
 * params and results are the JSON texts that clients send and get, not a message around them.
 *
 * MEMORY. What a function is given belongs to its caller, and is valid until it returns: copy what
 * you need longer. That holds both ways, so nobody frees what the other side has allocated. Texts
 * are UTF-8 and have a size; where that is 0 the pointer may be NULL. After a text that the host
 * gives comes a NUL, which is not counted, for functions of C that want one; the host wants none.
 *
 * THREADS. The host's functions (struct prism_host) may be called from any thread, at any time
 * after `create` has begun, also from within the library's functions, and also after `destroy`:
 * they are there as long as the process, copy what they are given, hold a lock for as long as that
 * takes, wait for nothing, and never call the library from within. The library's functions are
 * called as `threads` says, below. No function may leave by a C++ exception, a panic or a longjmp.
 *
 * CALLS. `open` begins a call; exactly one `complete` ends it, from any thread, within `open` or any
 * time later: also for an operation that is unknown, and for a call that was cancelled. A second one,
 * or one for a call that never was, is dropped and logged.
 *
 * VERSIONS. `abi` says which table this is. Fields are only ever added, at the end: `size` says how
 * many the other side knows, and it has no others. A host refuses a table of another `abi`, or one
 * that is shorter than version 1's, and a library should do the same with the host's.
 */
#ifndef PRISM_PLUGIN_H
#define PRISM_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PRISM_ABI 1

/* What a call asks for: `prism_request.method`. */
enum {
    PRISM_INITIALIZE = 1,
    PRISM_HEALTH_CHECK = 2,
    PRISM_EXECUTE = 3,
    PRISM_EXECUTE_STREAM = 4,
    PRISM_SHUTDOWN = 5
};

/* Flags of `prism_request.flags`, `data`, `complete` and `send`; ignore those you do not know. */
enum {
    PRISM_END = 1,         /* (`data`, and a request of which it is known) no messages follow */
    PRISM_NOT_STARTED = 2, /* (`complete`) nothing was done of it: it may be repeated elsewhere */
    PRISM_MSGPACK = 16     /* the body is MessagePack, not JSON */
};

/* How a call ended: gRPC's statuses. Others are read as PRISM_UNKNOWN. */
enum {
    PRISM_OK = 0,
    PRISM_CANCELLED = 1,
    PRISM_UNKNOWN = 2,
    PRISM_INVALID_ARGUMENT = 3,
    PRISM_DEADLINE_EXCEEDED = 4,
    PRISM_NOT_FOUND = 5,
    PRISM_ALREADY_EXISTS = 6,
    PRISM_PERMISSION_DENIED = 7,
    PRISM_RESOURCE_EXHAUSTED = 8,
    PRISM_FAILED_PRECONDITION = 9,
    PRISM_ABORTED = 10,
    PRISM_OUT_OF_RANGE = 11,
    PRISM_UNIMPLEMENTED = 12,
    PRISM_INTERNAL = 13,
    PRISM_UNAVAILABLE = 14,
    PRISM_DATA_LOSS = 15,
    PRISM_UNAUTHENTICATED = 16
};

/* Levels of `log`. */
enum { PRISM_DEBUG = 0, PRISM_INFO = 1, PRISM_WARNING = 2, PRISM_ERROR = 3 };

/* What the host's functions return. */
enum {
    PRISM_TAKEN = 0,   /* it is done: the host has its own copy */
    PRISM_FULL = 1,    /* (`send`) not taken: too much waits; `room` says when to try again */
    PRISM_OVER = 2,    /* not taken: the call has ended, was cancelled, or never was; or the host
                          is done with this plugin */
    PRISM_TOO_LONG = 3 /* not taken: longer than the host carries. The call is still open after a
                          `send`; after a `complete` it has ended, as RESOURCE_EXHAUSTED */
};

typedef struct prism_text {
    const char *data;
    size_t size; /* bytes */
} prism_text;

/*
 * A call that begins.
 *
 * PRISM_EXECUTE, PRISM_EXECUTE_STREAM: `operation` is its name, `body` the params, a JSON object
 * (or, with PRISM_MSGPACK, a MessagePack map), "{}" where the client gave none; in a stream it is
 * the client's first message. `metadata` is a JSON object of strings: docs/protocol.md, section 7.
 * A library that does not read MessagePack completes such a call with PRISM_INVALID_ARGUMENT.
 *
 * The other methods: `body` is the request of docs/protocol.md, section 7, as a JSON object, and
 * `operation` and `metadata` are empty. PRISM_INITIALIZE is the first call, made once; no other is
 * made before it has succeeded. PRISM_SHUTDOWN is the last: no other comes after it.
 */
typedef struct prism_request {
    uint32_t size;         /* of this struct, in bytes, as the host knows it */
    uint32_t method;       /* PRISM_INITIALIZE ... */
    uint64_t call;         /* its number, never used twice for one plugin, never 0 */
    uint32_t flags;        /* PRISM_END, PRISM_MSGPACK */
    uint32_t milliseconds; /* that the call has left; 0: no limit. The host keeps it by itself */
    prism_text operation;
    prism_text body;
    prism_text metadata;
} prism_request;

/* What a library may call. `context` is the first argument of each, as it stands in the table. */
typedef struct prism_host {
    uint32_t abi;  /* PRISM_ABI */
    uint32_t size; /* of this struct, in bytes, as the host knows it */
    void *context;

    /*
     * End a call.
     *
     * PRISM_OK: `body` is the result. PRISM_EXECUTE: a JSON text, which the client gets byte for
     * byte; MessagePack, with the flag PRISM_MSGPACK, where the request had it. Empty: "{}".
     * PRISM_EXECUTE_STREAM: one more, last message, or nothing. The others: the response of
     * docs/protocol.md, section 7, as a JSON object: of PRISM_INITIALIZE {"operations": [{"name":
     * "echo"}]}, of PRISM_HEALTH_CHECK {"status": 0}, of PRISM_SHUTDOWN nothing. `success` need
     * not be there, nor `plugin_version`, which the table says.
     *
     * Any other status: `body` is a sentence, no JSON, which clients may see (of PRISM_INITIALIZE
     * and PRISM_SHUTDOWN operators do): no secrets.
     */
    int (*complete)(void *context, uint64_t call, uint32_t status, uint32_t flags,
                    const char *body, size_t size);

    /*
     * Send a message on a stream: a JSON text or, with PRISM_MSGPACK, MessagePack. `position` may
     * be empty: text of your making, up to 1 KiB, by which a later stream can resume after it.
     *
     * At most 256 KiB of a stream wait, and the one message that goes beyond. After PRISM_FULL the
     * host calls `room` once there is room again; that may be before `send` has returned.
     */
    int (*send)(void *context, uint64_t call, uint32_t flags, const char *body, size_t size,
                const char *position, size_t position_size);

    /*
     * Take `count` more of the client's messages on a stream: `data` brings them, and the end.
     * Without it nothing comes but the first, which is the request's body: the others wait with
     * the client. The end takes a `want` as well; one is enough, and what is left of it is void.
     */
    int (*want)(void *context, uint64_t call, uint32_t count);

    /* Write a line to the log; the host may drop it. At most 8 KiB of it are kept. */
    int (*log)(void *context, uint32_t level, const char *text, size_t size);

    /* Tell logs, metrics or health: a NOTE of docs/protocol.md, section 8, as a JSON object. The
     * host may drop it. */
    int (*note)(void *context, const char *body, size_t size);
} prism_host;

/* What a library is: returned by prism_plugin_v1, and there as long as the process. */
typedef struct prism_plugin {
    uint32_t abi;  /* PRISM_ABI */
    uint32_t size; /* sizeof(prism_plugin) */

    /*
     * 0: every function returns soon (think of 100 microseconds: all calls wait for it), because
     * its work is short, or done by threads of its own. The functions are called one at a time,
     * though not always by the same thread.
     *
     * 1 to 256: `open` may wait as long as its call takes. The host calls it on as many threads of
     * its own, and on one more for the calls that are no operations (health is asked also when all
     * are busy). A call that waits for a thread waits in the host, with its deadline. The other
     * functions return soon all the same, and are called, one at a time, by another thread, while
     * `open` runs on others.
     */
    uint32_t threads;
    uint32_t reserved; /* 0 */

    const char *name;    /* of the plugin: UTF-8 with a NUL, at most 100 bytes, such as "echo" */
    const char *version; /* of the plugin, the same way, such as "1.0.0" */

    /*
     * Make a plugin: one for each namespace that has the library, and each generation of it.
     * `host` is its own, and there as long as the process. Open nothing yet: PRISM_INITIALIZE
     * follows, and brings the configuration. NULL: it cannot be made; say why with host->log.
     */
    void *(*create)(const prism_host *host);

    /* Begin a call. */
    void (*open)(void *plugin, const prism_request *request);

    /* A further message of the client on a stream, after `want`, unless the call was completed or
     * cancelled before. With PRISM_END it was the last; if the size is 0 then, there was no
     * message, only the end. */
    void (*data)(void *plugin, uint64_t call, uint32_t flags, const char *body, size_t size);

    /* Nobody waits for the call any more: PRISM_CANCELLED, or PRISM_DEADLINE_EXCEEDED. Stop the
     * work if you can, and complete it with that status. It may have been completed already. */
    void (*cancel)(void *plugin, uint64_t call, uint32_t status);

    /* There is room on a stream again, whose last `send` was PRISM_FULL. */
    void (*room)(void *plugin, uint64_t call);

    /*
     * The plugin is done with: PRISM_SHUTDOWN was completed (or PRISM_INITIALIZE failed), no call
     * is open, and none of its functions runs or is called again. Free it. A process that ends may
     * leave this out, and so does a host that has waited for a call in vain.
     */
    void (*destroy)(void *plugin);
} prism_plugin;

#if defined(__GNUC__)
#define PRISM_EXPORT __attribute__((visibility("default")))
#else
#define PRISM_EXPORT
#endif

/* The one function that a library exports: its table, the same each time. It does nothing else.
   cgo declares what Go exports by itself, without const: define PRISM_NO_PROTOTYPE there. */
#ifndef PRISM_NO_PROTOTYPE
PRISM_EXPORT const prism_plugin *prism_plugin_v1(void);
#endif

#ifdef __cplusplus
}
#endif
#endif
