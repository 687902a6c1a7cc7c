/* HTTP/2 on nghttp2: the module, and what it takes from its Python neighbours. */
#include "native.h"

#define API 3 /* as in implementation.py */

State *state_of(PyTypeObject *type)
{
    return PyModule_GetState(PyType_GetModuleByDef(type, &native_module));
}

void raise_client_error(State *state, uint32_t code, const char *reason)
{
    PyObject *number, *error;

    number = PyObject_CallFunction(state->error_codes, "k", (unsigned long)code);
    if (number == NULL) {
        return;
    }
    error = PyObject_CallFunction(state->client_error, "Os", number, reason);
    Py_DECREF(number);
    if (error != NULL) {
        PyErr_SetObject(state->client_error, error);
        Py_DECREF(error);
    }
}

static int import_class(const char *module_name, const char *name, PyObject **place)
{
    PyObject *module = PyImport_ImportModule(module_name);

    if (module == NULL) {
        return -1;
    }
    *place = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *place == NULL ? -1 : 0;
}

/* Events are made as tuples with as many items as their class has fields. */
static int import_event(const char *name, Py_ssize_t fields, PyTypeObject **place)
{
    PyObject *found, *names;

    if (import_class("prism.server.http2.events", name, &found) < 0) {
        return -1;
    }
    *place = (PyTypeObject *)found;
    names = PyType_Check(found) && PyType_IsSubtype(*place, &PyTuple_Type)
                ? PyObject_GetAttrString(found, "_fields")
                : NULL;
    if (names == NULL || PyObject_Length(names) != fields) {
        PyErr_Format(PyExc_ImportError, "%s is not a tuple of %zd fields", name, fields);
        Py_XDECREF(names);
        return -1;
    }
    Py_DECREF(names);
    return 0;
}

static int native_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    char error[256];

    if (ng_load(error, sizeof error) < 0) {
        PyErr_SetString(PyExc_ImportError, error);
        return -1;
    }
    if (import_class("h2.errors", "ErrorCodes", &state->error_codes) < 0 ||
        import_class("prism.server.http2.limits", "ClientError",
                     &state->client_error) < 0 ||
        import_event("Request", 7, &state->request) < 0 ||
        import_event("DataReceived", 2, &state->data_received) < 0 ||
        import_event("RequestEnded", 1, &state->request_ended) < 0 ||
        import_event("RequestMalformed", 2, &state->request_malformed) < 0 ||
        import_event("StreamReset", 1, &state->stream_reset) < 0 ||
        import_event("WindowOpened", 1, &state->window_opened) < 0 ||
        import_event("PingAnswered", 1, &state->ping_answered) < 0 ||
        import_event("ClientLeaving", 0, &state->client_leaving) < 0) {
        return -1;
    }
    state->host = PyBytes_FromString("host");
    state->cookie = PyBytes_FromString("cookie");
    state->empty = PyBytes_FromString("");
    if (state->host == NULL || state->cookie == NULL || state->empty == NULL) {
        return -1;
    }
    state->session_type = PyType_FromModuleAndSpec(module, &session_spec, NULL);
    if (state->session_type == NULL ||
        PyModule_AddObjectRef(module, "Session", state->session_type) < 0) {
        return -1;
    }
    if (PyModule_AddIntConstant(module, "API", API) < 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "VERSION", ng.version(0)->version_str);
}

static int native_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);

    Py_VISIT(state->client_error);
    Py_VISIT(state->error_codes);
    Py_VISIT(state->request);
    Py_VISIT(state->data_received);
    Py_VISIT(state->request_ended);
    Py_VISIT(state->stream_reset);
    Py_VISIT(state->request_malformed);
    Py_VISIT(state->window_opened);
    Py_VISIT(state->ping_answered);
    Py_VISIT(state->client_leaving);
    Py_VISIT(state->session_type);
    return 0;
}

static int native_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);

    Py_CLEAR(state->client_error);
    Py_CLEAR(state->error_codes);
    Py_CLEAR(state->request);
    Py_CLEAR(state->data_received);
    Py_CLEAR(state->request_ended);
    Py_CLEAR(state->stream_reset);
    Py_CLEAR(state->request_malformed);
    Py_CLEAR(state->window_opened);
    Py_CLEAR(state->ping_answered);
    Py_CLEAR(state->client_leaving);
    Py_CLEAR(state->session_type);
    Py_CLEAR(state->host);
    Py_CLEAR(state->cookie);
    Py_CLEAR(state->empty);
    for (int slot = 0; slot < NAME_SLOTS; slot++) {
        Py_CLEAR(state->names[slot]);
    }
    return 0;
}

static void native_free(void *module)
{
    native_clear(module);
}

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, native_exec},
    {0, NULL},
};

struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "prism.server.http2._nghttp2",
    .m_doc = "HTTP/2 on nghttp2; importing it fails if the library is not there.",
    .m_size = sizeof(State),
    .m_slots = native_slots,
    .m_traverse = native_traverse,
    .m_clear = native_clear,
    .m_free = native_free,
};

PyMODINIT_FUNC PyInit__nghttp2(void)
{
    return PyModuleDef_Init(&native_module);
}
