/* One server-side HTTP/2 connection on nghttp2, sans-I/O: the codec of codec.HTTP2Codec.
 *
 * Theory of operation. nghttp2 is driven only from `receive` and from the calls that
 * send; both end in `session_flush`, so that between calls nothing waits inside nghttp2:
 * what it has to say is in `out`. Its callbacks only collect: they note events in an
 * array of plain structs, which become Python objects once nghttp2 has returned. No
 * callback runs Python code, except that an allocation may run the garbage collector,
 * whose finalizers could call back into the session; `busy` refuses that.
 *
 * Error handling. A callback whose allocation fails leaves the Python exception set and
 * returns NG_ERR_CALLBACK_FAILURE; the caller of nghttp2 returns NULL then. What the
 * client did wrong goes into `error_code` and `error_reason`, is raised once as
 * ClientError, and leaves the session dead: later calls have no effect, save `goaway`
 * and `take`.
 */
#ifndef PRISM_SESSION_H
#define PRISM_SESSION_H

#include "head.h"

#define MAX_FRAME_SIZE 16384
#define MAX_BURST 65536 /* as in codec.py */
#define FRAME_HEADER 9
#define NO_ERROR 0u
#define PROTOCOL_ERROR 1u
#define STREAM_CLOSED 5u
#define FRAME_SIZE_ERROR 6u
#define INTERNAL_ERROR 2u
#define ENHANCE_YOUR_CALM 11u

/* One stream, from its HEADERS until nghttp2 closes it. */
typedef struct Stream {
    struct Stream *previous, *next; /* all of a session, or those closed in this call */
    int32_t id;
    Head head;
    size_t head_size;  /* as SETTINGS_MAX_HEADER_LIST_SIZE counts */
    size_t head_fields;
    size_t head_crumbs; /* of these, what continues a cookie */
    int64_t received;  /* bytes of body */
    PyObject *body;    /* what came of it in the present call; its first body_len bytes */
    Py_ssize_t body_len;
    char announced;    /* its Request event was made */
    char pending;      /* ... in the present call, so DATA can still be added to it */
    char ended;
    char dropped;      /* malformed: nothing more of it is told */
    char reset;        /* by either side */
    char by_our_reset;
} Stream;

typedef enum {
    EVENT_REQUEST,
    EVENT_DATA,
    EVENT_ENDED,
    EVENT_MALFORMED,
    EVENT_RESET,
    EVENT_WINDOW,
    EVENT_PING,
    EVENT_LEAVING,
} EventKind;

typedef struct {
    EventKind kind;
    int32_t stream_id;
    Stream *stream;     /* of EVENT_REQUEST and EVENT_DATA */
    PyObject *data;     /* of EVENT_PING */
    const char *reason; /* of EVENT_MALFORMED */
} Event;

#define REMEMBERED 128 /* a power of two */

/* Streams that were closed lately. nghttp2 ignores what comes for a closed stream, which is
 * right only if it may have crossed our RST_STREAM (RFC 9113, 5.1). */
typedef struct {
    int32_t id;
    char by_our_reset;
} Closed;

/* Follows the frames, so that each is judged before nghttp2 sees it, and for the client's GOAWAY.
 * That must not reach nghttp2, which would then stop reading and answering once no stream is
 * open: requests on their way would be lost. It passes as a frame of a type that nobody knows. */
typedef struct {
    size_t to_skip;
    uint8_t header[9];
    uint8_t header_len;
    int frames; /* whose headers came in the present call */
} Follower;

/* The state of limits.FrameGuard. */
typedef struct {
    double budget;
    double refill; /* a second */
    double balance;
    double refilled_at;
    size_t header_block;
    size_t padded_length; /* of a DATA frame whose pad length is the next byte; else 0 */
    char in_headers;
    char headers_follow;
} Guard;

