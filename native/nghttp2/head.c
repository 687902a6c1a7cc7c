#include "head.h"

#include <string.h>

#define IS(field, text) ((field).len == sizeof(text) - 1 && !memcmp((field).base, text, sizeof(text) - 1))

void head_clear(Head *head)
{
    Py_CLEAR(head->method);
    Py_CLEAR(head->scheme);
    Py_CLEAR(head->target);
    Py_CLEAR(head->authority);
    Py_CLEAR(head->protocol);
    Py_CLEAR(head->host);
    Py_CLEAR(head->headers);
}

/* A bit for each byte of a token without upper case (RFC 9110, 5.6.2; RFC 9113, 8.2.1). */
static const uint32_t name_bytes[8] = {0x00000000, 0x03ff6cfa, 0xc0000000, 0x57ffffff};

static int is_name(ng_vec name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (!(name_bytes[name.base[i] >> 5] >> (name.base[i] & 31) & 1)) {
            return 0;
        }
    }
    return name.len > 0;
}

static int is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

static int is_value(ng_vec value)
{
    if (value.len > 0 && (is_blank(value.base[0]) || is_blank(value.base[value.len - 1]))) {
        return 0;
    }
    for (size_t i = 0; i < value.len; i++) {
        uint8_t byte = value.base[i];
        if (byte == '\0' || byte == '\r' || byte == '\n') {
            return 0;
        }
    }
    return 1;
}

static int is_trailers(ng_vec value)
{
    return value.len == 8 && !strncasecmp((const char *)value.base, "trailers", 8);
}

/* Of a connection, hence not allowed in HTTP/2 (RFC 9113, 8.2.2). */
static int is_connection_field(ng_vec name)
{
    switch (name.len) {
    case 7:
        return IS(name, "upgrade");
    case 10:
        return IS(name, "connection") || IS(name, "keep-alive");
    case 16:
        return IS(name, "proxy-connection");
    case 17:
        return IS(name, "transfer-encoding");
    default:
        return 0;
    }
}

static int64_t parse_length(ng_vec value)
{
    int64_t length = 0;

    if (value.len == 0 || value.len > 18) {
        return -1;
    }
    for (size_t i = 0; i < value.len; i++) {
        if (value.base[i] < '0' || value.base[i] > '9') {
            return -1;
        }
        length = length * 10 + (value.base[i] - '0');
    }
    return length;
}

static PyObject **pseudo_place(Head *head, ng_vec name)
{
    switch (name.len) {
    case 5:
        return IS(name, ":path") ? &head->target : NULL;
    case 7:
        return IS(name, ":method") ? &head->method : IS(name, ":scheme") ? &head->scheme : NULL;
    case 9:
        return IS(name, ":protocol") ? &head->protocol : NULL;
    case 10:
        return IS(name, ":authority") ? &head->authority : NULL;
    default:
        return NULL;
    }
}

static int pseudo_field(Head *head, State *state, PairCache *cache, ng_vec name, ng_vec value,
                        int sensitive)
{
    PyObject **place, *pair;

    if (head->trailers) {
        head->fault = "a pseudo header among the trailers";
        return 0;
    }
    if (head->regular_seen) {
        head->fault = "a pseudo header after a regular one";
        return 0;
    }
    place = pseudo_place(head, name);
    if (place == NULL) {
        head->fault = "an unknown pseudo header";
        return 0;
    }
    if (*place != NULL) {
        head->fault = "a pseudo header twice";
        return 0;
    }
    if (!is_value(value)) {
        head->fault = "an invalid header value";
        return 0;
    }
    pair = pair_object(state, cache, name, value, sensitive);
    if (pair == NULL) {
        return -1;
    }
    *place = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    Py_DECREF(pair);
    return 0;
}

const char head_too_large[] = "the header section is too large";

int head_is_crumb(Head *head, ng_vec name)
{
    return head->cookies > 0 && IS(name, "cookie");
}

void head_refuse_large(Head *head)
{
    if (head->fault == NULL) {
        head->fault = head->trailers ? "the trailers are too large" : head_too_large;
    }
}

