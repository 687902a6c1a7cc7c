/* The functions that a library may call, from any thread. None of them touches Python: each copies
   what it is given into a message, and makes a descriptor readable for the event loop. */
#define _GNU_SOURCE
#include "host.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FIRST_BUCKETS 64

static Message *new_message(size_t size)
{
    Message *message = malloc(sizeof *message + size);

    if (message != NULL) {
        memset(message, 0, sizeof *message);
        message->body = (char *)(message + 1);
        message->size = size;
    }
    return message;
}

void free_messages(Message *message)
{
    while (message != NULL) {
        Message *next = message->next;
        free(message);
        message = next;
    }
}

/* The functions below that are `static` expect the lock to be held. */

static void append(Host *host, Message *message)
{
    const uint64_t one = 1;

    message->next = NULL;
    *host->last = message;
    host->last = &message->next;
    if (host->is_woken || (host->is_inside && pthread_equal(host->inside, pthread_self()))) {
        return;
    }
    /* With the lock held: once the host is closed, its descriptor may be somebody else's. It does
       not block, and fails only where it is readable anyway. */
    host->is_woken = write(host->descriptor, &one, sizeof one) == (ssize_t)sizeof one;
}

static Call **place_of(Host *host, uint64_t id)
{
    Call **place = &host->buckets[id & (host->bucket_count - 1)];

    while (*place != NULL && (*place)->id != id) {
        place = &(*place)->next;
    }
    return place;
}

static Call *remove_call(Host *host, uint64_t id)
{
    Call **place = place_of(host, id), *call = *place;

    if (call != NULL) {
        *place = call->next;
        host->calls--;
    }
    return call;
}

static void grow(Host *host)
{
    size_t count = host->bucket_count * 2;
    Call **buckets = calloc(count, sizeof *buckets);

    if (buckets == NULL) {
        return; /* longer chains, then */
    }
    for (size_t i = 0; i < host->bucket_count; i++) {
        Call *call = host->buckets[i];
        while (call != NULL) {
            Call *next = call->next;
            call->next = buckets[call->id & (count - 1)];
            buckets[call->id & (count - 1)] = call;
            call = next;
        }
    }
    free(host->buckets);
    host->buckets = buckets;
    host->bucket_count = count;
}

static bool has_room_for_note(Host *host, size_t size)
{
    if (host->notes < MOST_NOTES && host->note_bytes + size <= MOST_NOTE_BYTES) {
        host->notes++;
        host->note_bytes += size;
        return true;
    }
    host->dropped++;
    return false;
}

/* Say that the library completed a call that is not open. */
static void tell_wrong(Host *host, uint64_t id)
{
    Message *message;

    if (has_room_for_note(host, 0) && (message = new_message(0)) != NULL) {
        message->kind = SAID_WRONG;
        message->call = id;
        message->number = id != 0 && id <= host->newest;
        append(host, message);
    }
}

static int complete(void *context, uint64_t id, uint32_t status, uint32_t flags, const char *body,
                    size_t size)
{
    Host *host = context;
    Message *message = NULL;
    Call *call;
    int result = PRISM_TAKEN;

    if (size > 0) {
        message = size <= host->longest ? new_message(size) : NULL;
        if (message != NULL) {
            memcpy(message->body, body, size);
        } else {
            status = PRISM_RESOURCE_EXHAUSTED;
            flags = TOO_LARGE;
            result = PRISM_TOO_LONG;
        }
    }
    pthread_mutex_lock(&host->lock);
    call = host->is_closed ? NULL : remove_call(host, id);
    if (call == NULL) {
        if (!host->is_closed) {
            tell_wrong(host, id);
        }
        pthread_mutex_unlock(&host->lock);
        free(message);
        return PRISM_OVER;
    }
    if (message == NULL) {
        message = &call->end; /* the call is freed as this */
    } else {
        free(call);
    }
    message->kind = SAID_COMPLETE;
    message->call = id;
    message->number = status;
    message->flags = flags;
    append(host, message);
    pthread_mutex_unlock(&host->lock);
    return result;
}

