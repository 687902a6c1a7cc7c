/* Responses: heads, data, trailers. */
#include "session.h"

#include <string.h>

#define HEADERS_ON_STACK 32

/* Headers that change from one response to the next. In HPACK's table they would only drive out
 * others, of which each costs as much again. (NOT_INDEXED in h2_library.py.) */
static uint8_t indexing_of(const char *name, Py_ssize_t len)
{
    static const char request_id[] = "x-request-id", standing[] = "ratelimit";

    if ((len == sizeof request_id - 1 && !memcmp(name, request_id, sizeof request_id - 1)) ||
        (len == sizeof standing - 1 && !memcmp(name, standing, sizeof standing - 1))) {
        return NG_NV_NO_INDEX;
    }
    return 0;
}

static int submit_headers(Session *self, long stream_id, PyObject *headers, int end)
{
    ng_nv on_stack[HEADERS_ON_STACK], *fields = on_stack;
    PyObject *sequence = PySequence_Fast(headers, "headers must be a sequence");
    Py_ssize_t count;
    int result = NOT_SUBMITTED;

    if (sequence == NULL) {
        return NOT_SUBMITTED;
    }
    count = PySequence_Fast_GET_SIZE(sequence);
    if (count > HEADERS_ON_STACK && (fields = PyMem_New(ng_nv, (size_t)count)) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PySequence_Fast_GET_ITEM(sequence, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 0)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 1))) {
            PyErr_SetString(PyExc_TypeError, "a header must be a tuple of two bytes objects");
            goto done;
        }
        PyObject *name = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
        /* Not copied: the frame is serialized before this call returns. */
        fields[i] = (ng_nv){
            (uint8_t *)PyBytes_AS_STRING(name), (uint8_t *)PyBytes_AS_STRING(value),
            (size_t)PyBytes_GET_SIZE(name),     (size_t)PyBytes_GET_SIZE(value),
            NG_NV_NO_COPY_NAME | NG_NV_NO_COPY_VALUE |
                indexing_of(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)),
        };
    }
    result = ng.submit_headers(self->session, end ? NG_FLAG_END_STREAM : NG_FLAG_NONE,
                               (int32_t)stream_id, NULL, fields, (size_t)count, NULL);
    if (result == 0 && session_flush(self) < 0) {
        result = NG_ERR_CALLBACK_FAILURE;
    }
done:
    if (fields != on_stack) {
        PyMem_Free(fields);
    }
    Py_DECREF(sequence);
    return result;
}

/* How much of the chunk goes into the next frame. Its bytes are not given to nghttp2, which would
 * only copy them: it gives the frame's header to session_send_chunk, and goes on. */
static ssize_t measure_chunk(ng_session *Py_UNUSED(session), int32_t Py_UNUSED(stream_id),
                             uint8_t *Py_UNUSED(buffer), size_t length, uint32_t *data_flags,
                             ng_data_source *Py_UNUSED(source), void *user_data)
{
    Session *self = user_data;

    if (self->chunk == NULL) {
        return NG_ERR_TEMPORAL_CALLBACK_FAILURE; /* it was not sent at once: never seen */
    }
    *data_flags |= NG_DATA_NO_COPY;
    if (self->chunk_len > length) {
        return (ssize_t)length;
    }
    *data_flags |= NG_DATA_EOF;
    return (ssize_t)self->chunk_len;
}

int session_send_chunk(ng_session *Py_UNUSED(session), ng_frame *Py_UNUSED(frame),
                       const uint8_t *header, size_t length,
                       ng_data_source *Py_UNUSED(source), void *user_data)
{
    Session *self = user_data;

    if (session_append(self, header, FRAME_HEADER) < 0 ||
        session_append(self, self->chunk, length) < 0) {
        return NG_ERR_CALLBACK_FAILURE;
    }
    self->chunk += length;
    self->chunk_len -= length;
    return 0;
}

