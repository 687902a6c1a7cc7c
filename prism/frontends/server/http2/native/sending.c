/* From calls to bytes. */
#include "session.h"

#include <string.h>

#define FIRST_ROOM 4096
#define HEADERS_ON_STACK 32
#define FRAME_HEADER 9
#define NOT_SUBMITTED 1 /* a Python exception is set; the session is as it was */

/* Output. */

int session_append(Session *self, const uint8_t *data, size_t len)
{
    Py_ssize_t room = self->out == NULL ? 0 : PyBytes_GET_SIZE(self->out);
    Py_ssize_t wanted = self->out_len + (Py_ssize_t)len;

    if (wanted > room) {
        room = room == 0 ? FIRST_ROOM : 2 * room;
        room = room < wanted ? wanted : room;
        if (self->out == NULL) {
            self->out = PyBytes_FromStringAndSize(NULL, room);
        } else if (_PyBytes_Resize(&self->out, room) < 0) {
            self->out_len = 0; /* the bytes are gone, so is the connection */
            self->dead = 1;
        }
        if (self->out == NULL) {
            return -1;
        }
    }
    memcpy(PyBytes_AS_STRING(self->out) + self->out_len, data, len);
    self->out_len = wanted;
    return 0;
}

/* A frame of ours, which nghttp2 knows nothing of. */
static int append_frame(Session *self, uint8_t type, uint8_t flags, int32_t stream_id,
                        const uint8_t *payload, uint8_t len)
{
    uint8_t frame[FRAME_HEADER + 8] = {
        0, 0, len, type, flags, (uint8_t)(stream_id >> 24), (uint8_t)(stream_id >> 16),
        (uint8_t)(stream_id >> 8), (uint8_t)stream_id,
    };

    if (len > 0) {
        memcpy(frame + FRAME_HEADER, payload, len);
    }
    return session_append(self, frame, (size_t)FRAME_HEADER + len);
}

PyObject *session_take(Session *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *out = self->out;

    if (self->out_len == 0) {
        return Py_NewRef(self->state->empty);
    }
    self->out = NULL;
    if (_PyBytes_Resize(&out, self->out_len) < 0) {
        out = NULL;
    }
    self->out_len = 0;
    return out;
}

/* Move what nghttp2 has to send into `out`; 0, or -1 for session_raise. */
int session_flush(Session *self)
{
    const uint8_t *data;

    for (;;) {
        ssize_t len = ng.session_mem_send(self->session, &data);
        if (len <= 0) {
            return len < 0 ? -1 : 0;
        }
        if (self->hidden_reset && len > 3 && data[3] == NG_RST_STREAM) {
            self->hidden_reset = 0;
            continue;
        }
        if (session_append(self, data, (size_t)len) < 0) {
            return -1;
        }
    }
}

/* Turn a failure into an exception, whatever it was; the session is dead then. */
PyObject *session_raise(Session *self, ssize_t result)
{
    self->dead = 1;
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (result == NG_ERR_NOMEM) {
        return PyErr_NoMemory();
    }
    if (!self->failed) {
        const char *reason = ng.strerror((int)result);
        uint32_t code = result == NG_ERR_BAD_CLIENT_MAGIC ? PROTOCOL_ERROR
                        : result == NG_ERR_FLOODED || result == NG_ERR_TOO_MANY_CONTINUATIONS
                            ? ENHANCE_YOUR_CALM
                            : INTERNAL_ERROR;
        session_fail(self, code, reason, strlen(reason));
    }
    raise_client_error(self->state, self->error_code, self->error_reason);
    return NULL;
}

/* The end of every call that sends: `result` is nghttp2's for what was submitted. */
static PyObject *sent(Session *self, int result)
{
    if (result == NOT_SUBMITTED) {
        return NULL;
    }
    if (result == 0 && session_flush(self) < 0) {
        result = NG_ERR_CALLBACK_FAILURE;
    }
    self->chunk = NULL;
    if (result != 0 || self->failed || PyErr_Occurred()) {
        return session_raise(self, result);
    }
    /* Streams that closed: outside of `receive` nobody waits for their events. */
    session_drop_events(self);
    session_free_closed(self);
    Py_RETURN_NONE;
}

/* Arguments. */

static int check_count(Py_ssize_t nargs, Py_ssize_t wanted)
{
    if (nargs != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments were expected, not %zd", wanted, nargs);
        return -1;
    }
    return 0;
}

static int number_of(PyObject *object, long *number)
{
    *number = PyLong_AsLong(object);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

static int ready(Session *self)
{
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "the session is at work");
        return -1;
    }
    return self->dead ? 0 : 1;
}

/* As `ready`, for a call about a stream: what is closed takes no more. */
static int ready_on(Session *self, long stream_id)
{
    int go = ready(self);

    if (go <= 0) {
        return go;
    }
    return ng.session_get_stream_user_data(self->session, (int32_t)stream_id) != NULL;
}

/* Headers and data. */

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
            NG_NV_NO_COPY_NAME | NG_NV_NO_COPY_VALUE,
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