static int send_message(void *context, uint64_t id, uint32_t flags, const char *body, size_t size,
                const char *position, size_t position_size)
{
    Host *host = context;
    Message *message;
    Call *call;
    int result = PRISM_OVER;

    if (size > host->longest || position_size > LONGEST_POSITION) {
        return PRISM_TOO_LONG;
    }
    message = new_message(size + position_size);
    if (message == NULL) {
        return PRISM_TOO_LONG;
    }
    if (size > 0) {
        memcpy(message->body, body, size);
    }
    if (position_size > 0) {
        memcpy(message->body + size, position, position_size);
    }
    message->kind = SAID_SEND;
    message->call = id;
    message->flags = flags;
    message->size = size;
    message->position_size = position_size;
    pthread_mutex_lock(&host->lock);
    call = host->is_closed ? NULL : *place_of(host, id);
    if (call != NULL && call->is_stream && !call->is_cancelled) {
        call->is_full = call->credit <= 0;
        result = call->is_full ? PRISM_FULL : PRISM_TAKEN;
    }
    if (result == PRISM_TAKEN) {
        call->credit -= (int64_t)(size + position_size) + MESSAGE_COST;
        append(host, message);
        message = NULL;
    }
    pthread_mutex_unlock(&host->lock);
    free(message);
    return result;
}

static int want(void *context, uint64_t id, uint32_t count)
{
    Host *host = context;
    Message *message = new_message(0);
    Call *call;
    int result = PRISM_OVER;

    if (message == NULL) {
        return PRISM_TOO_LONG;
    }
    message->kind = SAID_WANT;
    message->call = id;
    message->number = count;
    pthread_mutex_lock(&host->lock);
    call = host->is_closed ? NULL : *place_of(host, id);
    if (call != NULL && call->is_stream && !call->is_cancelled) {
        append(host, message);
        message = NULL;
        result = PRISM_TAKEN;
    }
    pthread_mutex_unlock(&host->lock);
    free(message);
    return result;
}

static int tell(Host *host, uint32_t kind, uint32_t number, const char *text, size_t size)
{
    Message *message = new_message(size);
    int result = PRISM_OVER;

    if (message == NULL) {
        return PRISM_TOO_LONG;
    }
    if (size > 0) {
        memcpy(message->body, text, size);
    }
    message->kind = kind;
    message->number = number;
    pthread_mutex_lock(&host->lock);
    if (!host->is_closed) {
        result = PRISM_TAKEN;
        if (has_room_for_note(host, size)) {
            append(host, message);
            message = NULL;
        }
    }
    pthread_mutex_unlock(&host->lock);
    free(message);
    return result;
}

static int write_log(void *context, uint32_t level, const char *text, size_t size)
{
    return tell(context, SAID_LOG, level, text, size < LONGEST_LINE ? size : LONGEST_LINE);
}

static int note(void *context, const char *body, size_t size)
{
    return size > MOST_NOTE_BYTES ? PRISM_TOO_LONG : tell(context, SAID_NOTE, 0, body, size);
}

/* What the event loop calls. */

static void init_pool(Pool *pool, Host *host, unsigned most)
{
    pool->host = host;
    pool->last = &pool->first;
    pool->most = most;
    pthread_cond_init(&pool->changed, NULL);
}

Host *host_new(const prism_plugin *library, int descriptor, size_t longest)
{
    pthread_condattr_t monotonic;
    Host *host = calloc(1, sizeof *host);

    if (host == NULL) {
        return NULL;
    }
    host->bucket_count = FIRST_BUCKETS;
    host->buckets = calloc(host->bucket_count, sizeof *host->buckets);
    if (host->buckets == NULL) {
        free(host);
        return NULL;
    }
    host->table = (prism_host){
        .abi = PRISM_ABI,
        .size = sizeof host->table,
        .context = host,
        .complete = complete,
        .send = send_message,
        .want = want,
        .log = write_log,
        .note = note,
    };
    host->library = library;
    host->descriptor = descriptor;
    host->longest = longest;
    host->last = &host->first;
    pthread_mutex_init(&host->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&host->one_returned, &monotonic);
    pthread_condattr_destroy(&monotonic);
    init_pool(&host->operations, host, library->threads);
    init_pool(&host->others, host, 1);
    return host;
}

