/* The kit behind prism_plugin.h. docs/protocol.md of Prism is what it follows.
 *
 * Each session has one thread that reads and begins calls, workers that run them (as many as
 * there are calls at a time, which wait for the next), and one that writes what the connection
 * does not take at once, logs and metrics. One mutex guards a session; nothing waits holding it. */
#define _GNU_SOURCE
#include "prism_plugin.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HELLO = 1, OPEN, DATA, CLOSE, CANCEL, CREDIT, PING, GOAWAY, NOTE };
enum { INITIALIZE = 1, HEALTH_CHECK, EXECUTE, EXECUTE_STREAM, SHUTDOWN };
enum { HEADER = 16, JSON = 1, END = 1, NOT_STARTED = 2, ACK = 4, TOO_LARGE = 8 };
enum { MAX_DEPTH = 100, MAX_HELLO = 65536, CONTROL_CALLS = 4, MAX_QUEUED = 1 << 20 };
enum { MAX_LOGGED = 999, /* and the one that tells of the dropped: the most in a NOTE */ MAX_LOG_LINE = 8192, STACK = 1 << 20, DRAIN_TOKEN = 0x64726169 };

static const double HANDSHAKE = 30, CLOSING = 5, STOP_GRACE = 25, METRICS = 10, LOGS = 0.25;
static const char *const TYPES[] = {"?", "HELLO", "OPEN", "DATA", "CLOSE", "CANCEL", "CREDIT",
                                    "PING", "GOAWAY", "NOTE"};
static const char *const METHODS[] = {"", " Initialize", " HealthCheck", " Execute",
                                      " ExecuteStream", " Shutdown"};
static const char *const LEVELS[] = {"DEBUG", "INFO", "WARNING", "ERROR"};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *allocate(size_t size) {
    void *found = calloc(1, size);
    if (found == NULL) abort();
    return found;
}

/* -- text ------------------------------------------------------------------------------------ */

static char *reserve(prism_text *text, size_t more) { /* room behind what there is, and for '\0' */
    if (text->size + more + 1 > text->room) {
        text->room = text->room + text->room / 2 + more + 64;
        if ((text->at = realloc(text->at, text->room)) == NULL) abort();
    }
    return text->at + text->size;
}

void prism_add(prism_text *text, const char *bytes, size_t size) {
    memcpy(reserve(text, size), bytes, size);
    text->at[text->size += size] = '\0';
}

static void add_all(prism_text *text, const char *string) { prism_add(text, string, strlen(string)); }

static void add_formatted(prism_text *text, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int size = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (size < 0) return;
    vsnprintf(reserve(text, (size_t)size), (size_t)size + 1, format, arguments);
    text->size += (size_t)size;
}

void prism_add_format(prism_text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add_formatted(text, format, arguments);
    va_end(arguments);
}

void prism_text_free(prism_text *text) {
    free(text->at);
    *text = (prism_text){0};
}

/* The bytes of the UTF-8 sequence at p, of `left`; 0 if it is none (RFC 3629). */
static size_t utf8(const unsigned char *p, size_t left) {
    if (p[0] < 0x80) return 1;
    size_t size = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (size == 0 || size > left) return 0;
    for (size_t i = 1; i < size; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    int overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    int beyond = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f);
    return overlong || beyond ? 0 : size;
}

void prism_add_quoted(prism_text *text, const char *bytes, size_t size) {
    const unsigned char *p = (const unsigned char *)bytes, *end = p + size;
    char *out = reserve(text, size + 2), *start = out;
    *out++ = '"';
    while (p < end) {
        const unsigned char *run = p; /* of what stands for itself */
        while (p < end && *p >= ' ' && *p != '"' && *p != '\\') {
            size_t count = utf8(p, (size_t)(end - p));
            if (count == 0) break;
            p += count;
        }
        memcpy(out, run, (size_t)(p - run));
        out += p - run;
        if (p == end) break;
        text->size += (size_t)(out - start); /* an escape: up to 5 bytes more than are left */
        start = out = reserve(text, (size_t)(end - p) + 8);
        if (*p >= 0x80) out += sprintf(out, "\xef\xbf\xbd");
        else if (*p < ' ') out += sprintf(out, "\\u%04x", *p);
        else { *out++ = '\\'; *out++ = (char)*p; }
        p++;
    }
    *out++ = '"';
    *out = '\0';
    text->size += (size_t)(out - start);
}

/* The numbers of JSON have a point, whatever locale the plugin has set for its process. */
static locale_t begin_numbers(void) {
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* which the C library has at hand */
    if (plain == (locale_t)0) abort();
    return uselocale(plain);
}

static void end_numbers(locale_t before) { freelocale(uselocale(before)); }

/* -- JSON: what is checked once is then only skipped ------------------------------------------- */

static const char *space(const char *p) {
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r') p++;
    return p;
}

static int hex4(const char *p) { /* four hex digits; -1 if they are not */
    int value = 0;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)p[i])) return -1;
        value = value * 16 + (isdigit((unsigned char)p[i]) ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    }
    return value;
}

static const char *check_string(const char *p) { /* behind it; NULL if it is none */
    for (p++; *p != '"';) {
        if ((unsigned char)*p < ' ') return NULL; /* the end of the text, too */
        if (*p == '\\') {
            if (*++p == 'u') {
                if (hex4(p + 1) < 0) return NULL;
                p += 5;
            } else if (*p != '\0' && strchr("\"\\/bfnrt", *p)) p++;
            else return NULL;
        } else {
            size_t count = utf8((const unsigned char *)p, 4); /* stops at '\0' */
            if (count == 0) return NULL;
            p += count;
        }
    }
    return p + 1;
}

static const char *digits(const char *p) {
    if (!isdigit((unsigned char)*p)) return NULL;
    while (isdigit((unsigned char)*p)) p++;
    return p;
}

static const char *check_number(const char *p) {
    if (*p == '-') p++;
    if (*p == '0') p++;
    else if ((p = digits(p)) == NULL) return NULL;
    if (*p == '.' && (p = digits(p + 1)) == NULL) return NULL;
    if (*p == 'e' || *p == 'E') { p++; p = digits(p + (*p == '+' || *p == '-')); }
    return p;
}

static const char *check_value(const char *p, int depth) {
    if (*p == '"') return check_string(p);
    if (strncmp(p, "true", 4) == 0 || strncmp(p, "null", 4) == 0) return p + 4;
    if (strncmp(p, "false", 5) == 0) return p + 5;
    if (*p != '{' && *p != '[') return check_number(p);
    if (depth == 0) return NULL;
    char close = *p == '{' ? '}' : ']';
    if (*(p = space(p + 1)) == close) return p + 1;
    for (;; p = space(p + 1)) {
        if (close == '}') {
            if (*p != '"' || (p = check_string(p)) == NULL || *(p = space(p)) != ':') return NULL;
            p = space(p + 1);
        }
        if ((p = check_value(p, depth - 1)) == NULL) return NULL;
        if (*(p = space(p)) == close) return p + 1;
        if (*p != ',') return NULL;
    }
}

int prism_json_is_object(const char *text) {
    const char *end = *(text = space(text)) == '{' ? check_value(text, MAX_DEPTH) : NULL;
    return end != NULL && *space(end) == '\0';
}

static int is_value(const char *text) {
    const char *end = check_value(space(text), MAX_DEPTH);
    return end != NULL && *space(end) == '\0';
}

const char *prism_json_end(const char *p) {
    int depth = 0;
    do {
        if (*p == '"') {
            for (p++; *p != '"'; p++) p += *p == '\\';
            p++;
        } else if (*p == '{' || *p == '[') { depth++; p++; }
        else if (*p == '}' || *p == ']') { depth--; p++; }
        else if (depth > 0) p++;
        else while (*p && !strchr(",]} \t\r\n", *p)) p++;
    } while (depth > 0);
    return p;
}

