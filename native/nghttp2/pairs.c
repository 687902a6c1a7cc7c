/* Python objects for header fields, the same ones again for those that repeat. */
#include "head.h"

#include <string.h>

void pair_cache_clear(PairCache *cache)
{
    for (int slot = 0; slot < PAIR_SLOTS; slot++) {
        Py_CLEAR(cache->pairs[slot]);
    }
}

/* FNV-1a. Keys that are made to collide gain nothing: a slot is overwritten. */
static uint32_t hash_bytes(uint32_t hash, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ data[i]) * 16777619u;
    }
    return hash;
}

int bytes_equal(PyObject *bytes, ng_vec wanted)
{
    return (size_t)PyBytes_GET_SIZE(bytes) == wanted.len &&
           !memcmp(PyBytes_AS_STRING(bytes), wanted.base, wanted.len);
}

PyObject *bytes_of(ng_vec data)
{
    return PyBytes_FromStringAndSize((const char *)data.base, (Py_ssize_t)data.len);
}

/* A bytes object for a name, the same one as last time if it is still there. */
static PyObject *name_object(State *state, ng_vec name)
{
    PyObject **slot, *made;

    if (name.len > MAX_NAME) {
        return bytes_of(name);
    }
    slot = &state->names[hash_bytes(2166136261u, name.base, name.len) & (NAME_SLOTS - 1)];
    if (*slot != NULL && bytes_equal(*slot, name)) {
        return Py_NewRef(*slot);
    }
    made = bytes_of(name);
    if (made != NULL) {
        Py_XSETREF(*slot, Py_NewRef(made));
    }
    return made;
}

static PyObject *new_pair(State *state, ng_vec name, ng_vec value)
{
    PyObject *pair, *name_bytes, *value_bytes;

    name_bytes = name_object(state, name);
    value_bytes = name_bytes == NULL ? NULL : bytes_of(value);
    pair = value_bytes == NULL ? NULL : PyTuple_Pack(2, name_bytes, value_bytes);
    Py_XDECREF(name_bytes);
    Py_XDECREF(value_bytes);
    return pair;
}

/* (name, value); what a client marks as sensitive is not kept (RFC 7541, 7.1.3). */
PyObject *pair_object(State *state, PairCache *cache, ng_vec name, ng_vec value,
                             int sensitive)
{
    PyObject **slot, *pair;
    uint32_t hash;

    if (sensitive || name.len + value.len > MAX_PAIR) {
        return new_pair(state, name, value);
    }
    hash = hash_bytes(2166136261u, name.base, name.len);
    hash = hash_bytes(hash, value.base, value.len);
    slot = &cache->pairs[hash & (PAIR_SLOTS - 1)];
    pair = *slot;
    if (pair != NULL && bytes_equal(PyTuple_GET_ITEM(pair, 1), value) &&
        bytes_equal(PyTuple_GET_ITEM(pair, 0), name)) {
        return Py_NewRef(pair);
    }
    pair = new_pair(state, name, value);
    if (pair != NULL) {
        Py_XSETREF(*slot, Py_NewRef(pair));
    }
    return pair;
}