/* This thread is about to call the library, and takes what it says when it returns. */
void host_enter(Host *host)
{
    pthread_mutex_lock(&host->lock);
    host->is_inside = true;
    host->inside = pthread_self();
    pthread_mutex_unlock(&host->lock);
}

static Message *detach(Host *host)
{
    Message *first = host->first, *dropped;

    host->first = NULL;
    host->last = &host->first;
    host->notes = host->note_bytes = 0;
    if (host->dropped > 0 && (dropped = new_message(0)) != NULL) {
        dropped->kind = SAID_DROPPED;
        dropped->number = host->dropped < UINT32_MAX ? (uint32_t)host->dropped : UINT32_MAX;
        dropped->next = first;
        host->dropped = 0;
        first = dropped;
    }
    return first;
}

Message *host_leave(Host *host)
{
    Message *said;

    pthread_mutex_lock(&host->lock);
    host->is_inside = false;
    said = detach(host);
    pthread_mutex_unlock(&host->lock);
    return said;
}

Message *host_take(Host *host)
{
    uint64_t count;
    Message *said;

    pthread_mutex_lock(&host->lock);
    if (read(host->descriptor, &count, sizeof count) > 0) { /* the loop wakes itself by it, too */
        host->is_woken = false;
    }
    said = detach(host);
    pthread_mutex_unlock(&host->lock);
    return said;
}

/* False: there is no memory. */
bool host_begin(Host *host, uint64_t id, uint32_t method)
{
    Call *call = calloc(1, sizeof *call), **bucket;

    if (call == NULL) {
        return false;
    }
    call->id = id;
    call->is_stream = method == PRISM_EXECUTE_STREAM;
    call->credit = WINDOW;
    pthread_mutex_lock(&host->lock);
    if (host->calls >= host->bucket_count) {
        grow(host);
    }
    bucket = &host->buckets[id & (host->bucket_count - 1)];
    call->next = *bucket;
    *bucket = call;
    host->calls++;
    host->newest = id;
    pthread_mutex_unlock(&host->lock);
    return true;
}

/* End a call that waits for a thread; the library never hears of it. */
static bool take_back(Host *host, Pool *pool, uint64_t id)
{
    for (Work **place = &pool->first; *place != NULL; place = &(*place)->next) {
        Work *work = *place;
        Call *call;

        if (work->request.call != id) {
            continue;
        }
        *place = work->next;
        if (pool->last == &work->next) {
            pool->last = place;
        }
        pool->waiting--;
        free(work);
        call = remove_call(host, id);
        if (call != NULL) {
            call->end.kind = SAID_COMPLETE;
            call->end.call = id;
            call->end.number = PRISM_CANCELLED;
            call->end.flags = PRISM_NOT_STARTED;
            append(host, &call->end);
        }
        return true;
    }
    return false;
}

/* Is the library to hear of it? */
bool host_cancel(Host *host, uint64_t id)
{
    Call *call;
    bool is_told = false;

    pthread_mutex_lock(&host->lock);
    if (!take_back(host, &host->operations, id) && !take_back(host, &host->others, id)) {
        call = *place_of(host, id);
        is_told = call != NULL && !call->is_cancelled && !host->is_closed;
        if (call != NULL) {
            call->is_cancelled = true;
        }
    }
    pthread_mutex_unlock(&host->lock);
    return is_told;
}

/* Is the library to hear of a client's message? It may have ended the call before, or the plugin
   may be gone. */
bool host_takes_data(Host *host, uint64_t id)
{
    Call *call;
    bool is_told;

    pthread_mutex_lock(&host->lock);
    call = *place_of(host, id);
    is_told = call != NULL && !call->is_cancelled && !host->is_closed;
    pthread_mutex_unlock(&host->lock);
    return is_told;
}

