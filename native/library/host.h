/* What a library is given: the host of one plugin, and what waits between the two. */
#ifndef PRISM_LIBRARY_HOST_H
#define PRISM_LIBRARY_HOST_H

#include <pthread.h>
#include <stdbool.h>

#include "../../schemas/abi/prism_plugin.h"

#define WINDOW (256 * 1024)  /* bytes of a stream that wait, and the message that goes beyond */
#define MESSAGE_COST 16      /* bytes that each of its messages costs beside its own */
#define MOST_NOTES 1000      /* log lines and notes that wait; those beyond are dropped, counted */
#define MOST_NOTE_BYTES (1024 * 1024)
#define LONGEST_LINE (8 * 1024)
#define LONGEST_POSITION 1024
#define MOST_THREADS 256
#define TOO_LARGE 8          /* the flag of a CLOSE, as in frames */

/* What a library has said, and the loop has not taken yet. */
enum { SAID_COMPLETE = 1, SAID_SEND, SAID_WANT, SAID_LOG, SAID_NOTE, SAID_WRONG, SAID_DROPPED };

typedef struct Message {
    struct Message *next;
    uint64_t call;
    uint32_t kind;
    uint32_t number; /* a status, a level, a count; of SAID_WRONG, 1: the call had ended before */
    uint32_t flags;
    size_t size;
    size_t position_size; /* the position follows the body */
    char *body;
} Message;

/* A call that is open. It begins with the message of its end, for which there is room then. */
typedef struct Call {
    Message end;
    struct Call *next;
    uint64_t id;
    int64_t credit;
    bool is_stream, is_full, is_cancelled;
} Call;

/* A call that waits for a thread. */
typedef struct Work {
    struct Work *next;
    prism_request request;
} Work;

/* Threads, and what waits for one of them. */
typedef struct Pool {
    struct Host *host;
    Work *first, **last;
    unsigned most, threads, idle, waiting; /* calls that wait */
    pthread_cond_t changed;
} Pool;

/* One plugin of a library. It is never freed: the library may call it as long as the process. */
typedef struct Host {
    prism_host table;
    const prism_plugin *library;
    void *plugin;
    size_t longest;
    int descriptor; /* an eventfd, readable where the loop has something to take */

    pthread_mutex_t lock; /* of all below */
    Message *first, **last;
    size_t notes, note_bytes, dropped;
    Call **buckets;
    size_t bucket_count, calls;
    uint64_t newest; /* the highest number of a call that was begun */
    bool is_closed, is_woken, is_inside;
    pthread_t inside; /* the thread that calls the library and takes afterwards by itself */
    Pool operations, others;
    unsigned running; /* `open`s in the pools' threads */
    pthread_cond_t one_returned;
} Host;

Host *host_new(const prism_plugin *library, int descriptor, size_t longest);
void host_enter(Host *host);
Message *host_leave(Host *host);
Message *host_take(Host *host);
bool host_begin(Host *host, uint64_t id, uint32_t method);
int host_submit(Host *host, const prism_request *request);
bool host_cancel(Host *host, uint64_t id);
bool host_takes_data(Host *host, uint64_t id);
bool host_give_room(Host *host, uint64_t id, size_t bytes);
void host_close(Host *host);
bool host_wait_idle(Host *host, double seconds);
void free_messages(Message *message);

#endif