static ssize_t read_chunk(ng_session *Py_UNUSED(session), int32_t Py_UNUSED(stream_id),
                          uint8_t *buffer, size_t length, uint32_t *data_flags,
                          ng_data_source *Py_UNUSED(source), void *user_data)
{
    Session *self = user_data;
    size_t size = self->chunk_len < length ? self->chunk_len : length;

    if (self->chunk == NULL) {
        return NG_ERR_TEMPORAL_CALLBACK_FAILURE; /* it was not sent at once: never seen */
    }
    memcpy(buffer, self->chunk, size);
    self->chunk += size;
    self->chunk_len -= size;
    if (self->chunk_len == 0) {
        *data_flags |= NG_DATA_EOF;
    }
    return (ssize_t)size;
}

static Py_ssize_t window_of(Session *self, long stream_id)
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
    if (append_frame(self, NG_DATA, NG_FLAG_END_STREAM, (int32_t)stream_id, NULL, 0) < 0) {
        return -1;
    }
    stream->reset = stream->by_our_reset = 1;
    self->hidden_reset = (int32_t)stream_id;
    return ng.submit_rst_stream(self->session, NG_FLAG_NONE, (int32_t)stream_id, NO_ERROR);
}

static int submit_data(Session *self, long stream_id, const Py_buffer *data, int end)
{
    ng_data_provider provider = {.read_callback = read_chunk};

    if (data->len == 0 && end && window_of(self, stream_id) == 0) {
        return end_with_shut_window(self, stream_id);
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

    if (check_count(nargs, 3) < 0 || number_of(args[0], &stream_id) < 0 ||
        (end = PyObject_IsTrue(args[2])) < 0 || (go = ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (!go) {
        Py_RETURN_NONE;
    }
    return sent(self, submit_headers(self, stream_id, args[1], end));
}

PyObject *session_send_data(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *result = NULL;
    Py_buffer data;
    long stream_id;
    int end, go;

    if (check_count(nargs, 3) < 0 || number_of(args[0], &stream_id) < 0 ||
        (end = PyObject_IsTrue(args[2])) < 0 || (go = ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (!go) {
        Py_RETURN_NONE;
    }
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (data.len > MAX_FRAME_SIZE ||
        (data.len > 0 && data.len > window_of(self, stream_id))) {
        PyErr_SetString(PyExc_ValueError, "the data does not fit into a frame and the window");
    } else {
        result = sent(self, submit_data(self, stream_id, &data, end));
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

    if (check_count(nargs, 4) < 0 || number_of(args[0], &stream_id) < 0 ||
        (end = PyObject_IsTrue(args[3])) < 0 || (go = ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (!go) {
        Py_RETURN_TRUE;
    }
    if (PyObject_GetBuffer(args[2], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    whole = data.len <= MAX_FRAME_SIZE && data.len <= window_of(self, stream_id);
    submitted = submit_headers(self, stream_id, args[1], end && data.len == 0);
    if (submitted == 0 && whole && data.len > 0) {
        submitted = submit_data(self, stream_id, &data, end);
    }
    result = sent(self, submitted);
    PyBuffer_Release(&data);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    return PyBool_FromLong(whole);
}

/* Everything else. */

PyObject *session_window(Session *self, PyObject *stream_id)
{
    long number;

    if (number_of(stream_id, &number) < 0) {
        return NULL;
    }
    return PyLong_FromSsize_t(self->dead ? 0 : window_of(self, number));
}

PyObject *session_consumed(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long stream_id, size;
    int go;

    if (check_count(nargs, 2) < 0 || number_of(args[0], &stream_id) < 0 ||
        number_of(args[1], &size) < 0 || (go = ready(self)) < 0) {
        return NULL;
    }
    if (!go || size <= 0) {
        Py_RETURN_NONE;
    }
    return sent(self, ng.session_consume(self->session, (int32_t)stream_id, (size_t)size));
}

PyObject *session_reset(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long stream_id, code;
    Stream *stream;
    int go;

    if (check_count(nargs, 2) < 0 || number_of(args[0], &stream_id) < 0 ||
        number_of(args[1], &code) < 0 || (go = ready(self)) < 0) {
        return NULL;
    }
    stream = go ? ng.session_get_stream_user_data(self->session, (int32_t)stream_id) : NULL;
    if (stream == NULL) {
        Py_RETURN_NONE;
    }
    stream->reset = stream->by_our_reset = 1;
    return sent(self, ng.submit_rst_stream(self->session, NG_FLAG_NONE, (int32_t)stream_id,
                                           (uint32_t)code));
}

PyObject *session_ping(Session *self, PyObject *payload)
{
    int go = ready(self);

    if (go < 0) {
        return NULL;
    }
    if (!PyBytes_Check(payload) || PyBytes_GET_SIZE(payload) != 8) {
        PyErr_SetString(PyExc_ValueError, "a PING carries eight bytes");
        return NULL;
    }
    if (!go) {
        Py_RETURN_NONE;
    }
    return sent(self, ng.submit_ping(self->session, NG_FLAG_NONE,
                                     (const uint8_t *)PyBytes_AS_STRING(payload)));
}

PyObject *session_goaway(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long last, code;
    uint8_t payload[8];

    if (check_count(nargs, 2) < 0 || number_of(args[0], &last) < 0 ||
        number_of(args[1], &code) < 0 || ready(self) < 0) {
        return NULL;
    }
    for (int i = 0; i < 4; i++) {
        payload[i] = (uint8_t)(last >> (24 - 8 * i));
        payload[4 + i] = (uint8_t)(code >> (24 - 8 * i));
    }
    /* nghttp2's own would make it ignore requests that are on their way. */
    if (append_frame(self, NG_GOAWAY, NG_FLAG_NONE, 0, payload, sizeof payload) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