Py_ssize_t session_window_of(Session *self, long stream_id)
{
    int32_t stream = ng.session_get_stream_remote_window_size(self->session, (int32_t)stream_id);
    int32_t connection = ng.session_get_remote_window_size(self->session);
    int32_t window = stream < connection ? stream : connection;

    return window < 0 ? 0 : window;
}

/* nghttp2 keeps even an empty frame back while the window is shut, and what it keeps
 * back is memory. So the frame is ours, and nghttp2 is made to forget the stream. */
static int end_with_shut_window(Session *self, long stream_id)
{
    Stream *stream = ng.session_get_stream_user_data(self->session, (int32_t)stream_id);

    if (stream == NULL) {
        return 0;
    }
    if (session_append_frame(self, NG_DATA, NG_FLAG_END_STREAM, (int32_t)stream_id, NULL, 0) < 0) {
        return -1;
    }
    stream->reset = stream->by_our_reset = 1;
    self->hidden_reset = (int32_t)stream_id;
    return ng.submit_rst_stream(self->session, NG_FLAG_NONE, (int32_t)stream_id, NO_ERROR);
}

static int submit_data(Session *self, long stream_id, const Py_buffer *data, int end)
{
    ng_data_provider provider = {.read_callback = measure_chunk};
    size_t frames = (size_t)data->len / MAX_FRAME_SIZE + 1;

    if (data->len == 0 && end && session_window_of(self, stream_id) == 0) {
        return end_with_shut_window(self, stream_id);
    }
    if (session_reserve(self, (size_t)data->len + frames * FRAME_HEADER) < 0) {
        return NG_ERR_CALLBACK_FAILURE;
    }
    self->chunk = data->len > 0 ? data->buf : (const uint8_t *)"";
    self->chunk_len = (size_t)data->len;
    return ng.submit_data(self->session, end ? NG_FLAG_END_STREAM : NG_FLAG_NONE,
                          (int32_t)stream_id, &provider);
}

PyObject *session_send_headers(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long stream_id;
    int end, go;

    if (session_check_count(nargs, 3) < 0 || session_number(args[0], &stream_id) < 0 ||
        (end = PyObject_IsTrue(args[2])) < 0 || (go = session_ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (!go) {
        Py_RETURN_NONE;
    }
    return session_sent(self, submit_headers(self, stream_id, args[1], end));
}

PyObject *session_send_data(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *result = NULL;
    Py_buffer data;
    long stream_id;
    int end, go;

    if (session_check_count(nargs, 3) < 0 || session_number(args[0], &stream_id) < 0 ||
        (end = PyObject_IsTrue(args[2])) < 0 || (go = session_ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (!go) {
        Py_RETURN_NONE;
    }
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (data.len > MAX_BURST ||
        (data.len > 0 && data.len > session_window_of(self, stream_id))) {
        PyErr_SetString(PyExc_ValueError, "the data does not fit into a burst and the window");
    } else {
        result = session_sent(self, submit_data(self, stream_id, &data, end));
    }
    PyBuffer_Release(&data);
    return result;
}

PyObject *session_send_response(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *result = NULL;
    Py_buffer data;
    long stream_id;
    int end, go, whole, submitted;

    if (session_check_count(nargs, 4) < 0 || session_number(args[0], &stream_id) < 0 ||
        (end = PyObject_IsTrue(args[3])) < 0 || (go = session_ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (!go) {
        Py_RETURN_TRUE;
    }
    if (PyObject_GetBuffer(args[2], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    whole = data.len <= MAX_BURST && data.len <= session_window_of(self, stream_id);
    submitted = submit_headers(self, stream_id, args[1], end && data.len == 0);
    if (submitted == 0 && whole && data.len > 0) {
        submitted = submit_data(self, stream_id, &data, end);
    }
    result = session_sent(self, submitted);
    PyBuffer_Release(&data);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    return PyBool_FromLong(whole);
}
