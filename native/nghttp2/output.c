/* What is to be sent, and what every call that sends has in common. */
#include "session.h"

#include <string.h>

#define FIRST_ROOM 4096

/* Have room for `len` bytes more. */
int session_reserve(Session *self, size_t len)
{
    Py_ssize_t room = self->out == NULL ? 0 : PyBytes_GET_SIZE(self->out);
    Py_ssize_t wanted = self->out_len + (Py_ssize_t)len;

    if (wanted <= room) {
        return 0;
    }
    room = room == 0 ? FIRST_ROOM : 2 * room;
    room = room < wanted ? wanted : room;
    if (self->out == NULL) {
        self->out = PyBytes_FromStringAndSize(NULL, room);
    } else if (_PyBytes_Resize(&self->out, room) < 0) {
        self->out_len = 0; /* the bytes are gone, so is the connection */
        self->dead = 1;
    }
    return self->out == NULL ? -1 : 0;
}

int session_append(Session *self, const uint8_t *data, size_t len)
{
    if (session_reserve(self, len) < 0) {
        return -1;
    }
    memcpy(PyBytes_AS_STRING(self->out) + self->out_len, data, len);
    self->out_len += (Py_ssize_t)len;
    return 0;
}

/* A frame of ours, which nghttp2 knows nothing of. */
int session_append_frame(Session *self, uint8_t type, uint8_t flags, int32_t stream_id,
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
        session_fail(self, code, reason);
    }
    raise_client_error(self->state, self->error_code, self->error_reason);
    return NULL;
}

/* The end of every call that sends: `result` is nghttp2's for what was submitted. */
PyObject *session_sent(Session *self, int result)
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

int session_check_count(Py_ssize_t nargs, Py_ssize_t wanted)
{
    if (nargs != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments were expected, not %zd", wanted, nargs);
        return -1;
    }
    return 0;
}

int session_number(PyObject *object, long *number)
{
    *number = PyLong_AsLong(object);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

int session_decimal(PyObject *object, double *number)
{
    *number = PyFloat_AsDouble(object);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int session_ready(Session *self)
{
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "the session is at work");
        return -1;
    }
    return self->dead ? 0 : 1;
}

/* As `ready`, for a call about a stream: what is closed takes no more. */
int session_ready_on(Session *self, long stream_id)
{
    int go = session_ready(self);

    if (go <= 0) {
        return go;
    }
    return ng.session_get_stream_user_data(self->session, (int32_t)stream_id) != NULL;
}
