/* limits.FrameGuard once more, for every frame of a busy connection passes it. */
#include "native.h"

#include <string.h>

#define PREFACE_SIZE 24
#define HEADER_SIZE 9
#define FRAMES_AT_ONCE 64
#define RESET_COST 2

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, CONTINUATION = 9 };
enum { END_STREAM = 0x1, END_HEADERS = 0x4, PADDED = 0x8 };
enum { PROTOCOL_ERROR = 1, FRAME_SIZE_ERROR = 6, ENHANCE_YOUR_CALM = 11 };

typedef struct {
    PyObject_HEAD
    size_t max_frame_size;
    size_t max_header_block;
    size_t header_block;
    double budget;
    double refill;
    double balance;
    double refilled_at;
    size_t to_skip;
    size_t padded_length; /* of a DATA frame whose pad length is the next byte; else 0 */
    uint8_t header[HEADER_SIZE];
    uint8_t header_len;
    char in_headers;
    char headers_follow;
} Guard;

static PyObject *guard_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_frame_size", "max_header_block", "budget", "refill", "now", NULL};
    Py_ssize_t max_frame_size, max_header_block;
    double budget, refill, now;
    Guard *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nnddd:FrameGuard", names, &max_frame_size,
                                     &max_header_block, &budget, &refill, &now)) {
        return NULL;
    }
    self = (Guard *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->max_frame_size = (size_t)max_frame_size;
        self->max_header_block = (size_t)max_header_block;
        self->budget = self->balance = budget;
        self->refill = refill;
        self->refilled_at = now;
        self->to_skip = PREFACE_SIZE;
    }
    return (PyObject *)self;
}

static void guard_dealloc(Guard *self)
{
    PyTypeObject *type = Py_TYPE(self);

    type->tp_free(self);
    Py_DECREF(type);
}

static int refuse(Guard *self, uint32_t code, const char *reason)
{
    raise_client_error(state_of(Py_TYPE(self)), code, reason);
    return -1;
}

static int charge(Guard *self, double cost)
{
    self->balance -= cost;
    if (self->balance < 0) {
        return refuse(self, ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    }
    return 0;
}

static int take_frame(Guard *self)
{
    const uint8_t *header = self->header;
    size_t length = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
    uint8_t kind = header[3], flags = header[4];

    if (length > self->max_frame_size) {
        return refuse(self, FRAME_SIZE_ERROR, "a frame is larger than announced");
    }
    self->to_skip = length;
    self->in_headers = kind == HEADERS || kind == CONTINUATION;
    switch (kind) {
    case CONTINUATION:
        if (charge(self, 1) < 0) {
            return -1;
        }
        break;
    case HEADERS:
        self->header_block = 0;
        break;
    case DATA:
        if (flags & END_STREAM) {
            return 0;
        }
        if (length == 0) {
            return charge(self, 1);
        }
        self->padded_length = flags & PADDED ? length : 0;
        return 0;
    case RST_STREAM:
        return charge(self, RESET_COST);
    default:
        return charge(self, 1);
    }
    self->headers_follow = !(flags & END_HEADERS);
    self->header_block += length;
    if (self->header_block > self->max_header_block) {
        return refuse(self, ENHANCE_YOUR_CALM, "a header section is too large");
    }
    return 0;
}

PyDoc_STRVAR(inspect_doc, "inspect($self, data, now, /)\n--\n\n"
                          "As limits.FrameGuard.inspect; `data` is bytes.");

static PyObject *guard_inspect(Guard *self, PyObject *const *args, Py_ssize_t nargs)
{
    const uint8_t *data;
    size_t position = 0, size;
    int frames = 0;
    double now, balance;

    if (nargs != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "inspect takes bytes and a time");
        return NULL;
    }
    now = PyFloat_AsDouble(args[1]);
    if (now == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    data = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    size = (size_t)PyBytes_GET_SIZE(args[0]);
    balance = self->balance + (now - self->refilled_at) * self->refill;
    self->balance = balance < self->budget ? balance : self->budget;
    self->refilled_at = now;
    while (position < size && (self->to_skip || frames < FRAMES_AT_ONCE)) {
        size_t rest = size - position, step;
        if (self->to_skip) {
            if (self->padded_length) {
                if ((size_t)data[position] + 1 >= self->padded_length && charge(self, 1) < 0) {
                    return NULL;
                }
                self->padded_length = 0;
            }
            step = self->to_skip < rest ? self->to_skip : rest;
            self->to_skip -= step;
            position += step;
            continue;
        }
        step = (size_t)(HEADER_SIZE - self->header_len);
        step = step < rest ? step : rest;
        memcpy(self->header + self->header_len, data + position, step);
        self->header_len = (uint8_t)(self->header_len + step);
        position += step;
        if (self->header_len == HEADER_SIZE) {
            self->header_len = 0;
            if (take_frame(self) < 0) {
                return NULL;
            }
            frames++;
        }
    }
    return PyLong_FromSize_t(position);
}

PyDoc_STRVAR(charge_doc, "charge($self, cost, /)\n--\n\nAs limits.FrameGuard.charge.");

static PyObject *guard_charge(Guard *self, PyObject *cost)
{
    double value = PyFloat_AsDouble(cost);

    if ((value == -1.0 && PyErr_Occurred()) || charge(self, value) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(credit_doc, "credit($self, amount, /)\n--\n\nAs limits.FrameGuard.credit.");

static PyObject *guard_credit(Guard *self, PyObject *amount)
{
    double value = PyFloat_AsDouble(amount);

    if (value == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    value += self->balance;
    self->balance = value < self->budget ? value : self->budget;
    Py_RETURN_NONE;
}

static PyObject *guard_in_header_block(Guard *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->headers_follow || (self->in_headers && self->to_skip > 0));
}

static PyMethodDef guard_methods[] = {
    {"inspect", (PyCFunction)(void (*)(void))guard_inspect, METH_FASTCALL, inspect_doc},
    {"charge", (PyCFunction)guard_charge, METH_O, charge_doc},
    {"credit", (PyCFunction)guard_credit, METH_O, credit_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef guard_getset[] = {
    {"in_header_block", (getter)guard_in_header_block, NULL,
     "Whether a request's header section has begun and not ended.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(guard_doc, "FrameGuard(max_frame_size, max_header_block, budget, refill, now)\n--\n\n"
                        "limits.FrameGuard, in C.");

static PyType_Slot guard_slots[] = {
    {Py_tp_new, guard_new},         {Py_tp_dealloc, guard_dealloc}, {Py_tp_doc, (void *)guard_doc},
    {Py_tp_methods, guard_methods}, {Py_tp_getset, guard_getset},   {0, NULL},
};

PyType_Spec guard_spec = {
    .name = "prism.server.http2._nghttp2.FrameGuard",
    .basicsize = sizeof(Guard),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = guard_slots,
};
