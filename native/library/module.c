/* The module `prism.hosts._library`: loads a library, checks its table, and calls its functions. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <string.h>

#include "host.h"

#define MOST_NAME 100
#define SYMBOL "prism_plugin_v1"

typedef const prism_plugin *(*Export)(void);

typedef struct {
    PyTypeObject *library_type, *instance_type;
} State;

typedef struct {
    PyObject_HEAD
    const prism_plugin *table;
    PyObject *name, *version;
} Library;

typedef struct {
    PyObject_HEAD
    PyObject *library;
    Host *host; /* not freed with it: see host.h */
} Instance;

static struct PyModuleDef library_module;

/* -- a library ------------------------------------------------------------------------------ */

static PyObject *refuse(const char *format, ...)
{
    va_list values;

    va_start(values, format);
    PyErr_FormatV(PyExc_ValueError, format, values);
    va_end(values);
    return NULL;
}

/* A text of the table; ValueError if it is none. */
static PyObject *text_of(const char *text, const char *field)
{
    PyObject *found;
    size_t size;

    if (text == NULL) {
        return refuse("its table has NULL as %s", field);
    }
    size = strnlen(text, MOST_NAME + 1);
    if (size == 0 || size > MOST_NAME) {
        return refuse("the %s in its table has to have 1 to %d bytes", field, MOST_NAME);
    }
    found = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        refuse("the %s in its table is not UTF-8", field);
    }
    return found;
}

/* Nothing of a table is used before this. */
static int check_table(const prism_plugin *table)
{
    if (table == NULL) {
        refuse("its %s returned NULL instead of a table", SYMBOL);
    } else if ((uintptr_t)table % _Alignof(prism_plugin) != 0) {
        refuse("its %s returned %p, where no table can be", SYMBOL, table);
    } else if (table->abi != PRISM_ABI) {
        refuse("its table is of version %u of the interface (abi); this Prism loads version %d",
               (unsigned)table->abi, PRISM_ABI);
    } else if (table->size < sizeof *table) {
        refuse("its table has %u bytes (size); one of version %d has %zu, with all functions",
               (unsigned)table->size, PRISM_ABI, sizeof *table);
    } else if (table->threads > MOST_THREADS) {
        refuse("it wants %u threads; the most is %d", (unsigned)table->threads, MOST_THREADS);
    } else if (table->create == NULL) {
        refuse("its table has NULL as create");
    } else if (table->open == NULL) {
        refuse("its table has NULL as open");
    } else if (table->data == NULL) {
        refuse("its table has NULL as data");
    } else if (table->cancel == NULL) {
        refuse("its table has NULL as cancel");
    } else if (table->room == NULL) {
        refuse("its table has NULL as room");
    } else if (table->destroy == NULL) {
        refuse("its table has NULL as destroy");
    } else {
        return 0;
    }
    return -1;
}

PyDoc_STRVAR(load_doc, "load($module, path, /)\n--\n\n"
                       "Load the library at path and check its table; it is never unloaded.\n\n"
                       "Runs its constructors. OSError: the loader's sentence why it cannot be\n"
                       "loaded; ValueError: it is no plugin, and why.");

static PyObject *load(PyObject *module, PyObject *argument)
{
    State *state = PyModule_GetState(module);
    const prism_plugin *table = NULL;
    PyObject *path;
    Library *library;
    void *handle;
    Export get_table = NULL;
    char error[1024] = "";

    if (!PyUnicode_FSConverter(argument, &path)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    handle = dlopen(PyBytes_AS_STRING(path), RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        snprintf(error, sizeof error, "%s", dlerror());
    } else {
        *(void **)&get_table = dlsym(handle, SYMBOL);
        table = get_table == NULL ? NULL : get_table();
    }
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (handle == NULL) {
        PyErr_SetString(PyExc_OSError, error);
        return NULL;
    }
    if (get_table == NULL) {
        return refuse("it does not export the function %s", SYMBOL);
    }
    if (check_table(table) < 0) {
        return NULL;
    }
    library = PyObject_New(Library, state->library_type);
    if (library == NULL) {
        return NULL;
    }
    library->table = table;
    library->version = NULL;
    library->name = text_of(table->name, "name");
    if (library->name != NULL) {
        library->version = text_of(table->version, "version");
    }
    if (library->version == NULL) {
        Py_DECREF(library);
        return NULL;
    }
    return (PyObject *)library;
}

static void library_dealloc(Library *self)
{
    PyTypeObject *type = Py_TYPE(self);

    Py_XDECREF(self->name);
    Py_XDECREF(self->version);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *library_name(Library *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->name);
}

static PyObject *library_version(Library *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->version);
}