/* `bytes` of a stream were taken; is the library to hear of room? */
bool host_give_room(Host *host, uint64_t id, size_t bytes)
{
    Call *call;
    bool is_told = false;

    pthread_mutex_lock(&host->lock);
    call = *place_of(host, id);
    if (call != NULL) {
        call->credit += (int64_t)bytes + MESSAGE_COST;
        is_told = call->is_full && call->credit > 0 && !call->is_cancelled && !host->is_closed;
        if (is_told) {
            call->is_full = false;
        }
    }
    pthread_mutex_unlock(&host->lock);
    return is_told;
}

/* From now on, the library is told that all is over, and nothing more is begun. */
void host_close(Host *host)
{
    Message *said;

    pthread_mutex_lock(&host->lock);
    host->is_closed = true;
    said = detach(host);
    pthread_cond_broadcast(&host->operations.changed);
    pthread_cond_broadcast(&host->others.changed);
    pthread_mutex_unlock(&host->lock);
    free_messages(said);
}

/* Wait for `open`s that run in threads. False: calls are open, or it takes longer. */
bool host_wait_idle(Host *host, double seconds)
{
    struct timespec until;
    bool is_idle;
    int expired = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    pthread_mutex_lock(&host->lock);
    while (host->calls == 0 && host->running > 0 && expired == 0) {
        expired = pthread_cond_timedwait(&host->one_returned, &host->lock, &until);
    }
    is_idle = host->calls == 0 && host->running == 0;
    pthread_mutex_unlock(&host->lock);
    return is_idle;
}

/* Threads in which `open` may wait. */

static void *run_calls(void *argument)
{
    Pool *pool = argument;
    Host *host = pool->host;

    pthread_mutex_lock(&host->lock);
    for (;;) {
        Work *work;

        while (pool->first == NULL && !host->is_closed) {
            pool->idle++;
            pthread_cond_wait(&pool->changed, &host->lock);
            pool->idle--;
        }
        work = pool->first;
        if (work == NULL || host->is_closed) {
            break;
        }
        pool->first = work->next;
        if (pool->first == NULL) {
            pool->last = &pool->first;
        }
        pool->waiting--;
        host->running++;
        pthread_mutex_unlock(&host->lock);
        host->library->open(host->plugin, &work->request);
        free(work);
        pthread_mutex_lock(&host->lock);
        host->running--;
        pthread_cond_broadcast(&host->one_returned);
    }
    pool->threads--;
    pthread_mutex_unlock(&host->lock);
    return NULL;
}

/* Signals are for the process's own threads, of which Python's first handles them. */
static int start_thread(Pool *pool)
{
    pthread_t thread;
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, NULL, run_calls, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed == 0) {
        pthread_detach(thread);
        pool->threads++;
    }
    return failed;
}

static prism_text copy_text(char **place, prism_text text)
{
    prism_text copy = {*place, text.size};

    if (text.size > 0) {
        memcpy(*place, text.data, text.size);
    }
    (*place)[text.size] = 0;
    *place += text.size + 1;
    return copy;
}

/* Have a thread call `open`. 0, or the error's number: then nothing is left of the call. */
int host_submit(Host *host, const prism_request *request)
{
    bool is_operation =
        request->method == PRISM_EXECUTE || request->method == PRISM_EXECUTE_STREAM;
    Pool *pool = is_operation ? &host->operations : &host->others;
    size_t size = request->operation.size + request->body.size + request->metadata.size + 3;
    Work *work = malloc(sizeof *work + size);
    char *place = (char *)(work + 1);
    int failed = 0;

    if (work == NULL) {
        return -1;
    }
    work->next = NULL;
    work->request = *request;
    work->request.operation = copy_text(&place, request->operation);
    work->request.body = copy_text(&place, request->body);
    work->request.metadata = copy_text(&place, request->metadata);
    pthread_mutex_lock(&host->lock);
    if (pool->waiting >= pool->idle && pool->threads < pool->most) {
        failed = start_thread(pool);
    }
    if (failed == 0 || pool->threads > 0) { /* one that works comes to it */
        failed = 0;
        *pool->last = work;
        pool->last = &work->next;
        pool->waiting++;
        pthread_cond_signal(&pool->changed);
    } else {
        free(remove_call(host, request->call));
        free(work);
    }
    pthread_mutex_unlock(&host->lock);
    return failed;
}