int prism_json_string(const char *p, prism_text *out) {
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (p == NULL || *p++ != '"') return 0;
    prism_add(out, "", 0);
    for (;;) {
        size_t run = strcspn(p, "\"\\");
        prism_add(out, p, run);
        p += run;
        if (*p == '"') return 1;
        const char *found = *++p ? strchr(escapes, *p) : NULL;
        if (found != NULL) { prism_add(out, meanings + (found - escapes), 1); p++; continue; }
        long c = *p == 'u' ? hex4(p + 1) : -1;
        if (c < 0) return 0;
        p += 5;
        if (c >= 0xd800 && c < 0xe000) { /* one half of a pair; alone it stands for nothing */
            int low = c < 0xdc00 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2) : -1;
            if (low >= 0xdc00 && low < 0xe000) { c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00); p += 6; }
            else c = 0xfffd;
        }
        char b[4];
        int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (int i = n - 1; i > 0; i--, c >>= 6) b[i] = (char)(0x80 | (c & 0x3f));
        b[0] = (char)(n == 1 ? c : (0xf00 >> n & 0xff) | c);
        prism_add(out, b, (size_t)n);
    }
}

/* The next member of an object: its name, raw, and where its value begins; NULL: no more. */
static const char *member(const char **p, const char **name, size_t *size) {
    *p = space(*p);
    if (**p == '{' || **p == ',') *p = space(*p + 1);
    if (**p != '"') return NULL;
    const char *end = prism_json_end(*p), *value = space(space(end) + 1);
    *name = *p + 1;
    *size = (size_t)(end - *p) - 2;
    *p = space(prism_json_end(value));
    return value;
}

static int is_named(const char *raw, size_t size, const char *name) {
    if (memchr(raw, '\\', size) == NULL) return strlen(name) == size && memcmp(raw, name, size) == 0;
    prism_text text = {0};
    int same = prism_json_string(raw - 1, &text) && strcmp(text.at, name) == 0;
    prism_text_free(&text);
    return same;
}

const char *prism_json_field(const char *object, const char *name) {
    const char *found = NULL, *raw, *value;
    size_t size;
    while ((value = member(&object, &raw, &size)) != NULL)
        if (is_named(raw, size, name)) found = value; /* the last one counts */
    return found;
}

int prism_json_number(const char *value, double *out) {
    if (value == NULL || !(*value == '-' || isdigit((unsigned char)*value))) return 0;
    locale_t before = begin_numbers();
    *out = strtod(value, NULL);
    end_numbers(before);
    return 1;
}

/* A string field, added to out; 0 if it is there and no string. */
static int string_field(const char *object, const char *name, prism_text *out) {
    const char *value = prism_json_field(object, name);
    prism_add(out, "", 0);
    return value == NULL || prism_json_string(value, out);
}

/* -- sessions and calls ------------------------------------------------------------------------ */

typedef struct message { struct message *next; char *params; int64_t cost; } message;
typedef struct pair { struct pair *next; char *name, *value; double number; } pair;

struct prism_call {
    prism_session *session;
    prism_call *next; /* of the session's, and of those that wait for a worker */
    prism_call *next_task;
    uint32_t id;
    int method, refused, closed;
    const prism_operation *operation;
    double deadline, begun, timeout;
    pthread_cond_t changed; /* cancelled, a message, credit */
    int cancelled, ended, over, failed;
    prism_text name, params, metadata, answer, held;
    pair *values; /* of the metadata that were asked for */
    prism_status status;
    message *first, *last;
    int64_t window, used, credit;
};

struct prism_session {
    const prism_plugin *plugin;
    int socket, tracing, threads, idle, initial, draining, replaced, greeted;
    uint32_t max_streams, max_frame, window, answer_max, host_window, last_stream;
    void *state;
    prism_text name_space, config;
    pair *credentials;
    pthread_mutex_t mutex; /* of all that follows */
    pthread_cond_t changed, task, background;
    prism_text out;
    size_t out_from;
    int closed, blocked, flush_soon, pooled_end, drain_seen, ending;
    prism_call *calls, *tasks, *tasks_last;
    int running, executing;
    prism_text logs, go_away;
    int logged, dropped;
    double logs_at;
    pair *custom;
    int64_t total, failed, told;
    double latency_ms;
    prism_session *next;
};

static void lock(prism_session *s) { pthread_mutex_lock(&s->mutex); }
static void unlock(prism_session *s) { pthread_mutex_unlock(&s->mutex); }

static void condition(pthread_cond_t *made) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(made, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Waits for a change, until then; 0 where that time has come. */
static int await(pthread_cond_t *changed, prism_session *s, double until) {
    if (isinf(until)) { pthread_cond_wait(changed, &s->mutex); return 1; }
    struct timespec t = {(time_t)until, (long)((until - floor(until)) * 1e9)};
    return pthread_cond_timedwait(changed, &s->mutex, &t) != ETIMEDOUT;
}

static void free_pairs(pair *first) {
    while (first != NULL) {
        pair *next = first->next;
        free(first->name);
        free(first->value);
        free(first);
        first = next;
    }
}

static void free_call(prism_call *call) {
    while (call->first != NULL) {
        message *next = call->first->next;
        free(call->first->params);
        free(call->first);
        call->first = next;
    }
    prism_text *texts[] = {&call->name, &call->params, &call->metadata, &call->answer, &call->held};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) prism_text_free(texts[i]);
    free_pairs(call->values);
    pthread_cond_destroy(&call->changed);
    free(call);
}

static int ends_with(const char *text, const char *end) {
    size_t size = strlen(text), of_end = strlen(end);
    return size >= of_end && strcmp(text + size - of_end, end) == 0;
}

static void blank(prism_text *text, const char *secret) {
    static const char hidden[] = "(hidden)";
    size_t size = strlen(secret);
    for (char *from = text->at, *found; size > 0 && (found = strstr(from, secret)) != NULL;) {
        size_t at = (size_t)(found - text->at), rest = text->size - at - size;
        reserve(text, sizeof hidden);
        memmove(text->at + at + sizeof hidden - 1, text->at + at + size, rest + 1);
        memcpy(text->at + at, hidden, sizeof hidden - 1);
        text->size += sizeof hidden - 1 - size;
        from = text->at + at + sizeof hidden - 1;
    }
}

/* Blanks the values of credentials, plain and as JSON; names of users are no secrets. */
static void redact(prism_session *s, prism_text *text) {
    if (text->at == NULL) return;
    for (pair *each = s->credentials; each != NULL; each = each->next) {
        const char *name = each->name;
        if (ends_with(name, "username") || ends_with(name, "client_id") || !strcmp(name, "user") || !strcmp(name, "login"))
            continue;
        prism_text once = {0}, twice = {0};
        prism_add_quoted(&once, each->value, strlen(each->value));
        once.at[--once.size] = '\0';
        prism_add_quoted(&twice, once.at + 1, once.size - 1);
        twice.at[--twice.size] = '\0';
        blank(text, twice.at + 1);
        blank(text, once.at + 1);
        blank(text, each->value);
        prism_text_free(&once);
        prism_text_free(&twice);
    }
}

/* -- writing: what is queued leaves in one system call; the mutex is held ------------------------ */

static void put32(char *b, uint32_t n) { for (int i = 3; i >= 0; i--, n >>= 8) b[i] = (char)n; }

static uint32_t get32(const char *p) {
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static void trace(prism_session *s, const char *direction, const char *header, const char *payload) {
    prism_text text = {0};
    int type = header[8], method = header[11];
    if (type == OPEN && method == INITIALIZE && prism_json_is_object(payload)) { /* nothing is known of its secrets yet */
        const char *secrets = prism_json_field(payload, "credentials");
        prism_add(&text, payload, secrets ? (size_t)(secrets - payload) : strlen(payload));
        if (secrets) { add_all(&text, "\"(hidden)\""); add_all(&text, prism_json_end(secrets)); }
    } else add_all(&text, payload);
    redact(s, &text);
    fprintf(stderr, "%s %s%s stream=%u flags=%d aux=%u length=%u %.300s\n", direction, TYPES[type],
            type == OPEN ? METHODS[method] : "", get32(header + 4), header[9], get32(header + 12),
            get32(header), text.at);
    prism_text_free(&text);
}

static void queue(prism_session *s, int type, uint32_t stream, int flags, uint32_t aux, const char *payload) {
    if (s->closed) return;
    char header[HEADER] = {0};
    size_t size = payload == NULL ? 0 : strlen(payload);
    put32(header, (uint32_t)size);
    put32(header + 4, stream);
    header[8] = (char)type;
    header[9] = (char)flags;
    header[10] = size > 0 ? JSON : 0;
    put32(header + 12, aux);
    if (s->tracing) trace(s, "sent", header, size > 0 ? payload : "");
    prism_add(&s->out, header, HEADER);
    if (size > 0) prism_add(&s->out, payload, size);
}

/* Sends what the connection takes at once; the thread in the background does the rest. */
static void flush(prism_session *s) {
    while (s->out_from < s->out.size && !s->closed) {
        ssize_t sent = send(s->socket, s->out.at + s->out_from, s->out.size - s->out_from, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) { s->out_from += (size_t)sent; continue; }
        if (errno == EINTR) continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!s->blocked) { s->blocked = 1; pthread_cond_signal(&s->background); }
            return;
        }
        s->closed = 1; /* the reader sees the end as well */
        shutdown(s->socket, SHUT_RDWR);
    }
    s->out_from = s->out.size = 0;
    s->flush_soon = 0;
    if (s->out.room > MAX_QUEUED) prism_text_free(&s->out);
    if (s->blocked) { s->blocked = 0; pthread_cond_broadcast(&s->changed); }
}

