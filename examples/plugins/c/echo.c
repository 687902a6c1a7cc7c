/* A Prism plugin in C99, written from docs/protocol.md: an echo and a store in memory.
 *
 *   cc -std=c99 -O2 -Wall -Wextra -o echo echo.c
 *
 * Prism starts it (PRISM_PLUGIN_FD), or it dials in: PLUGIN_SOCKET=/path ./echo
 *
 * It offers JSON only and answers each call before it reads on. The JSON reader checks the
 * syntax of all it is given, and decodes strings with every escape but \u0000. The store is a
 * list and holds each value as the JSON text it came in. */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HELLO = 1, OPEN, DATA, CLOSE, CANCEL, CREDIT, PING, GOAWAY, NOTE };
enum { INITIALIZE = 1, HEALTH_CHECK, EXECUTE, EXECUTE_STREAM, SHUTDOWN };
enum { OK = 0, INVALID_ARGUMENT = 3, EXHAUSTED = 8, PRECONDITION = 9, UNIMPLEMENTED = 12 };
enum { HEADER = 16, JSON = 1, ACK = 4, TOO_LARGE = 8, MAX_FRAME = 4194304, MAX_DEPTH = 100 };

static int conn = -1;
static char **again; /* this program's arguments, if it dials in */
static uint32_t last_stream, max_answer = 1048576;

/* -- text that grows ------------------------------------------------------- */

typedef struct { char *at; size_t size, room; } Text;

static void add(Text *text, const char *bytes, size_t count) {
    if (text->size + count + 1 > text->room) {
        text->room = 2 * (text->size + count + 1);
        text->at = realloc(text->at, text->room);
        if (text->at == NULL) abort();
    }
    memcpy(text->at + text->size, bytes, count);
    text->size += count;
    text->at[text->size] = '\0';
}

static void add_string(Text *text, const char *string) { add(text, string, strlen(string)); }

static void add_quoted(Text *text, const char *string) { /* as a JSON string */
    add(text, "\"", 1);
    for (; *string != '\0'; string++) {
        char escaped[8];
        if (*string == '"' || *string == '\\') snprintf(escaped, sizeof escaped, "\\%c", *string);
        else if ((unsigned char)*string < ' ') snprintf(escaped, sizeof escaped, "\\u%04x", *string);
        else snprintf(escaped, sizeof escaped, "%c", *string);
        add_string(text, escaped);
    }
    add(text, "\"", 1);
}

/* -- JSON, read in place: each function returns the end of what it read, or NULL -- */

static const char *space(const char *p) { while (*p && strchr(" \t\r\n", *p)) p++; return p; }

static int hex4(const char *p) { /* four hex digits; -1 if they are not */
    int value = 0;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)p[i])) return -1;
        value = value * 16 + (isdigit((unsigned char)p[i]) ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    }
    return value;
}

static void add_utf8(Text *out, long c) {
    char b[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) b[i] = (char)(0x80 | (c & 0x3f));
    b[0] = (char)(n == 1 ? c : (0xf00 >> n & 0xff) | c);
    add(out, b, (size_t)n);
}

static const char *read_string(const char *p, Text *out) {
    static const char *escapes = "\"\\/bfnrt", *meanings = "\"\\/\b\f\n\r\t";
    if (*p++ != '"') return NULL;
    for (; *p != '"'; p++) {
        if ((unsigned char)*p < ' ') return NULL; /* the end of the text, too */
        if (*p != '\\') { add(out, p, 1); continue; }
        const char *found = *++p ? strchr(escapes, *p) : NULL;
        if (found != NULL) { add(out, meanings + (found - escapes), 1); continue; }
        long c = *p == 'u' ? hex4(p + 1) : -1;
        if (c <= 0 || (c >= 0xdc00 && c < 0xe000)) return NULL;
        p += 4;
        if (c >= 0xd800 && c < 0xdc00) {
            int low = p[1] == '\\' && p[2] == 'u' ? hex4(p + 3) : -1;
            if (low < 0xdc00 || low > 0xdfff) return NULL;
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            p += 6;
        }
        add_utf8(out, c);
    }
    return p + 1;
}

static int is_utf8(const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        int more = *p < 0x80 ? 0 : *p < 0xc2 ? -1 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf5 ? 3 : -1;
        int first = p[0] << 8 | (more > 0 ? p[1] : 0);
        int overlong = (first >= 0xe000 && first < 0xe0a0) || (first >= 0xf000 && first < 0xf090);
        int surrogate = first >= 0xeda0 && first < 0xee00;
        if (more < 0 || overlong || surrogate || first >= 0xf490) return 0;
        for (p++; more > 0; more--, p++)
            if ((*p & 0xc0) != 0x80) return 0;
    }
    return 1;
}