typedef struct {
    PyObject_HEAD
    State *state;
    ng_session *session;
    size_t max_header_size;
    size_t max_header_fields;
    int32_t last_stream_id;
    int32_t highest_id; /* of any HEADERS begun */
    Closed remembered[REMEMBERED];
    PyObject *out; /* bytes, not seen by anyone else; the first out_len are used */
    Py_ssize_t out_len;
    Event *events;
    size_t event_count, event_room;
    Stream *streams;
    Stream *closed;
    const uint8_t *chunk; /* what nghttp2 is to make frames of */
    size_t chunk_len;
    size_t left; /* bytes of the present call behind the frame at hand */
    Follower follower;
    Guard guard;
    int32_t hidden_reset; /* a stream whose RST_STREAM must not be sent; 0: none */
    PairCache pairs;
    char busy;
    char dead;
    char failed; /* error_code holds */
    uint32_t error_code;
    char error_reason[128];
} Session;

/* events.c */
Event *session_add_event(Session *self, EventKind kind, int32_t stream_id);
PyObject *session_make_events(Session *self);
void session_drop_events(Session *self);

/* streams.c */
Stream *session_add_stream(Session *self, int32_t id);
void session_close_stream(Session *self, Stream *stream);
void session_free_streams(Session *self);
void session_free_closed(Session *self);
int session_headers_complete(Session *self, Stream *stream, int ended);
int session_add_body(Session *self, Stream *stream, const uint8_t *data, size_t len);
PyObject *session_take_body(Session *self, Stream *stream);
int session_end_request(Session *self, Stream *stream);
int session_refuse_request(Session *self, Stream *stream, const char *reason);

/* guard.c */
void session_refill(Session *self, double now);
void session_judge_frame(Session *self, size_t length, uint8_t kind, uint8_t flags);
void session_judge_padding(Session *self, uint8_t pad_length);
PyObject *session_charge(Session *self, PyObject *cost);
PyObject *session_credit(Session *self, PyObject *amount);

/* frames.c: some frames of `data`. Returns how many bytes these are, or a result of nghttp2. */
ssize_t session_feed(Session *self, const uint8_t *data, size_t size);

/* receiving.c */
void session_set_callbacks(ng_callbacks *callbacks);
void session_fail(Session *self, uint32_t code, const char *reason);
void session_fail_with(Session *self, uint32_t code, const uint8_t *reason, size_t len);
PyObject *session_receive(Session *self, PyObject *const *args, Py_ssize_t nargs);

/* output.c */
int session_reserve(Session *self, size_t len);
int session_append(Session *self, const uint8_t *data, size_t len);
int session_append_frame(Session *self, uint8_t type, uint8_t flags, int32_t stream_id,
                         const uint8_t *payload, uint8_t len);
int session_flush(Session *self);
PyObject *session_take(Session *self, PyObject *ignored);
PyObject *session_raise(Session *self, ssize_t result);
PyObject *session_sent(Session *self, int result);
int session_check_count(Py_ssize_t nargs, Py_ssize_t wanted);
int session_number(PyObject *object, long *number);
int session_decimal(PyObject *object, double *number);
int session_ready(Session *self);
int session_ready_on(Session *self, long stream_id);

/* sending.c */
#define NOT_SUBMITTED 1 /* a Python exception is set; the session is as it was */
Py_ssize_t session_window_of(Session *self, long stream_id);
PyObject *session_send_headers(Session *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *session_send_data(Session *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *session_send_response(Session *self, PyObject *const *args, Py_ssize_t nargs);
int session_send_chunk(ng_session *session, ng_frame *frame, const uint8_t *header, size_t length,
                       ng_data_source *source, void *user_data);

/* control.c */
PyObject *session_window(Session *self, PyObject *stream_id);
PyObject *session_widen(Session *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *session_consumed(Session *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *session_reset(Session *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *session_ping(Session *self, PyObject *payload);
PyObject *session_goaway(Session *self, PyObject *const *args, Py_ssize_t nargs);

#endif
