/* From bytes to events: nghttp2's callbacks, and `receive`, which runs them. */
#include "session.h"

#include <string.h>

/* How much of a header section that is refused is still decoded, in limits: HPACK's state is the
 * connection's, and ends with the first section that is not decoded whole. */
#define HARD_HEADER_LIMIT 4

void session_fail_with(Session *self, uint32_t code, const uint8_t *reason, size_t len)
{
    size_t room = sizeof self->error_reason - 1;

    if (self->failed) {
        return;
    }
    self->failed = 1;
    self->error_code = code;
    len = len < room ? len : room;
    if (len > 0) {
        memcpy(self->error_reason, reason, len);
    }
    self->error_reason[len] = '\0';
}

void session_fail(Session *self, uint32_t code, const char *reason)
{
    session_fail_with(self, code, (const uint8_t *)reason, strlen(reason));
}

static int result_of(int result)
{
    return result < 0 ? NG_ERR_CALLBACK_FAILURE : 0;
}

static int on_begin_headers(ng_session *session, const ng_frame *frame, void *user_data)
{
    Session *self = user_data;

    if (frame->hd.type != NG_HEADERS) {
        return 0;
    }
    if (frame->headers.cat == NG_HCAT_REQUEST) {
        return session_add_stream(self, frame->hd.stream_id) == NULL ? NG_ERR_CALLBACK_FAILURE : 0;
    }
    Stream *stream = ng.session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream != NULL) {
        stream->head_size = stream->head_fields = stream->head_crumbs = 0;
        stream->head.trailers = 1;
    }
    return 0;
}

static int on_header(ng_session *session, const ng_frame *frame, ng_rcbuf *name_buffer,
                     ng_rcbuf *value_buffer, uint8_t flags, void *user_data)
{
    Session *self = user_data;
    Stream *stream = ng.session_get_stream_user_data(session, frame->hd.stream_id);
    ng_vec name, value;

    if (stream == NULL) {
        return 0;
    }
    name = ng.rcbuf_get_buf(name_buffer);
    value = ng.rcbuf_get_buf(value_buffer);
    stream->head_size += name.len + value.len + 32; /* RFC 9113, 6.5.2 */
    stream->head_fields++;
    if (head_is_crumb(&stream->head, name)) {
        stream->head_crumbs++;
    }
    if (stream->head_size > HARD_HEADER_LIMIT * self->max_header_size ||
        stream->head_fields > HARD_HEADER_LIMIT * self->max_header_fields) {
        session_fail(self, ENHANCE_YOUR_CALM, "a header section is too large");
        return NG_ERR_CALLBACK_FAILURE;
    }
    if (stream->dropped) {
        return 0;
    }
    if (stream->head_size > self->max_header_size ||
        stream->head_fields - stream->head_crumbs > self->max_header_fields) {
        head_refuse_large(&stream->head);
    }
    return result_of(head_field(&stream->head, self->state, &self->pairs, name, value,
                                flags & NG_NV_NO_INDEX));
}

static int on_data_chunk(ng_session *session, uint8_t Py_UNUSED(flags), int32_t stream_id,
                         const uint8_t *data, size_t len, void *user_data)
{
    Session *self = user_data;
    Stream *stream = ng.session_get_stream_user_data(session, stream_id);
    int64_t declared;

    if (stream != NULL && !stream->dropped) {
        stream->received += (int64_t)len;
        declared = stream->head.content_length;
        if (declared < 0 || stream->received <= declared) {
            return result_of(session_add_body(self, stream, data, len));
        }
        if (session_refuse_request(self, stream, "the body is longer than content-length says") < 0) {
            return NG_ERR_CALLBACK_FAILURE;
        }
    }
    return ng.session_consume(session, stream_id, len) == 0 ? 0 : NG_ERR_CALLBACK_FAILURE;
}

