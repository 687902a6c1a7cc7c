/* A request's header section: gathered field by field, and the rules it must obey.
 *
 * The same rules as request.py has for the h2 codec, in the same order; a test feeds
 * both the same fields. RFC 9113, 8.2 and 8.3; RFC 8441, 4.
 */
#ifndef PRISM_HEAD_H
#define PRISM_HEAD_H

#include "native.h"

#define PAIR_SLOTS 64 /* a power of two */
#define MAX_PAIR 128  /* bytes of name and value together worth keeping */

/* Header fields that one connection sent before, as (name, value) tuples. Direct-mapped. */
typedef struct {
    PyObject *pairs[PAIR_SLOTS];
} PairCache;

/* pairs.c */
void pair_cache_clear(PairCache *cache);
int bytes_equal(PyObject *bytes, ng_vec wanted);
PyObject *bytes_of(ng_vec data);
PyObject *pair_object(State *state, PairCache *cache, ng_vec name, ng_vec value, int sensitive);

typedef struct {
    PyObject *method;
    PyObject *scheme;
    PyObject *target;
    PyObject *authority;
    PyObject *protocol;
    PyObject *host;
    PyObject *headers;      /* a list of pairs, complete after head_finish */
    int64_t content_length; /* -1: not declared */
    int cookies;
    int trailers; /* the fields are trailers: checked and dropped */
    int regular_seen;
    const char *fault; /* the first rule broken, or NULL */
} Head;

void head_clear(Head *head);

/* The fault of a request whose header section is too large: it is answered, with 431. */
extern const char head_too_large[];

/* Whether the field continues a cookie that has begun; all of them count as one field. */
int head_is_crumb(Head *head, ng_vec name);

/* More has come than is put up with: keep none of it, unless something else was wrong before. */
void head_refuse_large(Head *head);

/* Take in one field. -1 with a Python exception; a broken rule is in head->fault. */
int head_field(Head *head, State *state, PairCache *cache, ng_vec name, ng_vec value,
               int sensitive);

/* The section is complete: check it as a whole and put `host` first. -1 as above. */
int head_finish(Head *head, State *state, int ended);

#endif