static const char *digits(const char *p) {
    if (!isdigit((unsigned char)*p)) return NULL;
    while (isdigit((unsigned char)*p)) p++;
    return p;
}

static const char *number(const char *p) {
    if (*p == '-') p++;
    if (*p == '0') p++;
    else if ((p = digits(p)) == NULL) return NULL;
    if (*p == '.' && (p = digits(p + 1)) == NULL) return NULL;
    if (*p == 'e' || *p == 'E') { p++; p = digits(p + (*p == '+' || *p == '-')); }
    return p;
}

static const char *value(const char *p, int depth);

static const char *string(const char *p) {
    Text ignored = {0};
    p = read_string(p, &ignored);
    free(ignored.at);
    return p;
}

static const char *members(const char *p, char end, int depth) {
    if (depth == 0) return NULL;
    if (*(p = space(p)) == end) return p + 1;
    for (;; p = space(p + 1)) {
        if (end == '}' && ((p = string(p)) == NULL || *(p = space(p)) != ':')) return NULL;
        if ((p = value(space(p + (end == '}')), depth - 1)) == NULL) return NULL;
        if (*(p = space(p)) == end) return p + 1;
        if (*p != ',') return NULL;
    }
}

static const char *value(const char *p, int depth) {
    if (*p == '{' || *p == '[') return members(p + 1, *p == '{' ? '}' : ']', depth);
    if (*p == '"') return string(p);
    if (strncmp(p, "true", 4) == 0 || strncmp(p, "null", 4) == 0) return p + 4;
    if (strncmp(p, "false", 5) == 0) return p + 5;
    return number(p);
}

static int is_object(const char *text) { /* and nothing else */
    const char *end = *(text = space(text)) == '{' ? value(text, MAX_DEPTH) : NULL;
    return end != NULL && *space(end) == '\0';
}

/* The start of a field's value in a checked object, the last if there are several; or NULL. */
static const char *field(const char *object, const char *name) {
    const char *found = NULL, *p = space(space(object) + 1);
    while (*p == '"') {
        Text key = {0};
        add_string(&key, "");
        const char *at = space(space(read_string(p, &key)) + 1);
        if (strcmp(key.at, name) == 0) found = at;
        free(key.at);
        p = space(value(at, MAX_DEPTH));
        if (*p == ',') p = space(p + 1);
    }
    return found;
}

static int text_field(const char *object, const char *name, Text *out) { /* 0: not a string */
    const char *at = field(object, name);
    add_string(out, "");
    return at == NULL || read_string(at, out) != NULL;
}

/* -- frames ---------------------------------------------------------------- */

static void put32(char *b, uint32_t n) { for (int i = 3; i >= 0; i--, n >>= 8) b[i] = (char)n; }

static void stopped(int _) { /* SIGTERM, which is blocked but while this waits: no frame is cut */
    (void)_;
    char header[HEADER] = {[8] = GOAWAY};
    put32(header + 12, last_stream);
    if (conn >= 0 && write(conn, header, HEADER) < 0) _exit(1);
    _exit(0);
}

static void may_be_stopped(int yes) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(yes ? SIG_UNBLOCK : SIG_BLOCK, &term, NULL);
}

static void rest(long ms) {
    may_be_stopped(1);
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    may_be_stopped(0);
}

static void end_stream(int status) { /* who dials in waits for the next host, with nothing carried over */
    close(conn);
    conn = -1;
    if (again != NULL) { rest(status == 0 ? 100 : 5000); execvp(again[0], again); }
    exit(status);
}

