/* The module `prism.calls._json`. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "scan.h"

#include <string.h>

#define FEW_VALUES (16 * 1024) /* with the most expensive keys, they take a millisecond */
#define LARGE (64 * 1024) /* bytes, as json_text.py says; scanning them takes some 50 microseconds */

typedef struct {
    uint64_t seed[2];
} State;

PyDoc_STRVAR(is_params_doc, "is_params($module, body, /)\n--\n\nAs json_text.is_params.");
PyDoc_STRVAR(is_plainly_params_doc,
             "is_plainly_params($module, body, /)\n--\n\nAs json_text.is_plainly_params.");

static int verdict_on(const Py_buffer *body, const uint64_t seed[2], size_t most_values)
{
    int verdict;

    if (body->len == 0) {
        return 1;
    }
    if (body->len < LARGE) {
        return json_is_object(body->buf, (size_t)body->len, seed, most_values);
    }
    Py_BEGIN_ALLOW_THREADS
    verdict = json_is_object(body->buf, (size_t)body->len, seed, most_values);
    Py_END_ALLOW_THREADS
    return verdict;
}

static PyObject *judge(PyObject *module, PyObject *object, size_t most_values)
{
    const State *state = PyModule_GetState(module);
    Py_buffer body;
    int verdict;

    /* A zero byte follows what these hold, and only these. */
    if (!PyBytes_CheckExact(object) && !PyByteArray_CheckExact(object)) {
        PyErr_Format(PyExc_TypeError, "a body is bytes or bytearray, not %.100s",
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    if (PyObject_GetBuffer(object, &body, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if ((uint64_t)body.len > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a body of 4 GiB or more");
        PyBuffer_Release(&body);
        return NULL;
    }
    verdict = verdict_on(&body, state->seed, most_values);
    PyBuffer_Release(&body);
    return verdict < 0 ? PyErr_NoMemory() : PyBool_FromLong(verdict == 1);
}

static PyObject *is_params(PyObject *module, PyObject *body)
{
    return judge(module, body, SIZE_MAX);
}

static PyObject *is_plainly_params(PyObject *module, PyObject *body)
{
    return judge(module, body, FEW_VALUES);
}

static int draw_seed(State *state)
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *random =
        os == NULL ? NULL : PyObject_CallMethod(os, "urandom", "n", (Py_ssize_t)sizeof state->seed);

    Py_XDECREF(os);
    if (random == NULL) {
        return -1;
    }
    memcpy(state->seed, PyBytes_AS_STRING(random), sizeof state->seed);
    Py_DECREF(random);
    return 0;
}

static int json_exec(PyObject *module)
{
    return draw_seed(PyModule_GetState(module));
}

static PyMethodDef json_methods[] = {
    {"is_params", is_params, METH_O, is_params_doc},
    {"is_plainly_params", is_plainly_params, METH_O, is_plainly_params_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot json_slots[] = {
    {Py_mod_exec, json_exec},
    {0, NULL},
};

static struct PyModuleDef json_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "prism.calls._json",
    .m_doc = "json_text.is_params in C.",
    .m_size = sizeof(State),
    .m_methods = json_methods,
    .m_slots = json_slots,
};

PyMODINIT_FUNC PyInit__json(void)
{
    return PyModuleDef_Init(&json_module);
}