static void send_logs(prism_session *s) {
    if (s->logged == 0 || s->answer_max == 0 || s->out.size - s->out_from > MAX_QUEUED) return;
    prism_text note = {0};
    prism_add_format(&note, "{\"logs\":[%s", s->logs.at);
    if (s->dropped > 0)
        prism_add_format(&note, ",{\"level\":\"WARNING\",\"message\":\"%d log records were dropped: too many at once\"}", s->dropped);
    add_all(&note, "]}");
    if (note.size <= s->answer_max) queue(s, NOTE, 0, 0, 0, note.at);
    prism_text_free(&note);
    s->logs.size = 0;
    s->logged = s->dropped = 0;
}

static void add_metrics(prism_session *s, prism_text *out) {
    locale_t before = begin_numbers();
    prism_add_format(out, "{\"requests_total\":%lld,\"requests_failed\":%lld,\"latency_ms\":%.3f",
                     (long long)s->total, (long long)s->failed, s->latency_ms);
    prism_text custom = {0};
    for (pair *each = s->custom; each != NULL; each = each->next) {
        if (!isfinite(each->number)) continue; /* which JSON cannot say */
        add_all(&custom, custom.size ? "," : "{");
        prism_add_quoted(&custom, each->name, strlen(each->name));
        prism_add_format(&custom, ":%.15g", each->number);
    }
    if (custom.size > 0) {
        add_all(&custom, "}");
        add_all(out, ",\"custom_metrics_json\":");
        prism_add_quoted(out, custom.at, custom.size);
    }
    prism_text_free(&custom);
    add_all(out, "}");
    end_numbers(before);
}

static void *in_background(void *argument) {
    prism_session *s = argument;
    double metrics_at = now() + METRICS;
    lock(s);
    while (!s->pooled_end) {
        if (s->blocked && !s->closed) {
            struct pollfd waits = {.fd = s->socket, .events = POLLOUT};
            unlock(s);
            poll(&waits, 1, 1000);
            lock(s);
            flush(s);
            continue;
        }
        if (s->flush_soon) flush(s);
        if (s->logged > 0 && now() >= s->logs_at) { send_logs(s); flush(s); }
        if (now() >= metrics_at) {
            metrics_at = now() + METRICS;
            if (s->total != s->told && s->answer_max > 0) {
                prism_text note = {0};
                s->told = s->total;
                add_all(&note, "{\"metrics\":");
                add_metrics(s, &note);
                add_all(&note, "}");
                queue(s, NOTE, 0, 0, 0, note.at);
                prism_text_free(&note);
                flush(s);
            }
        }
        if (!s->blocked && !s->flush_soon) await(&s->background, s, s->logged > 0 && s->logs_at < metrics_at ? s->logs_at : metrics_at);
    }
    s->threads--;
    pthread_cond_broadcast(&s->changed);
    unlock(s);
    return NULL;
}

/* -- the end of a call: its one CLOSE ------------------------------------------------------------ */

static void add_failure(prism_text *out, prism_status status, const char *sentence, int is_final) {
    prism_add_format(out, "{\"error_code\":%d,\"error\":", (int)status);
    prism_add_quoted(out, sentence, strlen(sentence));
    add_all(out, is_final ? ",\"is_final\":true}" : "}");
}

static void remove_call(prism_session *s, prism_call *call) {
    prism_call **at = &s->calls;
    while (*at != call) at = &(*at)->next;
    *at = call->next;
    call->closed = 1;
    s->running--;
    if (call->method == EXECUTE || call->method == EXECUTE_STREAM) s->executing--;
    if (s->draining || s->closed) pthread_cond_broadcast(&s->changed);
}

/* Closes a call with what is in its answer; the mutex is held. Without effect where that was done. */
static void close_call(prism_session *s, prism_call *call, int flags) {
    if (call->closed) return;
    remove_call(s, call);
    uint32_t status = (uint32_t)call->status;
    if (call->answer.size > s->answer_max) {
        prism_text large = {0};
        prism_add_format(&large, "the answer has %zu bytes; the limit is %u (plugin.max_frame_bytes)", call->answer.size, s->answer_max);
        prism_text_free(&call->answer);
        add_failure(&call->answer, PRISM_RESOURCE_EXHAUSTED, large.at, call->method == EXECUTE_STREAM);
        prism_text_free(&large);
        status = PRISM_RESOURCE_EXHAUSTED;
        flags = TOO_LARGE;
        if (call->answer.size > s->answer_max) prism_text_free(&call->answer);
    }
    queue(s, CLOSE, call->id, flags, status, call->answer.at);
}

static void set_failure(prism_call *call, prism_status status, const char *sentence) {
    prism_text_free(&call->answer);
    call->status = status;
    call->failed = 1;
    add_failure(&call->answer, status, sentence, call->method == EXECUTE_STREAM);
}

static void fault(prism_call *call, const char *what) { /* of the plugin: the client reads an id */
    unsigned char id[6];
    if (getrandom(id, sizeof id, 0) != sizeof id) memset(id, 0, sizeof id);
    char text[112], hex[16];
    for (size_t i = 0; i < sizeof id; i++) sprintf(hex + 2 * i, "%02x", id[i]);
    prism_log(call->session, PRISM_ERROR, "error %s: %s of request %s: %s", hex, call->name.at, prism_request_id(call), what);
    snprintf(text, sizeof text, "the plugin failed unexpectedly; its log has the cause under error id %s", hex);
    set_failure(call, PRISM_INTERNAL, text);
}

void prism_result(prism_call *call, const char *json) {
    if (call->answer.size > 0 || call->failed) {
        prism_log(call->session, PRISM_WARNING, "%s answered twice; the first answer counts", call->name.at);
    } else if (json == NULL || !is_value(json)) {
        fault(call, "the result is not JSON");
    } else {
        size_t size = strlen(json);
        reserve(&call->answer, size + size / 8 + 48);
        add_all(&call->answer, "{\"success\":true,\"result_json\":");
        prism_add_quoted(&call->answer, json, size);
        add_all(&call->answer, "}");
    }
}

void prism_fail(prism_call *call, prism_status status, const char *format, ...) {
    prism_text sentence = {0};
    va_list arguments;
    va_start(arguments, format);
    add_formatted(&sentence, format, arguments);
    va_end(arguments);
    redact(call->session, &sentence);
    if (call->failed || (call->answer.size > 0 && call->method != EXECUTE_STREAM))
        prism_log(call->session, PRISM_WARNING, "%s answered twice; the first answer counts", call->name.at);
    else
        set_failure(call, status > PRISM_OK && status <= PRISM_UNAUTHENTICATED ? status : PRISM_UNKNOWN, sentence.at);
    prism_text_free(&sentence);
}

/* -- what handlers ask ---------------------------------------------------------------------------- */

static prism_status ended(prism_call *call) { /* the mutex is held */
    if (now() >= call->deadline) return PRISM_DEADLINE_EXCEEDED;
    return call->cancelled || call->closed ? PRISM_CANCELLED : PRISM_OK;
}

prism_status prism_ended(prism_call *call) {
    lock(call->session);
    prism_status status = ended(call);
    unlock(call->session);
    return status;
}

prism_status prism_wait(prism_call *call, double seconds) {
    double until = now() + seconds;
    lock(call->session);
    while (ended(call) == PRISM_OK && now() < until)
        await(&call->changed, call->session, until < call->deadline ? until : call->deadline);
    prism_status status = ended(call);
    unlock(call->session);
    return status;
}