int head_field(Head *head, State *state, PairCache *cache, ng_vec name, ng_vec value,
               int sensitive)
{
    PyObject *pair;
    int result;

    if (head->fault != NULL) {
        return 0;
    }
    if (name.len > 0 && name.base[0] == ':') {
        return pseudo_field(head, state, cache, name, value, sensitive);
    }
    head->regular_seen = 1;
    if (!is_name(name)) {
        head->fault = "an invalid header name";
        return 0;
    }
    if (!is_value(value)) {
        head->fault = "an invalid header value";
        return 0;
    }
    if (is_connection_field(name) || (IS(name, "te") && !is_trailers(value))) {
        head->fault = "a header that belongs to a connection";
        return 0;
    }
    if (head->trailers) {
        return 0;
    }
    if (IS(name, "content-length")) {
        if (head->content_length >= 0) {
            head->fault = "content-length twice";
            return 0;
        }
        head->content_length = parse_length(value);
        if (head->content_length < 0) {
            head->fault = "an invalid content-length";
            return 0;
        }
    } else if (IS(name, "cookie")) {
        head->cookies++;
    } else if (IS(name, "host")) {
        if (head->host != NULL) {
            head->fault = "host twice";
            return 0;
        }
        head->host = bytes_of(value);
        return head->host == NULL ? -1 : 0;
    }
    if (head->headers == NULL) {
        head->headers = PyList_New(1); /* the first place is for `host` */
        if (head->headers == NULL) {
            return -1;
        }
        PyList_SET_ITEM(head->headers, 0, Py_NewRef(Py_None));
    }
    pair = pair_object(state, cache, name, value, sensitive);
    if (pair == NULL) {
        return -1;
    }
    result = PyList_Append(head->headers, pair);
    Py_DECREF(pair);
    return result;
}

static const char *fault_of(Head *head, int ended)
{
    int connect = head->method != NULL && bytes_equal(head->method, (ng_vec){(uint8_t *)"CONNECT", 7});

    if (head->method == NULL) {
        return "no :method";
    }
    if (head->protocol != NULL && !connect) {
        return ":protocol without CONNECT";
    }
    if (connect && head->protocol == NULL) {
        if (head->scheme != NULL || head->target != NULL) {
            return "CONNECT with :scheme or :path";
        }
        if (head->authority == NULL) {
            return "CONNECT without :authority";
        }
    } else if (head->scheme == NULL) {
        return "no :scheme";
    } else if (head->target == NULL || PyBytes_GET_SIZE(head->target) == 0) {
        return "no :path";
    }
    if (head->authority == NULL && head->host == NULL) {
        return "neither :authority nor host";
    }
    if (head->authority != NULL && head->host != NULL) {
        ng_vec authority = {(uint8_t *)PyBytes_AS_STRING(head->authority),
                            (size_t)PyBytes_GET_SIZE(head->authority)};
        if (!bytes_equal(head->host, authority)) {
            return ":authority and host differ";
        }
    }
    if (ended && head->content_length > 0) {
        return "the body is not as long as content-length says";
    }
    return NULL;
}

/* Clients may cut cookies into several fields for compression (RFC 9113, 8.2.3). */
static int join_cookies(Head *head, State *state)
{
    PyObject *joined = NULL, *values = NULL, *pair = NULL, *separator = NULL;
    PyObject *others = PyList_New(0);
    int result = -1;

    if (others == NULL || (values = PyList_New(0)) == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(head->headers); i++) {
        PyObject *item = PyList_GET_ITEM(head->headers, i); /* at 0 not yet a pair */
        int cookie = i > 0 && bytes_equal(PyTuple_GET_ITEM(item, 0), (ng_vec){(uint8_t *)"cookie", 6});
        if (PyList_Append(cookie ? values : others, cookie ? PyTuple_GET_ITEM(item, 1) : item)) {
            goto done;
        }
    }
    separator = PyBytes_FromString("; ");
    joined = separator == NULL ? NULL : PyObject_CallMethod(separator, "join", "O", values);
    pair = joined == NULL ? NULL : PyTuple_Pack(2, state->cookie, joined);
    if (pair == NULL || PyList_Append(others, pair)) {
        goto done;
    }
    Py_SETREF(head->headers, Py_NewRef(others));
    result = 0;
done:
    Py_XDECREF(separator);
    Py_XDECREF(joined);
    Py_XDECREF(pair);
    Py_XDECREF(values);
    Py_XDECREF(others);
    return result;
}

int head_finish(Head *head, State *state, int ended)
{
    PyObject *pair;

    if (head->fault == NULL) {
        head->fault = fault_of(head, ended);
    }
    if (head->fault != NULL) {
        return 0;
    }
    if (head->cookies > 1 && join_cookies(head, state) < 0) {
        return -1;
    }
    if (head->headers == NULL && (head->headers = PyList_New(1)) == NULL) {
        return -1;
    }
    pair = PyTuple_Pack(2, state->host, head->authority != NULL ? head->authority : head->host);
    if (pair == NULL) {
        return -1;
    }
    return PyList_SetItem(head->headers, 0, pair);
}
