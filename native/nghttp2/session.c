/* The Session type: making and ending one. */
#include "session.h"

/* nghttp2's memory comes from Python's small-object allocator: it is quicker, and seen by
 * tracemalloc. The GIL is held whenever nghttp2 runs. */
static void *mem_malloc(size_t size, void *Py_UNUSED(user_data))
{
    return PyMem_Malloc(size);
}

static void mem_free(void *pointer, void *Py_UNUSED(user_data))
{
    PyMem_Free(pointer);
}

static void *mem_calloc(size_t number, size_t size, void *Py_UNUSED(user_data))
{
    return PyMem_Calloc(number, size);
}

static void *mem_realloc(void *pointer, size_t size, void *Py_UNUSED(user_data))
{
    return PyMem_Realloc(pointer, size);
}

static ng_mem memory = {NULL, mem_malloc, mem_free, mem_calloc, mem_realloc};

#define PREFACE_SIZE 24
#define MAX_ENCODER_TABLE 4096
#define MAX_SETTINGS (MAX_FRAME_SIZE / 6)
#define MAX_CONTINUATIONS 64
#define UNLIMITED_STREAMS 0x7fffffffu

typedef struct {
    unsigned int max_streams;
    unsigned int max_header_size;
    unsigned int max_header_fields;
    unsigned int stream_window;
    unsigned int connection_window;
    double flood_budget;
    double flood_refill;
    double now;
} Options;

static int open_session(Session *self)
{
    ng_callbacks *callbacks = NULL;
    ng_option *option = NULL;
    int result = NG_ERR_NOMEM;

    if (ng.session_callbacks_new(&callbacks) != 0 || ng.option_new(&option) != 0) {
        goto done;
    }
    session_set_callbacks(callbacks);
    ng.option_set_no_auto_window_update(option, 1);
    ng.option_set_no_http_messaging(option, 1); /* head.c has the rules, for both codecs */
    ng.option_set_no_closed_streams(option, 1);
    ng.option_set_max_deflate_dynamic_table_size(option, MAX_ENCODER_TABLE);
    ng.option_set_max_settings(option, MAX_SETTINGS);
    /* FrameGuard judges floods, and forgives a client whose resets come late. */
    ng.option_set_max_outbound_ack(option, UINT32_MAX);
    if (ng.option_set_stream_reset_rate_limit != NULL) {
        ng.option_set_stream_reset_rate_limit(option, UINT32_MAX, UINT32_MAX);
    }
    if (ng.option_set_glitch_rate_limit != NULL) {
        ng.option_set_glitch_rate_limit(option, UINT32_MAX, UINT32_MAX);
    }
    if (ng.option_set_max_continuations != NULL) {
        ng.option_set_max_continuations(option, MAX_CONTINUATIONS);
    }
    result = ng.session_server_new3(&self->session, callbacks, self, option, &memory);
done:
    if (option != NULL) {
        ng.option_del(option);
    }
    if (callbacks != NULL) {
        ng.session_callbacks_del(callbacks);
    }
    return result;
}

static void put_uint32(char *place, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        place[i] = (char)(value >> (24 - 8 * i));
    }
}

/* Announce the limits. nghttp2 ends a connection that exceeds its stream limit; so it is
 * told of none, and the first value of the frame that it wrote is put in afterwards. */