double prism_time_left(prism_call *call) { return call->deadline - now(); }
const char *prism_operation_name(prism_call *call) { return call->name.at; }
const char *prism_metadata_json(prism_call *call) { return call->metadata.size > 0 ? call->metadata.at : "{}"; }
const char *prism_principal(prism_call *call) { return prism_metadata(call, "prism-principal"); }
const char *prism_request_id(prism_call *call) { return prism_metadata(call, "prism-request-id"); }
prism_session *prism_session_of(prism_call *call) { return call->session; }

const char *prism_metadata(prism_call *call, const char *key) {
    prism_text text = {0};
    if (call->metadata.size == 0 || !prism_json_string(prism_json_field(call->metadata.at, key), &text)) {
        prism_text_free(&text);
        return "";
    }
    pair *kept = allocate(sizeof *kept);
    kept->value = text.at;
    kept->next = call->values;
    call->values = kept;
    return kept->value;
}

prism_status prism_send(prism_call *call, const char *json, const char *position) {
    prism_session *s = call->session;
    prism_text out = {0};
    if (call->failed) return PRISM_FAILED_PRECONDITION;
    if (!is_value(json)) { fault(call, "the message is not JSON"); return PRISM_INTERNAL; }
    add_all(&out, "{\"result_json\":");
    prism_add_quoted(&out, json, strlen(json));
    if (position != NULL && *position) {
        add_all(&out, ",\"position\":");
        prism_add_quoted(&out, position, strlen(position));
    }
    add_all(&out, "}");
    lock(s);
    prism_status status;
    if (out.size > s->answer_max) {
        call->over = TOO_LARGE;
        set_failure(call, status = PRISM_RESOURCE_EXHAUSTED, "a message is larger than the limit (plugin.max_frame_bytes)");
    } else {
        while ((status = ended(call)) == PRISM_OK && call->credit <= 0) await(&call->changed, s, call->deadline);
        while (s->out.size - s->out_from > MAX_QUEUED && !s->closed) await(&s->changed, s, INFINITY);
        if (status == PRISM_OK && !call->closed) {
            call->credit -= HEADER + (int64_t)out.size;
            queue(s, DATA, call->id, 0, 0, out.at);
            if (s->out.size - s->out_from >= 16384 || call->credit <= 0) flush(s);
            else if (!s->flush_soon) { s->flush_soon = 1; pthread_cond_signal(&s->background); } /* with what comes by then */
        }
    }
    unlock(s);
    prism_text_free(&out);
    return status;
}

const char *prism_receive(prism_call *call) {
    prism_session *s = call->session;
    prism_text_free(&call->held);
    lock(s);
    while (ended(call) == PRISM_OK && call->first == NULL && !call->ended) await(&call->changed, s, call->deadline);
    message *next = ended(call) == PRISM_OK ? call->first : NULL;
    if (next != NULL) {
        if ((call->first = next->next) == NULL) call->last = NULL;
        call->used += next->cost;
        if (call->used >= (int64_t)s->window / 2 && !call->ended && !call->closed) {
            queue(s, CREDIT, call->id, 0, (uint32_t)call->used, NULL);
            flush(s);
            call->window += call->used;
            call->used = 0;
        }
        call->held.at = next->params;
        free(next);
    }
    unlock(s);
    if (next != NULL && !prism_json_is_object(call->held.at)) {
        prism_fail(call, PRISM_INVALID_ARGUMENT, "the parameters must be one JSON object");
        return NULL;
    }
    return call->held.at;
}

const char *prism_namespace(prism_session *s) { return s->name_space.at; }
const char *prism_config(prism_session *s) { return s->config.at; }
void prism_set_state(prism_session *s, void *state) { s->state = state; }
void *prism_state(prism_session *s) { return s->state; }

const char *prism_credential(prism_session *s, const char *name) {
    for (pair *each = s->credentials; each != NULL; each = each->next)
        if (strcmp(each->name, name) == 0) return each->value;
    return NULL;
}

void prism_log(prism_session *s, prism_level level, const char *format, ...) {
    prism_text text = {0};
    va_list arguments;
    va_start(arguments, format);
    add_formatted(&text, format, arguments);
    va_end(arguments);
    redact(s, &text);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    lock(s);
    if (s->logged >= MAX_LOGGED || s->logs.size > MAX_QUEUED / 2) {
        send_logs(s);
        s->flush_soon = 1;
        pthread_cond_signal(&s->background);
    }
    if (s->logged >= MAX_LOGGED || s->logs.size > MAX_QUEUED / 2) s->dropped++; /* the host does not read */
    else {
        if (s->logged == 0) { s->logs.size = 0; s->logs_at = now() + LOGS; pthread_cond_signal(&s->background); }
        add_all(&s->logs, s->logged++ ? ",{\"message\":" : "{\"message\":");
        prism_add_quoted(&s->logs, text.at, text.size < MAX_LOG_LINE ? text.size : MAX_LOG_LINE);
        prism_add_format(&s->logs, ",\"level\":\"%s\",\"time\":%lld.%03ld,\"logger\":", LEVELS[level & 3], (long long)t.tv_sec, t.tv_nsec / 1000000);
        prism_add_quoted(&s->logs, s->plugin->name, strlen(s->plugin->name));
        add_all(&s->logs, "}");
    }
    if (level == PRISM_ERROR) { send_logs(s); flush(s); } /* it may be a process's last words */
    unlock(s);
    prism_text_free(&text);
}

void prism_metric(prism_session *s, const char *name, double value) {
    lock(s);
    pair *each = s->custom;
    while (each != NULL && strcmp(each->name, name) != 0) each = each->next;
    if (each == NULL) {
        each = allocate(sizeof *each);
        if ((each->name = strdup(name)) == NULL) abort();
        each->next = s->custom;
        s->custom = each;
    }
    each->number = value;
    unlock(s);
}

void prism_report(prism_session *s, prism_health health, const char *words) {
    prism_text text = {0}, note = {0};
    add_all(&text, words);
    redact(s, &text);
    prism_add_format(&note, "{\"health\":{\"status\":%d,\"message\":", (int)health);
    prism_add_quoted(&note, text.at, text.size);
    add_all(&note, "}}");
    lock(s);
    queue(s, NOTE, 0, 0, 0, note.at);
    flush(s);
    unlock(s);
    prism_text_free(&text);
    prism_text_free(&note);
}

/* -- the methods ------------------------------------------------------------------------------------ */

static void execute(prism_call *call) {
    const prism_operation *operation = call->operation;
    if (operation == NULL) set_failure(call, PRISM_UNIMPLEMENTED, "no such operation");
    else if (call->refused) set_failure(call, PRISM_INVALID_ARGUMENT, "this plugin reads JSON, and no MessagePack");
    else if ((operation->streaming != 0) != (call->method == EXECUTE_STREAM))
        set_failure(call, PRISM_UNIMPLEMENTED, "a streaming operation is called by ExecuteStream, any other by Execute");
    else if (!prism_json_is_object(call->params.at))
        set_failure(call, PRISM_INVALID_ARGUMENT, "the parameters must be one JSON object");
    else {
        operation->handler(call, call->params.at);
        prism_status why = prism_ended(call);
        if (why != PRISM_OK && call->answer.size == 0)
            set_failure(call, why, why == PRISM_CANCELLED ? "the call was cancelled" : "the time of the call is up");
        else if (call->answer.size == 0 && call->method == EXECUTE)
            fault(call, "the handler returned without an answer");
    }
}

static void add_declarations(const prism_plugin *plugin, prism_text *out) {
    prism_add_format(out, "{\"success\":true,\"plugin_version\":\"%s\",\"operations\":[", plugin->version);
    for (const prism_operation *each = plugin->operations; each->name != NULL; each++) {
        prism_add_format(out, "%s{\"name\":\"%s\",\"idempotent\":%s,\"streaming\":%s", each == plugin->operations ? "" : ",",
                         each->name, each->idempotent ? "true" : "false", each->streaming ? "true" : "false");
        if (each->access) prism_add_format(out, ",\"access\":%d", (int)each->access);
        if (each->cost) prism_add_format(out, ",\"cost\":%d", each->cost);
        const char *texts[] = {"description", each->description, "params_schema", each->params_schema,
                               "result_schema", each->result_schema};
        for (int i = 0; i < 6; i += 2)
            if (texts[i + 1] != NULL) {
                prism_add_format(out, ",\"%s\":", texts[i]);
                prism_add_quoted(out, texts[i + 1], strlen(texts[i + 1]));
            }
        add_all(out, "}");
    }
    add_all(out, "],\"supported_operations\":[");
    for (const prism_operation *each = plugin->operations; each->name != NULL; each++)
        prism_add_format(out, "%s\"%s\"", each == plugin->operations ? "" : ",", each->name);
    add_all(out, "]}");
}