static int on_frame_recv(ng_session *session, const ng_frame *frame, void *user_data)
{
    Session *self = user_data;
    int32_t id = frame->hd.stream_id;
    int ended = frame->hd.flags & NG_FLAG_END_STREAM;
    Stream *stream = id == 0 ? NULL : ng.session_get_stream_user_data(session, id);
    Event *event;

    switch (frame->hd.type) {
    case NG_HEADERS:
        return stream == NULL ? 0 : result_of(session_headers_complete(self, stream, ended));
    case NG_DATA:
        return stream == NULL || !ended ? 0 : result_of(session_end_request(self, stream));
    case NG_RST_STREAM:
        if (stream == NULL || stream->reset) {
            return 0;
        }
        stream->reset = 1;
        return session_add_event(self, EVENT_RESET, id) == NULL ? NG_ERR_CALLBACK_FAILURE : 0;
    case NG_SETTINGS:
        if (frame->hd.flags & NG_FLAG_ACK) {
            return 0;
        }
        return session_add_event(self, EVENT_WINDOW, 0) == NULL ? NG_ERR_CALLBACK_FAILURE : 0;
    case NG_WINDOW_UPDATE:
        return session_add_event(self, EVENT_WINDOW, id) == NULL ? NG_ERR_CALLBACK_FAILURE : 0;
    case NG_PING:
        if (!(frame->hd.flags & NG_FLAG_ACK)) {
            return 0;
        }
        event = session_add_event(self, EVENT_PING, 0);
        if (event == NULL) {
            return NG_ERR_CALLBACK_FAILURE;
        }
        event->data = PyBytes_FromStringAndSize((const char *)frame->ping.opaque_data, 8);
        return event->data == NULL ? NG_ERR_CALLBACK_FAILURE : 0;
    default:
        return 0;
    }
}

/* nghttp2 sends GOAWAY only to end the connection; that is left to the caller. */
static int before_frame_send(ng_session *Py_UNUSED(session), const ng_frame *frame,
                             void *user_data)
{
    Session *self = user_data;

    if (frame->hd.type != NG_GOAWAY) {
        return 0;
    }
    session_fail_with(self, frame->goaway.error_code, frame->goaway.opaque_data,
                      frame->goaway.opaque_data_len);
    return NG_ERR_CANCEL;
}

static int on_stream_close(ng_session *session, int32_t stream_id, uint32_t error_code,
                           void *user_data)
{
    Session *self = user_data;
    Stream *stream = ng.session_get_stream_user_data(session, stream_id);

    if (stream == NULL) {
        return 0;
    }
    session_close_stream(self, stream);
    if (error_code == NO_ERROR || stream->reset || !stream->announced) {
        return 0;
    }
    stream->reset = 1;
    return session_add_event(self, EVENT_RESET, stream_id) == NULL ? NG_ERR_CALLBACK_FAILURE : 0;
}

void session_set_callbacks(ng_callbacks *callbacks)
{
    ng.session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    ng.session_callbacks_set_on_header_callback2(callbacks, on_header);
    ng.session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    ng.session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    ng.session_callbacks_set_before_frame_send_callback(callbacks, before_frame_send);
    ng.session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    ng.session_callbacks_set_send_data_callback(callbacks, session_send_chunk);
}

PyObject *session_receive(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *events = NULL;
    Py_buffer view;
    ssize_t result;
    double now;

    if (session_check_count(nargs, 2) < 0 || session_decimal(args[1], &now) < 0) {
        return NULL;
    }
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "the session is at work");
        return NULL;
    }
    if (self->dead) {
        return session_raise(self, 0);
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    self->busy = 1;
    session_refill(self, now);
    result = session_feed(self, view.buf, (size_t)view.len);
    if (result >= 0 && session_flush(self) < 0) {
        result = NG_ERR_CALLBACK_FAILURE;
    }
    if (result < 0 || self->failed || PyErr_Occurred()) {
        session_raise(self, result);
    } else {
        events = session_make_events(self);
        self->dead = events == NULL;
    }
    session_drop_events(self);
    session_free_closed(self);
    self->busy = 0;
    PyBuffer_Release(&view);
    return events == NULL ? NULL : Py_BuildValue("(Nn)", events, (Py_ssize_t)result);
}
