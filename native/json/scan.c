/* The scanner: one pass over objects and arrays, without recursion (RFC 8259). */
#include "scan.h"

#include "keys.h"
#include "skip.h"

#include <stdlib.h>
#include <string.h>

#define ARRAY SIZE_MAX

typedef struct {
    size_t size;        /* of the text */
    size_t values_left; /* that may still come */
    Keys keys;
    size_t depth;
    size_t first_key[MAX_DEPTH]; /* of each open object; ARRAY for an array */
    uint8_t *unescaped;          /* keys that held escapes; NULL before the first of them */
    size_t unescaped_size;
    int no_memory;
    int too_many;
} Scanner;

static const uint8_t *skip_space(const uint8_t *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') {
        p++;
    }
    return p;
}

/* Push the key from `p` to `end` without its escapes. All such keys together are shorter than the
 * text; memory that is never written to costs nothing. */
static int push_unescaped(Scanner *self, const uint8_t *p, const uint8_t *end)
{
    uint8_t *start;
    size_t size;

    if (self->unescaped == NULL && (self->unescaped = malloc(self->size)) == NULL) {
        return -1;
    }
    start = self->unescaped + self->unescaped_size;
    size = (size_t)(unescape(start, p, end) - start);
    self->unescaped_size += size;
    return keys_push(&self->keys, start, size);
}

/* To where the value of a member begins. */
static const uint8_t *skip_key(Scanner *self, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *after;
    int escapes;

    if (*p != '"' || (after = skip_string(p, end, &escapes)) == NULL) {
        return NULL;
    }
    if ((escapes ? push_unescaped(self, p + 1, after - 1)
                 : keys_push(&self->keys, p + 1, (size_t)(after - p) - 2)) < 0) {
        self->no_memory = 1;
        return NULL;
    }
    p = skip_space(after);
    return *p == ':' ? skip_space(p + 1) : NULL;
}

static const uint8_t *skip_word(const uint8_t *p, const char *word)
{
    size_t size = strlen(word);

    return strncmp((const char *)p, word, size) == 0 ? p + size : NULL;
}

static const uint8_t *skip_scalar(const uint8_t *p, const uint8_t *end)
{
    int escapes;

    switch (*p) {
    case '"':
        return skip_string(p, end, &escapes);
    case 't':
        return skip_word(p, "true");
    case 'f':
        return skip_word(p, "false");
    case 'n':
        return skip_word(p, "null");
    default:
        return skip_number(p);
    }
}

static int closes(uint8_t byte)
{
    return byte == '}' || byte == ']';
}

static int in_object(const Scanner *self)
{
    return self->first_key[self->depth - 1] != ARRAY;
}

/* Into an object or array. */
static const uint8_t *skip_opening(Scanner *self, const uint8_t *p)
{
    if (self->depth == MAX_DEPTH) {
        return NULL;
    }
    self->first_key[self->depth++] = *p == '{' ? self->keys.count : ARRAY;
    return skip_space(p + 1);
}

/* Out of the innermost object or array. */
static const uint8_t *skip_closing(Scanner *self, const uint8_t *p)
{
    size_t first;

    if (*p != (in_object(self) ? '}' : ']')) {
        return NULL;
    }
    first = self->first_key[--self->depth];
    if (first != ARRAY) {
        int repeats = keys_repeat(&self->keys, first);
        if (repeats != 0) {
            self->no_memory = repeats < 0;
            return NULL;
        }
        self->keys.count = first;
    }
    return p + 1;
}

/* Past the key, where a value has one. */
static const uint8_t *skip_to_value(Scanner *self, const uint8_t *p, const uint8_t *end)
{
    return in_object(self) ? skip_key(self, p, end) : p;
}

/* The whole object at `p`. Each turn takes one value, with what opens before and closes after it. */
static const uint8_t *skip_object(Scanner *self, const uint8_t *p, const uint8_t *end)
{
    for (;;) {
        if (self->values_left-- == 0) {
            self->too_many = 1;
            return NULL;
        }
        if (*p == '{' || *p == '[') {
            p = skip_opening(self, p);
            if (p != NULL && !closes(*p)) {
                p = skip_to_value(self, p, end);
                if (p == NULL) {
                    return NULL;
                }
                continue;
            }
        } else if ((p = skip_scalar(p, end)) != NULL) {
            p = skip_space(p);
        }
        while (p != NULL && closes(*p)) {
            p = skip_closing(self, p);
            if (p == NULL || self->depth == 0) {
                return p;
            }
            p = skip_space(p);
        }
        if (p == NULL || *p != ',') {
            return NULL;
        }
        p = skip_to_value(self, skip_space(p + 1), end);
        if (p == NULL) {
            return NULL;
        }
    }
}

int json_is_object(const uint8_t *text, size_t size, const uint64_t seed[2], size_t most_values)
{
    const uint8_t *p = skip_space(text), *end = text + size;
    Scanner scanner;

    if (*p != '{') {
        return 0;
    }
    scanner.size = size;
    scanner.values_left = most_values;
    scanner.depth = 0;
    scanner.unescaped = NULL;
    scanner.unescaped_size = 0;
    scanner.no_memory = 0;
    scanner.too_many = 0;
    keys_init(&scanner.keys, seed);
    p = skip_object(&scanner, p, end);
    keys_clear(&scanner.keys);
    free(scanner.unescaped);
    if (scanner.no_memory) {
        return -1;
    }
    if (scanner.too_many) {
        return TOO_MANY_VALUES;
    }
    return p != NULL && skip_space(p) == end;
}