static void initialize(prism_session *s, prism_call *call) {
    prism_text error = {0};
    prism_status status = PRISM_OK;
    if (call->refused) {
        status = PRISM_INVALID_ARGUMENT;
        add_all(&error, "this plugin has no cache: remove the `cache:` block");
    } else if (s->plugin->start != NULL) status = s->plugin->start(s, &error);
    if (status != PRISM_OK) {
        redact(s, &error);
        set_failure(call, status, error.size > 0 ? error.at : "the plugin could not start");
    } else {
        add_declarations(s->plugin, &call->answer);
        lock(s);
        s->initial = 2;
        unlock(s);
    }
    prism_text_free(&error);
}

static void health_check(prism_session *s, prism_call *call) {
    prism_text words = {0};
    prism_health health = PRISM_UNHEALTHY;
    add_all(&words, "");
    if (s->initial != 2) add_all(&words, "not initialized");
    else health = s->plugin->health != NULL ? s->plugin->health(s, &words) : PRISM_HEALTHY;
    redact(s, &words);
    prism_add_format(&call->answer, "{\"status\":%d,\"message\":", (int)health);
    prism_add_quoted(&call->answer, words.at, words.size);
    add_all(&call->answer, ",\"metrics\":");
    lock(s);
    add_metrics(s, &call->answer);
    unlock(s);
    add_all(&call->answer, "}");
    prism_text_free(&words);
}

/* Lets the calls but one end, then cancels them, then closes them in their place. */
static void end_calls(prism_session *s, const prism_call *but, double limit) {
    int others = but != NULL;
    lock(s);
    s->draining = 1;
    for (double until = now() + limit; s->running > others && !s->closed;)
        if (!await(&s->changed, s, until)) break;
    for (prism_call *each = s->calls; each != NULL; each = each->next)
        if (each != but) { each->cancelled = 1; pthread_cond_broadcast(&each->changed); }
    for (double until = now() + 1; s->running > others && !s->closed;)
        if (!await(&s->changed, s, until)) break;
    for (prism_call *each = s->calls, *next; each != NULL; each = next) {
        next = each->next;
        if (each == but) continue;
        prism_text answer = {0};
        add_failure(&answer, PRISM_UNAVAILABLE, "the plugin is stopping", each->method == EXECUTE_STREAM);
        remove_call(s, each);
        queue(s, CLOSE, each->id, 0, PRISM_UNAVAILABLE, answer.at);
        prism_text_free(&answer);
    }
    flush(s);
    unlock(s);
}

static void stop(prism_session *s) { /* once, of a plugin that has started */
    lock(s);
    int started = s->initial == 2;
    s->initial = 1;
    unlock(s);
    if (started && s->plugin->stop != NULL) s->plugin->stop(s);
}

static void end_connection(prism_session *s) { /* when all is written; the mutex is held */
    send_logs(s);
    flush(s);
    for (double until = now() + CLOSING; s->out_from < s->out.size && !s->closed;)
        if (!await(&s->changed, s, until)) break;
    s->ending = 1;
    shutdown(s->socket, SHUT_RDWR); /* the reader ends, perhaps in the middle of a frame */
}

static void shut_down(prism_session *s, prism_call *call) {
    end_calls(s, call, call->timeout);
    stop(s);
    add_all(&call->answer, "{\"success\":true}");
    lock(s);
    close_call(s, call, 0);
    end_connection(s);
    unlock(s);
}

static void run_call(prism_session *s, prism_call *call) {
    if (call->method == INITIALIZE) initialize(s, call);
    else if (call->method == HEALTH_CHECK) health_check(s, call);
    else if (call->method == SHUTDOWN) shut_down(s, call);
    else execute(call);
}

static void finish_call(prism_session *s, prism_call *call) { /* the mutex is held */
    if (call->method == EXECUTE || call->method == EXECUTE_STREAM) {
        s->total++;
        s->failed += call->failed;
        s->latency_ms = (now() - call->begun) * 1000;
    }
    close_call(s, call, call->over == TOO_LARGE ? TOO_LARGE : 0);
}

/* -- workers ------------------------------------------------------------------------------------------ */

static void *work(void *argument) {
    prism_session *s = argument;
    lock(s);
    for (;;) {
        prism_call *call = s->tasks;
        if (call == NULL) {
            if (s->pooled_end) break;
            s->idle++;
            pthread_cond_wait(&s->task, &s->mutex);
            s->idle--;
            continue;
        }
        if ((s->tasks = call->next_task) == NULL) s->tasks_last = NULL;
        unlock(s);
        run_call(s, call);
        lock(s);
        finish_call(s, call);
        flush(s);
        while (s->out.size - s->out_from > MAX_QUEUED && !s->closed) await(&s->changed, s, INFINITY);
        free_call(call);
    }
    s->threads--;
    pthread_cond_broadcast(&s->changed);
    unlock(s);
    return NULL;
}

static int start_thread(prism_session *s, void *(*function)(void *)) { /* the mutex is held */
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    int failed = pthread_create(&thread, &attributes, function, s);
    pthread_attr_destroy(&attributes);
    if (!failed) s->threads++;
    return !failed;
}

static void give_task(prism_session *s, prism_call *call) { /* the mutex is held */
    int waiting = 1;
    for (prism_call *each = s->tasks; each != NULL; each = each->next_task) waiting++;
    if (s->tasks_last != NULL) s->tasks_last->next_task = call;
    else s->tasks = call;
    s->tasks_last = call;
    if (waiting > s->idle && !start_thread(s, work) && s->threads < 2)
        fprintf(stderr, "no thread can be started: %s\n", strerror(errno));
    pthread_cond_signal(&s->task);
}

/* -- reading: each function says what the host has done wrong, or NULL ---------------------------------- */

static const char *take_hello(prism_session *s, const char *header, const char *payload) {
    prism_text text = {0};
    if (header[8] == GOAWAY) {
        string_field(payload, "reason", &text);
        fprintf(stderr, "the host refused this plugin: %s\n", text.at);
        prism_text_free(&text);
        return "";
    }
    if (header[8] != HELLO) return "no HELLO first";
    int fits = string_field(payload, "codec", &text) && strcmp(text.at, "json") == 0 && get32(header + 12) == PRISM_PROTOCOL;
    prism_text_free(&text);
    if (!fits) return "it chose what was not offered: protocol 1, and JSON";
    double frame = 1048576, window = 262144, streams = 100;
    struct { const char *name; double *value; } limits[] = {{"max_frame", &frame}, {"window", &window}, {"max_streams", &streams}};
    for (int i = 0; i < 3; i++) {
        const char *value = prism_json_field(payload, limits[i].name);
        if (value != NULL && (!prism_json_number(value, limits[i].value) || *limits[i].value < 1 || *limits[i].value > 4294967295.0))
            return "a limit in HELLO is not 1 to 2^32 - 1";
    }
    lock(s);
    s->answer_max = (uint32_t)frame;
    s->host_window = (uint32_t)window;
    s->greeted = 1;
    unlock(s);
    return NULL;
}

/* Reads Execute's, ExecuteStream's and DATA's request. */
static const char *read_request(const char *payload, prism_text *name, prism_text *params, prism_text *metadata, int *is_binary) {
    const char *raw, *value, *object = payload;
    size_t size;
    while ((value = member(&object, &raw, &size)) != NULL) {
        prism_text *into = is_named(raw, size, "operation") ? name : is_named(raw, size, "params_json") ? params : NULL;
        if (into != NULL) {
            into->size = 0;
            if (!prism_json_string(value, into)) return "operation and params_json are strings";
        } else if (is_named(raw, size, "metadata") && metadata != NULL) {
            if (*value != '{') return "metadata is an object";
            metadata->size = 0;
            prism_add(metadata, value, (size_t)(prism_json_end(value) - value));
        } else if (is_named(raw, size, "params_raw")) *is_binary = 1;
    }
    if (params->size != strlen(params->size ? params->at : "")) params->size = 0, add_all(params, "\\0");
    return NULL;
}

