/* Streams, and the requests on them, as the frames come in. */
#include "session.h"

#include <string.h>

static void link_stream(Stream **list, Stream *stream)
{
    stream->previous = NULL;
    stream->next = *list;
    if (*list != NULL) {
        (*list)->previous = stream;
    }
    *list = stream;
}

static void unlink_stream(Stream **list, Stream *stream)
{
    if (stream->previous != NULL) {
        stream->previous->next = stream->next;
    } else {
        *list = stream->next;
    }
    if (stream->next != NULL) {
        stream->next->previous = stream->previous;
    }
}

static void free_list(Stream **list)
{
    while (*list != NULL) {
        Stream *stream = *list;
        *list = stream->next;
        head_clear(&stream->head);
        Py_CLEAR(stream->body);
        PyMem_Free(stream);
    }
}

void session_free_streams(Session *self)
{
    free_list(&self->streams);
    free_list(&self->closed);
}

void session_free_closed(Session *self)
{
    free_list(&self->closed);
}

void session_close_stream(Session *self, Stream *stream)
{
    self->remembered[(stream->id >> 1) & (REMEMBERED - 1)] =
        (Closed){stream->id, stream->by_our_reset};
    unlink_stream(&self->streams, stream);
    link_stream(&self->closed, stream);
}

Stream *session_add_stream(Session *self, int32_t id)
{
    Stream *stream = PyMem_Calloc(1, sizeof *stream);

    if (stream == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    stream->id = id;
    stream->head.content_length = -1;
    if (ng.session_set_stream_user_data(self->session, id, stream) != 0) {
        PyMem_Free(stream);
        PyErr_SetString(PyExc_RuntimeError, "nghttp2 does not know its new stream");
        return NULL;
    }
    link_stream(&self->streams, stream);
    self->highest_id = id;
    return stream;
}

/* Requests. Each returns 0, or -1 with a Python exception. */

int session_refuse_request(Session *self, Stream *stream, const char *reason)
{
    Event *event = session_add_event(self, EVENT_MALFORMED, stream->id);

    if (event == NULL) {
        return -1;
    }
    event->reason = reason;
    stream->dropped = stream->reset = stream->by_our_reset = 1;
    if (ng.submit_rst_stream(self->session, NG_FLAG_NONE, stream->id, PROTOCOL_ERROR) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* A request whose header section is too large: what follows is dropped, but it is answered. */
static int refuse_large(Session *self, Stream *stream)
{
    Event *event = session_add_event(self, EVENT_MALFORMED, stream->id);

    if (event == NULL) {
        return -1;
    }
    event->reason = head_too_large;
    stream->dropped = stream->announced = 1;
    head_clear(&stream->head);
    return 0;
}

int session_end_request(Session *self, Stream *stream)
{
    if (stream->dropped || stream->ended) {
        return 0;
    }
    if (stream->head.content_length >= 0 && stream->received != stream->head.content_length) {
        return session_refuse_request(self, stream, "the body is not as long as content-length says");
    }
    stream->ended = 1;
    if (stream->pending) {
        return 0;
    }
    return session_add_event(self, EVENT_ENDED, stream->id) == NULL ? -1 : 0;
}

static int begin_request(Session *self, Stream *stream, int ended)
{
    Event *event;

    if (stream->id > self->last_stream_id) {
        self->last_stream_id = stream->id;
    }
    if (head_finish(&stream->head, self->state, ended) < 0) {
        return -1;
    }
    if (stream->head.fault == head_too_large) {
        return refuse_large(self, stream);
    }
    if (stream->head.fault != NULL) {
        return session_refuse_request(self, stream, stream->head.fault);
    }
    event = session_add_event(self, EVENT_REQUEST, stream->id);
    if (event == NULL) {
        return -1;
    }
    event->stream = stream;
    stream->announced = stream->pending = 1;
    return ended ? session_end_request(self, stream) : 0;
}

static int finish_trailers(Session *self, Stream *stream, int ended)
{
    if (stream->dropped) {
        return 0;
    }
    if (stream->head.fault != NULL) {
        return session_refuse_request(self, stream, stream->head.fault);
    }
    if (!ended) {
        return session_refuse_request(self, stream, "trailers that do not end the request");
    }
    return session_end_request(self, stream);
}

/* Make room for `more` bytes of body. The object is ours alone: made without contents, even one of
 * a single byte is not the one that Python shares. */
static int make_room(Session *self, Stream *stream, Py_ssize_t more)
{
    Py_ssize_t room = stream->body == NULL ? 0 : PyBytes_GET_SIZE(stream->body);
    Py_ssize_t wanted = stream->body_len + more;

    if (wanted <= room) {
        return 0;
    }
    if (stream->body == NULL) {
        stream->body = PyBytes_FromStringAndSize(NULL, wanted);
        return stream->body == NULL ? -1 : 0;
    }
    /* There are several frames: with all that is left of the call, so as to copy the first one only. */
    return _PyBytes_Resize(&stream->body, wanted + (Py_ssize_t)self->left);
}

/* What comes of a body in one call is told at once, in the place of its first frame. */
int session_add_body(Session *self, Stream *stream, const uint8_t *data, size_t len)
{
    if (stream->body == NULL && !stream->pending) {
        Event *event = session_add_event(self, EVENT_DATA, stream->id);
        if (event == NULL) {
            return -1;
        }
        event->stream = stream;
    }
    if (make_room(self, stream, (Py_ssize_t)len) < 0) {
        stream->body_len = 0;
        return -1;
    }
    memcpy(PyBytes_AS_STRING(stream->body) + stream->body_len, data, len);
    stream->body_len += (Py_ssize_t)len;
    return 0;
}

/* Those bytes, no longer the stream's; NULL with an exception. */
PyObject *session_take_body(Session *self, Stream *stream)
{
    PyObject *body = stream->body;

    if (body == NULL) {
        return Py_NewRef(self->state->empty);
    }
    stream->body = NULL;
    if (PyBytes_GET_SIZE(body) != stream->body_len) {
        _PyBytes_Resize(&body, stream->body_len);
    }
    stream->body_len = 0;
    return body;
}

int session_headers_complete(Session *self, Stream *stream, int ended)
{
    return stream->announced || stream->dropped ? finish_trailers(self, stream, ended)
                                                : begin_request(self, stream, ended);
}