static int announce(Session *self, const Options *options)
{
    const ng_settings_entry settings[] = {
        {NG_SETTINGS_MAX_CONCURRENT_STREAMS, UNLIMITED_STREAMS},
        {NG_SETTINGS_MAX_HEADER_LIST_SIZE, options->max_header_size},
        {NG_SETTINGS_INITIAL_WINDOW_SIZE, options->stream_window},
        {NG_SETTINGS_MAX_FRAME_SIZE, MAX_FRAME_SIZE},
        {NG_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
    };
    int result = ng.submit_settings(self->session, NG_FLAG_NONE, settings, 5);

    if (result == 0 && session_flush(self) < 0) {
        result = NG_ERR_CALLBACK_FAILURE;
    }
    if (result == 0) {
        put_uint32(PyBytes_AS_STRING(self->out) + 9 + 2, options->max_streams);
    }
    return result;
}

static int start(Session *self, const Options *options)
{
    int result = open_session(self);

    if (result == 0) {
        result = announce(self, options);
    }
    if (result == 0 && options->connection_window > 65535) {
        result = ng.session_set_local_window_size(self->session, NG_FLAG_NONE, 0,
                                                  (int32_t)options->connection_window);
    }
    if (result == 0 && session_flush(self) < 0) {
        result = NG_ERR_CALLBACK_FAILURE;
    }
    return result;
}

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_streams",   "max_header_size",   "max_header_fields",
                            "stream_window", "connection_window", "flood_budget",
                            "flood_refill",  "now",               NULL};
    Options options;
    Session *self;
    int result;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIIIIddd:Session", names, &options.max_streams,
                                     &options.max_header_size, &options.max_header_fields,
                                     &options.stream_window, &options.connection_window,
                                     &options.flood_budget, &options.flood_refill, &options.now)) {
        return NULL;
    }
    self = (Session *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state_of(type);
    self->max_header_size = options.max_header_size;
    self->max_header_fields = options.max_header_fields;
    self->follower.to_skip = PREFACE_SIZE;
    self->guard.budget = self->guard.balance = options.flood_budget;
    self->guard.refill = options.flood_refill;
    self->guard.refilled_at = options.now;
    result = start(self, &options);
    if (result != 0 || self->failed || PyErr_Occurred()) {
        session_raise(self, result);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void session_dealloc(Session *self)
{
    PyTypeObject *type = Py_TYPE(self);

    if (self->session != NULL) {
        ng.session_del(self->session); /* calls no callback */
    }
    session_drop_events(self);
    session_free_streams(self);
    PyMem_Free(self->events);
    pair_cache_clear(&self->pairs);
    Py_CLEAR(self->out);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *session_backlog(Session *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(self->out_len);
}

static PyObject *session_last_stream_id(Session *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(self->last_stream_id);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef session_methods[] = {
    {"receive", FAST(session_receive), "receive($self, data, now, /)\n--\n\n"},
    {"charge", (PyCFunction)session_charge, METH_O, "charge($self, cost, /)\n--\n\n"},
    {"credit", (PyCFunction)session_credit, METH_O, "credit($self, amount, /)\n--\n\n"},
    {"take", (PyCFunction)session_take, METH_NOARGS, "take($self, /)\n--\n\n"},
    {"widen", FAST(session_widen), "widen($self, stream_id, size, /)\n--\n\n"},
    {"consumed", FAST(session_consumed), "consumed($self, stream_id, size, /)\n--\n\n"},
    {"window", (PyCFunction)session_window, METH_O, "window($self, stream_id, /)\n--\n\n"},
    {"send_headers", FAST(session_send_headers),
     "send_headers($self, stream_id, headers, end, /)\n--\n\n"},
    {"send_data", FAST(session_send_data), "send_data($self, stream_id, data, end, /)\n--\n\n"},
    {"send_response", FAST(session_send_response),
     "send_response($self, stream_id, headers, data, end, /)\n--\n\n"},
    {"reset", FAST(session_reset), "reset($self, stream_id, code, /)\n--\n\n"},
    {"ping", (PyCFunction)session_ping, METH_O, "ping($self, payload, /)\n--\n\n"},
    {"goaway", FAST(session_goaway), "goaway($self, last_stream_id, code, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyObject *session_in_header_block(Session *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->guard.headers_follow ||
                           (self->guard.in_headers && self->follower.to_skip > 0));
}

static PyGetSetDef session_getset[] = {
    {"backlog", (getter)session_backlog, NULL, "Bytes produced and not yet taken.", NULL},
    {"last_stream_id", (getter)session_last_stream_id, NULL,
     "The highest stream the client has opened.", NULL},
    {"in_header_block", (getter)session_in_header_block, NULL,
     "Whether a request's header section has begun and not ended.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(session_doc, "Session(max_streams, max_header_size, max_header_fields, "
                          "stream_window, connection_window, flood_budget, flood_refill, now)"
                          "\n--\n\n"
                          "codec.HTTP2Codec on nghttp2; its methods are documented there.");

static PyType_Slot session_slots[] = {
    {Py_tp_new, session_new},         {Py_tp_dealloc, session_dealloc},
    {Py_tp_doc, (void *)session_doc}, {Py_tp_methods, session_methods},
    {Py_tp_getset, session_getset},   {0, NULL},
};

PyType_Spec session_spec = {
    .name = "prism.server.http2._nghttp2.Session",
    .basicsize = sizeof(Session),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = session_slots,
};