static const char *read_initialize(prism_session *s, prism_call *call, const char *payload) {
    const char *secrets = prism_json_field(payload, "credentials"), *raw, *value;
    const char *cache = prism_json_field(payload, "cache");
    size_t size;
    if (!string_field(payload, "namespace", &s->name_space) || !string_field(payload, "config_json", &s->config))
        return "namespace and config_json are strings";
    if (!prism_json_is_object(s->config.at)) { s->config.size = 0; add_all(&s->config, "{}"); }
    if (secrets != NULL && *secrets != '{') return "credentials are an object";
    while (secrets != NULL && (value = member(&secrets, &raw, &size)) != NULL) {
        prism_text key = {0}, text = {0};
        if (!prism_json_string(raw - 1, &key) || !prism_json_string(value, &text)) { prism_text_free(&key); return "credentials are strings"; }
        pair *each = allocate(sizeof *each);
        each->name = key.at;
        each->value = text.at;
        pair **at = &s->credentials; /* the longest first: what is hidden of one may begin another */
        while (*at != NULL && strlen((*at)->value) > strlen(text.at)) at = &(*at)->next;
        each->next = *at;
        *at = each;
    }
    call->refused = cache != NULL && *cache == '{';
    return NULL;
}

static void refuse(prism_session *s, prism_call *call, prism_status status, int flags, const char *sentence) {
    set_failure(call, status, sentence);
    close_call(s, call, flags);
    unlock(s);
    free_call(call);
}

static const char *open_call(prism_session *s, const char *header, const char *payload, double read_at) {
    uint32_t id = get32(header + 4), aux = get32(header + 12);
    int method = header[11];
    if (id % 2 == 0 || id <= s->last_stream) return "ids of the host are odd, and grow";
    if (method < INITIALIZE || method > SHUTDOWN) return "an unknown method";
    prism_call *call = allocate(sizeof *call);
    *call = (prism_call){.session = s, .id = id, .method = method, .deadline = aux > 0 ? read_at + aux / 1000.0 : INFINITY,
                         .begun = read_at, .window = s->window, .credit = s->host_window,
                         .ended = method != EXECUTE_STREAM || (header[9] & END) != 0};
    condition(&call->changed);
    const char *wrong = NULL;
    int executes = method == EXECUTE || method == EXECUTE_STREAM;
    add_all(&call->name, "");
    if (executes) {
        wrong = read_request(payload, &call->name, &call->params, &call->metadata, &call->refused);
        if (call->params.size == 0) add_all(&call->params, "{}");
        for (const prism_operation *each = s->plugin->operations; each->name != NULL; each++)
            if (strcmp(each->name, call->name.at) == 0) call->operation = each;
    } else if (method == SHUTDOWN) {
        prism_text reason = {0};
        prism_json_number(prism_json_field(payload, "timeout_seconds"), &call->timeout);
        string_field(payload, "reason", &reason);
        s->replaced = strcmp(reason.at, "replaced") == 0;
        prism_text_free(&reason);
    }
    lock(s);
    int state = s->initial;
    if (method == INITIALIZE && state == 0 && wrong == NULL) wrong = read_initialize(s, call, payload);
    if (wrong == NULL && s->running >= (int)s->max_streams + CONTROL_CALLS) wrong = "more calls at a time than max_streams";
    if (wrong != NULL) { unlock(s); free_call(call); return wrong; }
    s->last_stream = id;
    call->next = s->calls;
    s->calls = call;
    s->running++;
    s->executing += executes;
    if (method == INITIALIZE && state == 0) s->initial = 1;
    if (executes && s->draining) refuse(s, call, PRISM_UNAVAILABLE, NOT_STARTED, "the plugin is draining");
    else if (method == INITIALIZE ? state != 0 : executes && state != 2) refuse(s, call, PRISM_FAILED_PRECONDITION, 0, "Initialize comes once, and first");
    else if (executes && s->executing > (int)s->max_streams) refuse(s, call, PRISM_RESOURCE_EXHAUSTED, NOT_STARTED, "the plugin has no room for more calls");
    else if (executes && (call->operation == NULL || (call->operation->quick && method == EXECUTE))) {
        unlock(s);
        run_call(s, call); /* what it answers leaves when all that was read is done */
        lock(s);
        finish_call(s, call);
        unlock(s);
        free_call(call);
    } else {
        if (method == SHUTDOWN) s->draining = 1;
        give_task(s, call);
        unlock(s);
    }
    return NULL;
}

static const char *take_data(prism_session *s, prism_call *call, const char *header, const char *payload) {
    prism_text ignored = {0}, params = {0};
    int is_binary = 0;
    const char *wrong = call->method != EXECUTE_STREAM ? "DATA for a unary call" : call->ended && !call->cancelled ? "DATA after END" : NULL;
    if (wrong == NULL) wrong = read_request(payload, &ignored, &params, NULL, &is_binary);
    prism_text_free(&ignored);
    if (wrong != NULL || call->cancelled) { prism_text_free(&params); return wrong; }
    if (call->window <= 0) { /* sent without credit: the call is over */
        prism_text_free(&params);
        call->cancelled = 1;
        remove_call(s, call);
        queue(s, CLOSE, call->id, 0, PRISM_CANCELLED, NULL);
        pthread_cond_broadcast(&call->changed);
        return NULL;
    }
    int64_t cost = HEADER + (int64_t)get32(header);
    call->window -= cost;
    call->ended = (header[9] & END) != 0;
    if (!call->ended || params.size > 0 || is_binary) {
        message *next = allocate(sizeof *next);
        if (is_binary) { params.size = 0; add_all(&params, "MessagePack"); } /* which is refused */
        else if (params.size == 0) add_all(&params, "{}");
        next->params = params.at;
        next->cost = cost;
        if (call->last != NULL) call->last->next = next;
        else call->first = next;
        call->last = next;
    } else prism_text_free(&params);
    pthread_cond_broadcast(&call->changed);
    return NULL;
}

static const char *take_frame(prism_session *s, const char *header, const char *payload, double read_at) {
    uint32_t stream = get32(header + 4), aux = get32(header + 12);
    int type = header[8];
    const char *wrong = NULL;
    if (!s->greeted) return take_hello(s, header, payload);
    if (type == HELLO) return "a second HELLO";
    if (type == OPEN) return open_call(s, header, payload, read_at);
    lock(s);
    if (type == PING && (header[9] & ACK)) {
        s->drain_seen |= aux == DRAIN_TOKEN;
        pthread_cond_broadcast(&s->changed);
    } else if (type == PING) queue(s, PING, 0, ACK, aux, NULL);
    else if (type == GOAWAY) {
        s->go_away.size = 0;
        string_field(payload, "reason", &s->go_away);
    } else if (stream != 0 && (stream % 2 == 0 || stream > s->last_stream)) wrong = "a frame for a call that was never opened";
    else if (stream != 0) {
        prism_call *call = s->calls; /* none: it is over, and the two crossed */
        while (call != NULL && call->id != stream) call = call->next;
        if (call != NULL && type == CLOSE) wrong = "CLOSE of a call that is the plugin's to close";
        else if (call != NULL && type == DATA) wrong = take_data(s, call, header, payload);
        else if (call != NULL) {
            if (type == CANCEL) call->cancelled = 1;
            if (type == CREDIT && (call->credit += aux) > 4294967295) wrong = "CREDIT adds up to over 2^32";
            pthread_cond_broadcast(&call->changed);
        }
    }
    unlock(s);
    return wrong;
}

static const char *check_header(const prism_session *s, const char *header) {
    uint32_t size = get32(header), stream = get32(header + 4);
    int type = (unsigned char)header[8];
    int of_connection = type == HELLO || type == PING || type == GOAWAY || type == NOTE;
    if (type < HELLO || type > NOTE) return "an unknown type of frame";
    if ((stream == 0) != of_connection) return "a frame on the wrong stream";
    if ((type == CANCEL || type == CREDIT || type == PING) && size > 0) return "a payload where there is none";
    if (size > s->max_frame || (type == HELLO && size > MAX_HELLO)) return "a payload that is longer than max_frame";
    if (size > 0 && header[10] != JSON) return "a payload that is not in JSON, which was agreed on";
    return NULL;
}