static int read_all(unsigned char *bytes, size_t count) { /* 0: the stream has ended */
    while (count > 0) {
        may_be_stopped(1);
        ssize_t got = read(conn, bytes, count);
        may_be_stopped(0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        bytes += got;
        count -= (size_t)got;
    }
    return 1;
}

static uint32_t get32(const unsigned char *b) {
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}


static void send_frame(int type, uint32_t stream, int flags, uint32_t aux, const char *payload) {
    char header[HEADER] = {0};
    size_t size = strlen(payload);
    put32(header, (uint32_t)size);
    put32(header + 4, stream);
    header[8] = (char)type;
    header[9] = (char)flags;
    header[10] = size > 0 ? JSON : 0;
    put32(header + 12, aux);
    Text frame = {0};
    add(&frame, header, HEADER);
    add(&frame, payload, size);
    for (size_t sent = 0; sent < frame.size;) {
        ssize_t n = write(conn, frame.at + sent, frame.size - sent);
        if (n < 0 && errno != EINTR) end_stream(0); /* the host is gone */
        if (n > 0) sent += (size_t)n;
    }
    free(frame.at);
}

static void broken(const char *why) {
    Text reason = {0};
    fprintf(stderr, "the host broke the protocol: %s\n", why);
    add_string(&reason, "{\"reason\":");
    add_quoted(&reason, why);
    add_string(&reason, "}");
    send_frame(GOAWAY, 0, 0, last_stream, reason.at);
    end_stream(1);
}

static void close_call(uint32_t stream, uint32_t status, const char *response) {
    int fits = strlen(response) <= max_answer;
    send_frame(CLOSE, stream, fits ? 0 : TOO_LARGE, fits ? status : EXHAUSTED, fits ? response : "");
}

static void fail_call(uint32_t stream, uint32_t status, const char *why) {
    char code[32];
    Text response = {0};
    snprintf(code, sizeof code, ",\"error_code\":%u}", (unsigned)status);
    add_string(&response, "{\"error\":");
    add_quoted(&response, why);
    add_string(&response, code);
    close_call(stream, status, response.at);
    free(response.at);
}

/* -- the operations -------------------------------------------------------- */

typedef struct Entry { char *key, *value; struct Entry *next; } Entry;
static Entry *store;

static void succeed(uint32_t stream, const char *result) {
    Text response = {0};
    add_string(&response, "{\"success\":true,\"result_json\":");
    add_quoted(&response, result);
    add_string(&response, "}");
    close_call(stream, OK, response.at);
    free(response.at);
}

static void get(uint32_t stream, const Entry *entry) {
    Text result = {0};
    add_string(&result, entry == NULL ? "{\"found\":false}" : "{\"found\":true,\"value\":");
    if (entry != NULL) { add_string(&result, entry->value); add_string(&result, "}"); }
    succeed(stream, result.at);
    free(result.at);
}

static void set(uint32_t stream, Entry *entry, const char *key, const char *params) {
    const char *start = field(params, "value");
    if (start == NULL) { fail_call(stream, INVALID_ARGUMENT, "value is missing"); return; }
    if (entry == NULL) {
        entry = calloc(1, sizeof *entry);
        if (entry == NULL || (entry->key = strdup(key)) == NULL) abort();
        entry->next = store;
        store = entry;
    }
    Text text = {0};
    add(&text, start, (size_t)(value(start, MAX_DEPTH) - start));
    free(entry->value);
    entry->value = text.at;
    succeed(stream, "{\"stored\":true}");
}

static void execute(uint32_t stream, const char *name, const char *params) {
    Text key = {0};
    Entry *entry = store;
    if (!is_object(params)) fail_call(stream, INVALID_ARGUMENT, "parameters must be a JSON object");
    else if (strcmp(name, "echo") == 0) succeed(stream, params);
    else if (strcmp(name, "get") != 0 && strcmp(name, "set") != 0)
        fail_call(stream, UNIMPLEMENTED, "no such operation; there are echo, get and set");
    else if (field(params, "key") == NULL || !text_field(params, "key", &key))
        fail_call(stream, INVALID_ARGUMENT, "key must be a string");
    else {
        while (entry != NULL && strcmp(entry->key, key.at) != 0) entry = entry->next;
        if (strcmp(name, "get") == 0) get(stream, entry);
        else set(stream, entry, key.at, params);
    }
    free(key.at);
}

static void open_call(uint32_t stream, int method, const char *request) {
    static int initialized;
    if (stream % 2 == 0 || stream <= last_stream) broken("ids of the host are odd and grow");
    if (method < INITIALIZE || method > SHUTDOWN) broken("unknown method");
    last_stream = stream;
    if (method == SHUTDOWN) {
        Text reason = {0};
        close_call(stream, OK, "{\"success\":true}");
        if (text_field(request, "reason", &reason) && strcmp(reason.at, "replaced") == 0) exit(0);
        end_stream(0);
    } else if (method == HEALTH_CHECK) {
        close_call(stream, OK, initialized ? "{\"status\":0}" : "{\"status\":2}");
    } else if (initialized == (method == INITIALIZE)) {
        fail_call(stream, PRECONDITION, "Initialize comes once, and first");
    } else if (method == EXECUTE_STREAM) {
        fail_call(stream, UNIMPLEMENTED, "there are no streams");
    } else if (method == INITIALIZE && field(request, "cache") != NULL) {
        fail_call(stream, INVALID_ARGUMENT, "results are not kept here: leave out `cache`");
    } else if (method == INITIALIZE) {
        initialized = 1;
        close_call(stream, OK,
            "{\"success\":true,\"plugin_version\":\"1.0.0\",\"operations\":["
            "{\"name\":\"echo\",\"idempotent\":true,\"access\":1},"
            "{\"name\":\"get\",\"idempotent\":true,\"access\":1},"
            "{\"name\":\"set\",\"access\":2}],"
            "\"supported_operations\":[\"echo\",\"get\",\"set\"]}");
    } else {
        Text name = {0}, params = {0};
        if (!text_field(request, "operation", &name) || !text_field(request, "params_json", &params))
            broken("operation and params_json are strings");
        if (field(request, "params_raw") != NULL)
            fail_call(stream, INVALID_ARGUMENT, "MessagePack is not understood");
        else
            execute(stream, name.at, params.size > 0 ? params.at : "{}");
        free(name.at);
        free(params.at);
    }
}

/* -- the connection -------------------------------------------------------- */

static void take_hello(uint32_t version, const char *hello) {
    Text codec = {0};
    if (!text_field(hello, "codec", &codec) || strcmp(codec.at, "json") != 0 || version != 1)
        broken("the host chose what was not offered");
    const char *limit = field(hello, "max_frame");
    if (limit != NULL) max_answer = (uint32_t)strtoul(limit, NULL, 10);
    free(codec.at);
}

static void check_header(int type, uint32_t stream, uint32_t length) {
    int of_connection = type == HELLO || type == PING || type == GOAWAY || type == NOTE;
    int bare = type == CANCEL || type == CREDIT || type == PING;
    if (type < HELLO || type > NOTE) broken("unknown frame type");
    if (length > (bare ? 0 : MAX_FRAME)) broken("frame is too long");
    if ((stream == 0) != of_connection) broken("frame on the wrong stream");
}

static void serve(void) {
    unsigned char header[HEADER];
    int had_hello = 0;
    send_frame(HELLO, 0, 0, 1, "{\"name\":\"echo\",\"version\":\"1.0.0\",\"max_frame\":4194304}");
    while (read_all(header, HEADER)) {
        uint32_t length = get32(header), stream = get32(header + 4), aux = get32(header + 12);
        int type = header[8];
        check_header(type, stream, length);
        char *payload = calloc(1, (size_t)length + 1);
        if (payload == NULL) abort();
        if (!read_all((unsigned char *)payload, length)) break;
        if (length > 0 && (header[10] != JSON || strlen(payload) != length || !is_utf8(payload) ||
                           !is_object(payload)))
            broken("payload is not a JSON object");
        const char *message = length > 0 ? payload : "{}";
        if (type == GOAWAY && !had_hello) broken(payload);
        if ((type == HELLO) == had_hello) broken("one HELLO, and first");
        if (type == HELLO) { take_hello(aux, message); had_hello = 1; }
        else if (type == OPEN) open_call(stream, header[11], message);
        else if (type == PING) { if (!(header[9] & ACK)) send_frame(PING, 0, ACK, aux, ""); }
        else if (type == GOAWAY) fprintf(stderr, "the host goes: %s\n", message);
        /* Each call was closed before the next frame was read: the others come too late. */
        else if (stream > last_stream) broken("frame for a call that was never opened");
        free(payload);
    }
    end_stream(0);
}

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) { fputs("path is too long\n", stderr); exit(2); }
    strcpy(address.sun_path, path);
    for (long pause = 100;; pause = pause < 2500 ? 2 * pause : 5000) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
        if (fd >= 0) close(fd);
        rest(pause);
    }
}

int main(int count, char **arguments) {
    const char *fd = getenv("PRISM_PLUGIN_FD"), *path = getenv("PLUGIN_SOCKET");
    if (fd == NULL && path == NULL) {
        fputs("set PLUGIN_SOCKET, or let Prism start this plugin\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, stopped);
    may_be_stopped(0);
    again = fd != NULL || count == 0 ? NULL : arguments;
    conn = fd != NULL ? atoi(fd) : dial(path);
    serve();
}
