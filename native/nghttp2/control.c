/* Windows, resets, PING and GOAWAY. */
#include "session.h"

PyObject *session_window(Session *self, PyObject *stream_id)
{
    long number;

    if (session_number(stream_id, &number) < 0) {
        return NULL;
    }
    return PyLong_FromSsize_t(self->dead ? 0 : session_window_of(self, number));
}

PyObject *session_widen(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long stream_id, size;
    int go;

    if (session_check_count(nargs, 2) < 0 || session_number(args[0], &stream_id) < 0 ||
        session_number(args[1], &size) < 0 || (go = session_ready_on(self, stream_id)) < 0) {
        return NULL;
    }
    if (size <= 0 || size > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a window has 1 to 2^31 - 1 bytes");
        return NULL;
    }
    if (!go) {
        Py_RETURN_NONE;
    }
    return session_sent(self, ng.session_set_local_window_size(
                                  self->session, NG_FLAG_NONE, (int32_t)stream_id, (int32_t)size));
}

PyObject *session_consumed(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long stream_id, size;
    int go;

    if (session_check_count(nargs, 2) < 0 || session_number(args[0], &stream_id) < 0 ||
        session_number(args[1], &size) < 0 || (go = session_ready(self)) < 0) {
        return NULL;
    }
    if (!go || size <= 0) {
        Py_RETURN_NONE;
    }
    return session_sent(self, ng.session_consume(self->session, (int32_t)stream_id, (size_t)size));
}

PyObject *session_reset(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long stream_id, code;
    Stream *stream;
    int go;

    if (session_check_count(nargs, 2) < 0 || session_number(args[0], &stream_id) < 0 ||
        session_number(args[1], &code) < 0 || (go = session_ready(self)) < 0) {
        return NULL;
    }
    stream = go ? ng.session_get_stream_user_data(self->session, (int32_t)stream_id) : NULL;
    if (stream == NULL) {
        Py_RETURN_NONE;
    }
    stream->reset = stream->by_our_reset = 1;
    return session_sent(self, ng.submit_rst_stream(self->session, NG_FLAG_NONE, (int32_t)stream_id,
                                           (uint32_t)code));
}

PyObject *session_ping(Session *self, PyObject *payload)
{
    int go = session_ready(self);

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
    return session_sent(self, ng.submit_ping(self->session, NG_FLAG_NONE,
                                     (const uint8_t *)PyBytes_AS_STRING(payload)));
}

PyObject *session_goaway(Session *self, PyObject *const *args, Py_ssize_t nargs)
{
    long last, code;
    uint8_t payload[8];

    if (session_check_count(nargs, 2) < 0 || session_number(args[0], &last) < 0 ||
        session_number(args[1], &code) < 0 || session_ready(self) < 0) {
        return NULL;
    }
    for (int i = 0; i < 4; i++) {
        payload[i] = (uint8_t)(last >> (24 - 8 * i));
        payload[4 + i] = (uint8_t)(code >> (24 - 8 * i));
    }
    /* nghttp2's own would make it ignore requests that are on their way. */
    if (session_append_frame(self, NG_GOAWAY, NG_FLAG_NONE, 0, payload, sizeof payload) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