static PyObject *library_threads(Library *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLong(self->table->threads);
}

PyDoc_STRVAR(make_doc, "make($self, descriptor, longest, /)\n--\n\n"
                       "Have the library make a plugin; an Instance, or None where it makes none.\n\n"
                       "descriptor is an eventfd that does not block, longest the most bytes of\n"
                       "what the plugin says at a time.");

static PyObject *library_make(Library *self, PyObject *args)
{
    State *state = PyType_GetModuleState(Py_TYPE(self));
    Instance *instance;
    Py_ssize_t longest;
    int descriptor;

    if (!PyArg_ParseTuple(args, "in", &descriptor, &longest)) {
        return NULL;
    }
    instance = PyObject_New(Instance, state->instance_type);
    if (instance == NULL) {
        return NULL;
    }
    instance->library = Py_NewRef(self);
    instance->host = host_new(self->table, descriptor, (size_t)longest);
    if (instance->host == NULL) {
        Py_DECREF(instance);
        return PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    instance->host->plugin = self->table->create(&instance->host->table);
    Py_END_ALLOW_THREADS
    return (PyObject *)instance;
}

static PyGetSetDef library_getset[] = {
    {"name", (getter)library_name, NULL, "The plugin's name.", NULL},
    {"version", (getter)library_version, NULL, "The plugin's version.", NULL},
    {"threads", (getter)library_threads, NULL, "On how many threads `open` may wait.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef library_methods[] = {
    {"make", (PyCFunction)library_make, METH_VARARGS, make_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot library_slots[] = {
    {Py_tp_dealloc, library_dealloc},
    {Py_tp_getset, library_getset},
    {Py_tp_methods, library_methods},
    {Py_tp_doc, "A loaded library, as `load` returns it."},
    {0, NULL},
};

static PyType_Spec library_spec = {
    .name = "prism.hosts._library.Library",
    .basicsize = sizeof(Library),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = library_slots,
};

/* -- a plugin of it ------------------------------------------------------------------------- */

/* The messages as a list of tuples, or None where there are none; frees them. */
static PyObject *list_of(Message *first)
{
    PyObject *said = NULL;
    Message *message = first;

    if (first == NULL) {
        Py_RETURN_NONE;
    }
    for (said = PyList_New(0); said != NULL && message != NULL; message = message->next) {
        PyObject *item = Py_BuildValue(
            "(IKIIy#y#)", message->kind, (unsigned long long)message->call, message->number,
            message->flags, message->size ? message->body : "", (Py_ssize_t)message->size,
            message->position_size ? message->body + message->size : "",
            (Py_ssize_t)message->position_size);

        if (item == NULL || PyList_Append(said, item) < 0) {
            Py_CLEAR(said);
        }
        Py_XDECREF(item);
        if (said == NULL) {
            break;
        }
    }
    free_messages(first);
    return said;
}

/* A str or bytes; its bytes live as long as it. */
static int read_text(PyObject *object, prism_text *text)
{
    Py_ssize_t size;

    if (PyBytes_Check(object)) {
        *text = (prism_text){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
        return 0;
    }
    text->data = PyUnicode_AsUTF8AndSize(object, &size);
    text->size = (size_t)size;
    return text->data == NULL ? -1 : 0;
}

static int read_numbers(PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted,
                        Py_ssize_t numbers, unsigned long long *found)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments, not %zd", wanted, given);
        return -1;
    }
    for (Py_ssize_t i = 0; i < numbers; i++) {
        found[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (found[i] == (unsigned long long)-1 && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(open_doc,
             "open($self, call, method, flags, milliseconds, operation, body, metadata, /)\n--\n\n"
             "Begin a call. Returns what the library has said by then, as `take` does.\n\n"
             "RuntimeError: no thread could be started for it; nothing was begun.");

static PyObject *instance_open(Instance *self, PyObject *const *args, Py_ssize_t count)
{
    Host *host = self->host;
    prism_request request = {.size = sizeof request};
    unsigned long long numbers[4];

    if (read_numbers(args, count, 7, 4, numbers) < 0 || read_text(args[4], &request.operation) < 0 ||
        read_text(args[5], &request.body) < 0 || read_text(args[6], &request.metadata) < 0) {
        return NULL;
    }
    request.call = numbers[0];
    request.method = (uint32_t)numbers[1];
    request.flags = (uint32_t)numbers[2];
    request.milliseconds = (uint32_t)numbers[3];
    if (!host_begin(host, request.call, request.method)) {
        return PyErr_NoMemory();
    }
    if (host->library->threads > 0) {
        int failed = host_submit(host, &request);
        if (failed != 0) {
            return PyErr_Format(PyExc_RuntimeError, "no thread can be started: %s",
                                failed > 0 ? strerror(failed) : "out of memory");
        }
        Py_RETURN_NONE;
    }
    /* The GIL is kept: this is over soon, and to get it back could take milliseconds. */
    host_enter(host);
    host->library->open(host->plugin, &request);
    return list_of(host_leave(host));
}

PyDoc_STRVAR(data_doc, "data($self, call, flags, body, /)\n--\n\n"
                       "Hand over a message of the client's, or its end; void where its call\n"
                       "has ended, or was cancelled. Returns as `take` does.");

static PyObject *instance_data(Instance *self, PyObject *const *args, Py_ssize_t count)
{
    Host *host = self->host;
    unsigned long long numbers[2];
    prism_text body;

    if (read_numbers(args, count, 3, 2, numbers) < 0 || read_text(args[2], &body) < 0) {
        return NULL;
    }
    if (!host_takes_data(host, numbers[0])) {
        Py_RETURN_NONE;
    }
    host_enter(host);
    host->library->data(host->plugin, numbers[0], (uint32_t)numbers[1], body.data, body.size);
    return list_of(host_leave(host));
}

PyDoc_STRVAR(cancel_doc, "cancel($self, call, status, /)\n--\n\n"
                         "Nobody waits for the call any more. Returns as `take` does.");

static PyObject *instance_cancel(Instance *self, PyObject *const *args, Py_ssize_t count)
{
    Host *host = self->host;
    unsigned long long numbers[2];

    if (read_numbers(args, count, 2, 2, numbers) < 0) {
        return NULL;
    }
    host_enter(host);
    if (host_cancel(host, numbers[0])) {
        host->library->cancel(host->plugin, numbers[0], (uint32_t)numbers[1]);
    }
    return list_of(host_leave(host));
}

PyDoc_STRVAR(give_room_doc, "give_room($self, call, size, /)\n--\n\n"
                            "A message of size bytes was taken from a stream. Returns as `take` "
                            "does.");

static PyObject *instance_give_room(Instance *self, PyObject *const *args, Py_ssize_t count)
{
    Host *host = self->host;
    unsigned long long numbers[2];

    if (read_numbers(args, count, 2, 2, numbers) < 0) {
        return NULL;
    }
    if (!host_give_room(host, numbers[0], (size_t)numbers[1])) {
        Py_RETURN_NONE;
    }
    host_enter(host);
    host->library->room(host->plugin, numbers[0]);
    return list_of(host_leave(host));
}

PyDoc_STRVAR(take_doc,
             "take($self, /)\n--\n\n"
             "What the library has said, in its order: (kind, call, number, flags, body, position)\n"
             "of each, or None where it has said nothing.");

static PyObject *instance_take(Instance *self, PyObject *unused)
{
    (void)unused;
    return list_of(host_take(self->host));
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "From now on, all that the library says is void. The eventfd may be closed\n"
                        "afterwards.");

static PyObject *instance_close(Instance *self, PyObject *unused)
{
    (void)unused;
    host_close(self->host);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(destroy_doc, "destroy($self, seconds, /)\n--\n\n"
                          "Have the library free the plugin: after `close`, once, in any thread.\n\n"
                          "False: it was not, because a call is open, or was not left in time.");

static PyObject *instance_destroy(Instance *self, PyObject *argument)
{
    double seconds = PyFloat_AsDouble(argument);
    Host *host = self->host;
    bool is_idle;

    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    is_idle = host->plugin != NULL && host_wait_idle(host, seconds);
    if (is_idle) {
        host->library->destroy(host->plugin);
        host->plugin = NULL;
    }
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(is_idle);
}

static PyObject *instance_open_calls(Instance *self, void *closure)
{
    size_t calls;

    (void)closure;
    pthread_mutex_lock(&self->host->lock);
    calls = self->host->calls;
    pthread_mutex_unlock(&self->host->lock);
    return PyLong_FromSize_t(calls);
}

static PyObject *instance_is_made(Instance *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->host->plugin != NULL);
}

/* The library may hold on to it; what it says from now on goes nowhere. */
static void instance_dealloc(Instance *self)
{
    PyTypeObject *type = Py_TYPE(self);

    if (self->host != NULL) {
        host_close(self->host);
    }
    Py_XDECREF(self->library);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyGetSetDef instance_getset[] = {
    {"open_calls", (getter)instance_open_calls, NULL, "Calls that are not completed.", NULL},
    {"is_made", (getter)instance_is_made, NULL, "Has `create` made a plugin?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef instance_methods[] = {
    {"open", (PyCFunction)(void (*)(void))instance_open, METH_FASTCALL, open_doc},
    {"data", (PyCFunction)(void (*)(void))instance_data, METH_FASTCALL, data_doc},
    {"cancel", (PyCFunction)(void (*)(void))instance_cancel, METH_FASTCALL, cancel_doc},
    {"give_room", (PyCFunction)(void (*)(void))instance_give_room, METH_FASTCALL, give_room_doc},
    {"take", (PyCFunction)instance_take, METH_NOARGS, take_doc},
    {"close", (PyCFunction)instance_close, METH_NOARGS, close_doc},
    {"destroy", (PyCFunction)instance_destroy, METH_O, destroy_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot instance_slots[] = {
    {Py_tp_dealloc, instance_dealloc},
    {Py_tp_getset, instance_getset},
    {Py_tp_methods, instance_methods},
    {Py_tp_doc, "A plugin that a library has made. Not for two threads at a time, but `take`."},
    {0, NULL},
};

static PyType_Spec instance_spec = {
    .name = "prism.hosts._library.Instance",
    .basicsize = sizeof(Instance),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = instance_slots,
};

/* -- the module ----------------------------------------------------------------------------- */

static int library_exec(PyObject *module)
{
    static const struct {
        const char *name;
        int value;
    } constants[] = {
        {"SAID_COMPLETE", SAID_COMPLETE}, {"SAID_SEND", SAID_SEND}, {"SAID_WANT", SAID_WANT},
        {"SAID_LOG", SAID_LOG},           {"SAID_NOTE", SAID_NOTE}, {"SAID_WRONG", SAID_WRONG},
        {"SAID_DROPPED", SAID_DROPPED},   {"END", PRISM_END},       {"MSGPACK", PRISM_MSGPACK},
        {"NOT_STARTED", PRISM_NOT_STARTED}, {"TOO_LARGE", TOO_LARGE}, {"ABI", PRISM_ABI},
    };
    State *state = PyModule_GetState(module);

    state->library_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &library_spec, NULL);
    state->instance_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &instance_spec, NULL);
    if (state->library_type == NULL || state->instance_type == NULL ||
        PyModule_AddType(module, state->library_type) < 0 ||
        PyModule_AddType(module, state->instance_type) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0) {
            return -1;
        }
    }
    return 0;
}

static int library_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);

    Py_VISIT(state->library_type);
    Py_VISIT(state->instance_type);
    return 0;
}

static int library_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);

    Py_CLEAR(state->library_type);
    Py_CLEAR(state->instance_type);
    return 0;
}

static PyMethodDef library_functions[] = {
    {"load", load, METH_O, load_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot library_module_slots[] = {
    {Py_mod_exec, library_exec},
    {0, NULL},
};

static struct PyModuleDef library_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "prism.hosts._library",
    .m_doc = "Native plugins: loads libraries as schemas/abi/prism_plugin.h has them, and calls them.",
    .m_size = sizeof(State),
    .m_methods = library_functions,
    .m_slots = library_module_slots,
    .m_traverse = library_traverse,
    .m_clear = library_clear,
};

PyMODINIT_FUNC PyInit__library(void)
{
    return PyModuleDef_Init(&library_module);
}
