/* What happened, first as plain structs, then as Python objects. */
#include "session.h"

Event *session_add_event(Session *self, EventKind kind, int32_t stream_id)
{
    Event *event;

    if (self->event_count == self->event_room) {
        size_t room = self->event_room ? 2 * self->event_room : 32;
        Event *grown = PyMem_Resize(self->events, Event, room);
        if (grown == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        self->events = grown;
        self->event_room = room;
    }
    event = &self->events[self->event_count++];
    *event = (Event){.kind = kind, .stream_id = stream_id};
    return event;
}

void session_drop_events(Session *self)
{
    for (size_t i = 0; i < self->event_count; i++) {
        Py_CLEAR(self->events[i].data);
    }
    self->event_count = 0;
}

/* An instance of a NamedTuple class, its items yet to be set. */
static PyObject *new_event(PyTypeObject *type, Py_ssize_t fields)
{
    return type->tp_alloc(type, fields);
}

static PyObject *stream_event(PyTypeObject *type, int32_t stream_id)
{
    PyObject *number = PyLong_FromLong(stream_id);
    PyObject *made = number == NULL ? NULL : new_event(type, 1);

    if (made == NULL) {
        Py_XDECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(made, 0, number);
    return made;
}

/* Steals `second`, which may be NULL with an exception set. */
static PyObject *pair_event(PyTypeObject *type, int32_t stream_id, PyObject *second)
{
    PyObject *number = PyLong_FromLong(stream_id);
    PyObject *made = number == NULL || second == NULL ? NULL : new_event(type, 2);

    if (made == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SET_ITEM(made, 0, number);
    PyTuple_SET_ITEM(made, 1, second);
    return made;
}

/* `*place`, which is empty afterwards, or b"". */
static PyObject *moved(State *state, PyObject **place)
{
    PyObject *value = *place;

    *place = NULL;
    return value != NULL ? value : Py_NewRef(state->empty);
}

static PyObject *request_event(Session *self, Stream *stream)
{
    State *state = self->state;
    PyObject *number = PyLong_FromLong(stream->id), *body = session_take_body(self, stream);
    PyObject *made = number == NULL || body == NULL ? NULL : new_event(state->request, 7);

    if (made == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(body);
        return NULL;
    }
    PyTuple_SET_ITEM(made, 0, number);
    PyTuple_SET_ITEM(made, 1, moved(state, &stream->head.method));
    PyTuple_SET_ITEM(made, 2, moved(state, &stream->head.target));
    PyTuple_SET_ITEM(made, 3, moved(state, &stream->head.protocol));
    PyTuple_SET_ITEM(made, 4, stream->head.headers);
    stream->head.headers = NULL;
    PyTuple_SET_ITEM(made, 5, body);
    PyTuple_SET_ITEM(made, 6, Py_NewRef(stream->ended ? Py_True : Py_False));
    stream->pending = 0;
    head_clear(&stream->head);
    return made;
}

static PyObject *make_event(Session *self, Event *event)
{
    State *state = self->state;
    PyObject *data = event->data, *made;

    event->data = NULL;
    switch (event->kind) {
    case EVENT_REQUEST:
        return request_event(self, event->stream);
    case EVENT_DATA:
        return pair_event(state->data_received, event->stream_id,
                          session_take_body(self, event->stream));
    case EVENT_ENDED:
        return stream_event(state->request_ended, event->stream_id);
    case EVENT_MALFORMED:
        return pair_event(state->request_malformed, event->stream_id,
                          PyUnicode_FromString(event->reason));
    case EVENT_RESET:
        return stream_event(state->stream_reset, event->stream_id);
    case EVENT_WINDOW:
        return stream_event(state->window_opened, event->stream_id);
    case EVENT_PING:
        made = new_event(state->ping_answered, 1);
        if (made == NULL) {
            Py_DECREF(data);
            return NULL;
        }
        PyTuple_SET_ITEM(made, 0, data);
        return made;
    case EVENT_LEAVING:
        return new_event(state->client_leaving, 0);
    }
    Py_UNREACHABLE();
}

PyObject *session_make_events(Session *self)
{
    PyObject *list = PyList_New((Py_ssize_t)self->event_count);

    for (size_t i = 0; list != NULL && i < self->event_count; i++) {
        PyObject *made = make_event(self, &self->events[i]);
        if (made == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, made);
    }
    session_drop_events(self);
    return list;
}