/* Reads to the end of the connection; says what the host did wrong, "" where that was said, or NULL. */
static const char *read_frames(prism_session *s) {
    prism_text in = {0};
    size_t from = 0, need = HEADER;
    const char *wrong = NULL;
    double limit = now() + HANDSHAKE;
    while (wrong == NULL) {
        if (in.size - from < need) { /* all that was read is done: now answers leave */
            lock(s);
            flush(s);
            unlock(s);
            if (from > 0) memmove(in.at, in.at + from, in.size - from);
            in.size -= from;
            from = 0;
            if (in.size == 0 && in.room > MAX_QUEUED) prism_text_free(&in);
            if (!s->greeted) {
                struct pollfd waits = {.fd = s->socket, .events = POLLIN};
                int ms = (int)((limit - now()) * 1000);
                if (ms <= 0 || poll(&waits, 1, ms) == 0) { wrong = "no answer to HELLO in time"; break; }
            }
            /* Room for a header's claim only as its bytes arrive. */
            char *room = reserve(&in, need - in.size < 65536 ? 65536 : need - in.size < 262144 ? need - in.size : 262144);
            ssize_t got = recv(s->socket, room, in.room - in.size - 1, 0);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) {
                lock(s);
                int by_us = s->ending;
                unlock(s);
                if (got == 0 && in.size > 0 && !by_us) wrong = "the stream ended in the middle of a frame";
                else if (!s->greeted) { fprintf(stderr, "the host closed the connection instead of saying HELLO\n"); wrong = ""; }
                break;
            }
            in.size += (size_t)got;
            continue;
        }
        char *header = in.at + from;
        if ((wrong = check_header(s, header)) != NULL) break;
        uint32_t size = get32(header);
        if (in.size - from < HEADER + (size_t)size) { need = HEADER + (size_t)size; continue; }
        need = HEADER;
        char *payload = header + HEADER, kept = payload[size];
        payload[size] = '\0';
        if (size > 0 && (strlen(payload) != size || !prism_json_is_object(payload))) wrong = "a payload that is not one JSON object";
        else {
            if (s->tracing) trace(s, "received", header, payload);
            wrong = take_frame(s, header, size > 0 ? payload : "{}", now());
        }
        payload[size] = kept;
        from += HEADER + (size_t)size;
    }
    prism_text_free(&in);
    return wrong;
}

/* -- a session, from HELLO to its end -------------------------------------------------------------------- */

static pthread_mutex_t all_mutex = PTHREAD_MUTEX_INITIALIZER;
static prism_session *all; /* those that are served */
static int stopping, listener = -1;
static int first_state; /* of a session; tests begin where Initialize has been answered */

static uint32_t or_usual(uint32_t value, uint32_t usual) { return value > 0 ? value : usual; }

static void *drain(void *argument) { /* what SIGTERM asks for */
    prism_session *s = argument;
    lock(s);
    s->draining = 1;
    queue(s, GOAWAY, 0, 0, s->last_stream, "{\"reason\":\"the plugin's process was asked to stop\"}");
    queue(s, PING, 0, 0, DRAIN_TOKEN, NULL); /* its answer comes after the calls that crossed */
    flush(s);
    for (double until = now() + CLOSING; !s->drain_seen && !s->closed;)
        if (!await(&s->changed, s, until)) break;
    unlock(s);
    end_calls(s, NULL, STOP_GRACE);
    lock(s);
    end_connection(s);
    s->threads--;
    pthread_cond_broadcast(&s->changed);
    unlock(s);
    return NULL;
}

/* Serves one host. 0: it was served; 1: it could not be; 2: it was, and another has the place now. */
static int serve_session(const prism_plugin *plugin, int socket) {
    prism_session *s = allocate(sizeof *s);
    const char *traces = getenv("PRISM_TRACE");
    s->plugin = plugin;
    s->socket = socket;
    s->initial = first_state;
    s->tracing = traces != NULL && strcmp(traces, "1") == 0;
    s->max_streams = or_usual(plugin->max_streams, 256);
    s->max_frame = or_usual(plugin->max_frame, 16777216);
    s->window = or_usual(plugin->window, 262144);
    pthread_mutex_init(&s->mutex, NULL);
    condition(&s->changed);
    condition(&s->task);
    condition(&s->background);
    prism_text hello = {0};
    unsigned char random[16] = {0};
    if (getrandom(random, sizeof random, 0) < 0) memcpy(random, &s, sizeof s);
    add_all(&hello, "{\"name\":");
    prism_add_quoted(&hello, plugin->name, strlen(plugin->name));
    add_all(&hello, ",\"version\":");
    prism_add_quoted(&hello, plugin->version, strlen(plugin->version));
    add_all(&hello, ",\"instance\":\"");
    for (int i = 0; i < 16; i++) prism_add_format(&hello, "%02x", random[i]);
    prism_add_format(&hello, "\",\"codecs\":[\"json\"],\"max_frame\":%u,\"window\":%u,\"max_streams\":%u}", s->max_frame, s->window, s->max_streams);
    lock(s);
    queue(s, HELLO, 0, 0, PRISM_PROTOCOL, hello.at);
    flush(s);
    start_thread(s, in_background);
    unlock(s);
    prism_text_free(&hello);
    pthread_mutex_lock(&all_mutex);
    s->next = all;
    all = s;
    if (stopping) { lock(s); start_thread(s, drain); unlock(s); }
    pthread_mutex_unlock(&all_mutex);

    const char *wrong = read_frames(s);
    lock(s);
    if (wrong != NULL && *wrong) {
        prism_text reason = {0};
        fprintf(stderr, "the host broke the protocol: %s\n", wrong);
        prism_add_format(&reason, "{\"reason\":\"the host broke the protocol: %s\"}", wrong);
        queue(s, GOAWAY, 0, 0, s->last_stream, reason.at);
        prism_text_free(&reason);
        flush(s);
    } else if (s->go_away.size > 0 && !s->draining) {
        redact(s, &s->go_away);
        fprintf(stderr, "the host broke off: %s\n", s->go_away.at);
    }
    int result = wrong != NULL ? 1 : s->replaced ? 2 : 0;
    for (double until = now() + 1; s->out_from < s->out.size && !s->closed;)
        if (!await(&s->changed, s, until)) break;
    s->closed = 1;
    for (prism_call *each = s->calls; each != NULL; each = each->next) {
        each->cancelled = 1;
        pthread_cond_broadcast(&each->changed);
    }
    pthread_cond_broadcast(&s->changed);
    unlock(s);
    shutdown(socket, SHUT_RDWR);
    pthread_mutex_lock(&all_mutex);
    prism_session **at = &all;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&all_mutex);
    lock(s);
    for (double until = now() + CLOSING; s->running > 0;) /* of the handlers */
        if (!await(&s->changed, s, until)) break;
    s->pooled_end = 1;
    pthread_cond_broadcast(&s->task);
    pthread_cond_broadcast(&s->background);
    for (double until = now() + CLOSING; s->threads > 0;)
        if (!await(&s->changed, s, until)) break;
    int left = s->threads;
    unlock(s);
    stop(s);
    close(socket);
    if (left > 0) { /* a handler that does not end keeps its session */
        fprintf(stderr, "%d handlers go on after the end of their connection\n", left);
        return result;
    }
    prism_text *texts[] = {&s->name_space, &s->config, &s->out, &s->logs, &s->go_away};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) prism_text_free(texts[i]);
    free_pairs(s->credentials);
    free_pairs(s->custom);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->task);
    pthread_cond_destroy(&s->background);
    pthread_mutex_destroy(&s->mutex);
    free(s);
    return result;
}

/* -- the main program --------------------------------------------------------------------------------------- */

static void *await_signals(void *argument) {
    int number;
    sigwait(argument, &number);
    pthread_mutex_lock(&all_mutex);
    stopping = 1;
    for (prism_session *s = all; s != NULL; s = s->next) { lock(s); start_thread(s, drain); unlock(s); }
    if (listener >= 0) shutdown(listener, SHUT_RDWR);
    int served = all != NULL || listener >= 0;
    pthread_mutex_unlock(&all_mutex);
    if (!served) _exit(0); /* it waits for a proxy */
    sigwait(argument, &number);
    _exit(1); /* it was asked twice */
}

static int is_name(const char *name) {
    size_t size = strlen(name);
    if (size < 1 || size > 64 || name[0] < 'a' || name[0] > 'z') return 0;
    return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == size;
}

