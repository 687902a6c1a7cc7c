/* What the parts of the extension share. */
#ifndef PRISM_NATIVE_H
#define PRISM_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "library.h"

#define NAME_SLOTS 256 /* a power of two */
#define MAX_NAME 32    /* bytes of a name worth keeping */

/* The module's state: the Python classes that it makes, and names met before. */
typedef struct {
    PyObject *client_error; /* limits.ClientError(code, reason) */
    PyObject *error_codes;  /* h2.errors.ErrorCodes(number) */
    PyTypeObject *request;
    PyTypeObject *data_received;
    PyTypeObject *request_ended;
    PyTypeObject *stream_reset;
    PyTypeObject *request_malformed;
    PyTypeObject *window_opened;
    PyTypeObject *ping_answered;
    PyTypeObject *client_leaving;
    PyObject *session_type;
    PyObject *host;
    PyObject *cookie;
    PyObject *empty;
    PyObject *names[NAME_SLOTS];
} State;

/* Raises ClientError. `reason` is text of ours or of nghttp2, never the client's. */
void raise_client_error(State *state, uint32_t code, const char *reason);

/* The module that made `self`'s type; NULL without an exception is impossible here. */
State *state_of(PyTypeObject *type);

extern PyType_Spec session_spec;
extern struct PyModuleDef native_module;

#endif