static int check_plugin(const prism_plugin *plugin) {
    if (plugin->name == NULL || !*plugin->name || plugin->version == NULL) return fprintf(stderr, "the plugin has no name, or no version\n"), 0;
    if (strpbrk(plugin->version, "\"\\") != NULL) return fprintf(stderr, "a version has no quotes: %s\n", plugin->version), 0;
    if (plugin->operations == NULL || plugin->operations->name == NULL) return fprintf(stderr, "plugin \"%s\" has no operations\n", plugin->name), 0;
    for (const prism_operation *each = plugin->operations; each->name != NULL; each++) {
        if (!is_name(each->name)) {
            char hint[65] = "";
            for (size_t i = 0; i < 64 && each->name[i]; i++) {
                int c = tolower((unsigned char)each->name[i]);
                hint[i] = isalnum(c) ? (char)c : '_';
            }
            return fprintf(stderr, "operation \"%s\": no client could call it; a name is 1 to 64 lower-case letters, digits and "
                           "underscores, a letter first, such as \"%s\"\n", each->name, hint), 0;
        }
        if (each->handler == NULL) return fprintf(stderr, "operation \"%s\" has no handler\n", each->name), 0;
        for (int i = 0; i < 2; i++) {
            const char *schema = i ? each->result_schema : each->params_schema;
            if (schema != NULL && !prism_json_is_object(schema))
                return fprintf(stderr, "operation \"%s\": its schema is no JSON object: %s\n", each->name, schema), 0;
        }
    }
    return 1;
}

static int unix_address(const char *path, struct sockaddr_un *address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) return fprintf(stderr, "the path of a socket has at most %zu bytes: %s\n", sizeof address->sun_path - 1, path), 0;
    strcpy(address->sun_path, path);
    return 1;
}

static int dial(const prism_plugin *plugin, const char *path) {
    struct sockaddr_un address;
    if (!unix_address(path, &address)) return 2;
    int told = 0;
    for (double pause = 0.1;; pause = pause < 2.5 ? 2 * pause : 5) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
            told = 0;
            int result = serve_session(plugin, fd);
            if (result == 2) return fprintf(stderr, "another process has taken this one's place; ending\n"), 0;
            pause = result == 1 ? 5 : 0.1;
        } else {
            if (!told++) fprintf(stderr, "waiting for the proxy at %s (%s)\n", path, strerror(errno));
            if (fd >= 0) close(fd);
        }
        pthread_mutex_lock(&all_mutex);
        int ends = stopping;
        pthread_mutex_unlock(&all_mutex);
        if (ends) return 0;
        nanosleep(&(struct timespec){(time_t)pause, (long)((pause - floor(pause)) * 1e9)}, NULL);
    }
}

struct accepted { const prism_plugin *plugin; int socket; };
static int serving;
static pthread_cond_t all_changed = PTHREAD_COND_INITIALIZER;

static void *serve_accepted(void *argument) {
    struct accepted one = *(struct accepted *)argument;
    free(argument);
    serve_session(one.plugin, one.socket);
    pthread_mutex_lock(&all_mutex);
    serving--;
    pthread_cond_broadcast(&all_changed);
    pthread_mutex_unlock(&all_mutex);
    return NULL;
}

static int listen_at(const char *where, int insecure) {
    int fd = -1;
    if (strncmp(where, "unix:", 5) == 0) {
        struct sockaddr_un address;
        if (!unix_address(where + 5, &address)) return -1;
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(probe, (struct sockaddr *)&address, sizeof address) != 0 && errno == ECONNREFUSED) unlink(where + 5); /* of a process that has ended */
        close(probe);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        fchmod(fd, 0600);
        mode_t old = umask(0177); /* for this user alone */
        int failed = bind(fd, (struct sockaddr *)&address, sizeof address);
        umask(old);
        if (failed || listen(fd, 16)) return fprintf(stderr, "cannot listen on %s: %s\n", where, strerror(errno)), close(fd), -1;
        return fd;
    }
    const char *colon = strrchr(where, ':');
    if (strncmp(where, "tcp:", 4) != 0 || colon == where + 3) return fprintf(stderr, "\"%s\" is not an address: write unix:PATH or tcp:HOST:PORT\n", where), -1;
    char host[64] = "";
    snprintf(host, sizeof host, "%.*s", (int)(colon - where - 4), where + 4);
    int is_loopback = strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0;
    if (!insecure || !is_loopback)
        return fprintf(stderr, "refusing to listen on %s: this kit has no TLS. Listen on loopback with --insecure, behind a TLS terminator\n", where), -1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &address.sin_addr) != 1) return fprintf(stderr, "%s is no address\n", host), -1;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)) return fprintf(stderr, "cannot listen on %s: %s\n", where, strerror(errno)), close(fd), -1;
    socklen_t size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    fprintf(stderr, "listening on tcp:%s:%d\n", host, ntohs(address.sin_port));
    return fd;
}

static int accept_hosts(const prism_plugin *plugin, const char *where, int insecure) {
    int fd = listen_at(where, insecure);
    if (fd < 0) return 2;
    pthread_mutex_lock(&all_mutex);
    listener = fd;
    while (!stopping) {
        pthread_mutex_unlock(&all_mutex);
        int socket = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        struct accepted *one = NULL;
        if (socket >= 0) {
            one = allocate(sizeof *one);
            *one = (struct accepted){plugin, socket};
        } else if (errno != EINTR) nanosleep(&(struct timespec){0, 100000000}, NULL); /* out of descriptors, or stopping */
        pthread_mutex_lock(&all_mutex);
        if (one == NULL) continue;
        if (pthread_create(&thread, NULL, serve_accepted, one) != 0) { close(socket); free(one); continue; }
        pthread_detach(thread);
        serving++;
    }
    while (serving > 0) pthread_cond_wait(&all_changed, &all_mutex);
    pthread_mutex_unlock(&all_mutex);
    close(fd);
    if (strncmp(where, "unix:", 5) == 0) unlink(where + 5);
    return 0;
}

static int inherited(const prism_plugin *plugin, const char *text) {
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    char *end;
    long fd = strtol(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || getpeername((int)fd, (struct sockaddr *)&peer, &size) != 0)
        return fprintf(stderr, "PRISM_PLUGIN_FD=%s is not a connected socket; only Prism sets this variable, when it starts a plugin\n", text), 2;
    fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    return serve_session(plugin, (int)fd) == 1;
}

int prism_serve(const prism_plugin *plugin, int argc, char **argv) {
    static const char usage[] = "usage: %s [--connect unix:PATH | --listen unix:PATH|tcp:HOST:PORT [--insecure]]\n"
        "Started by Prism (PRISM_PLUGIN_FD), it needs no arguments; PLUGIN_SOCKET is the path of the proxy's socket to dial.\n";
    const char *fd = getenv("PRISM_PLUGIN_FD"), *path = getenv("PLUGIN_SOCKET"), *listens = NULL, *connects = NULL;
    int insecure = 0;
    if (!check_plugin(plugin)) return 2;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--insecure") == 0) insecure = 1;
        else if (strcmp(argv[i], "--help") == 0) return printf(usage, argv[0]), 0;
        else if (strcmp(argv[i], "--listen") == 0 && i + 1 < argc) listens = argv[++i];
        else if (strcmp(argv[i], "--connect") == 0 && i + 1 < argc && strncmp(argv[i + 1], "unix:", 5) == 0) connects = argv[++i] + 5;
        else return fprintf(stderr, strncmp(argv[i], "--tls", 5) ? usage : "this kit has no TLS (%s): put a TLS terminator before it\n", strncmp(argv[i], "--tls", 5) ? argv[0] : argv[i]), 2;
    }
    char *inherits = fd == NULL ? NULL : strdup(fd);
    unsetenv("PRISM_PLUGIN_FD"); /* programs that the plugin starts shall not find it */
    static sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    pthread_t thread;
    if (pthread_create(&thread, NULL, await_signals, &signals) != 0) return fprintf(stderr, "no thread can be started: %s\n", strerror(errno)), 1;
    pthread_detach(thread);
    int result = 2;
    if (listens != NULL) result = accept_hosts(plugin, listens, insecure);
    else if (connects != NULL) result = dial(plugin, connects);
    else if (inherits != NULL) result = inherited(plugin, inherits);
    else if (path != NULL && *path) result = dial(plugin, path);
    else fprintf(stderr, "nothing says where the proxy is: use --connect or --listen, set PLUGIN_SOCKET, or let Prism start this plugin (`command:`)\n");
    free(inherits);
    return result;
}
