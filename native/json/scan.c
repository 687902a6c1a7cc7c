/* The scanner: one pass, no recursion, no copy but of keys that hold escapes.
 *
 * The functions `skip_*` take the place where something begins and return the place after its
 * end, or NULL if it is not what it should be. RFC 8259 has the grammar, and section 8.1 that
 * the text is UTF-8: outside of strings only ASCII is taken, so only strings are checked for it.
 */
#include "scan.h"

#include "keys.h"

#include <stdlib.h>
#include <string.h>

#define ARRAY SIZE_MAX

typedef struct {
    size_t size; /* of the text */
    Keys keys;
    size_t depth;
    size_t first_key[MAX_DEPTH]; /* of each open object; ARRAY for an array */
    uint8_t *unescaped;          /* keys that held escapes; NULL before the first of them */
    size_t unescaped_size;
    int no_memory;
} Scanner;

static const uint8_t *skip_space(const uint8_t *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') {
        p++;
    }
    return p;
}

/* Strings. */

/* Sixteen bytes, compared at once by whatever instructions the machine has for that. */
typedef uint8_t Block __attribute__((vector_size(16)));
typedef int8_t SignedBlock __attribute__((vector_size(16)));

/* To the next quote, backslash, control character or byte that is not ASCII. */
static const uint8_t *skip_plain(const uint8_t *p, const uint8_t *end)
{
    while (end - p >= (ptrdiff_t)sizeof(Block)) {
        Block bytes;
        SignedBlock stops;
        uint64_t halves[2];
        memcpy(&bytes, p, sizeof bytes);
        /* What is not ASCII is below zero. */
        stops = (bytes == '"') | (bytes == '\\') | ((SignedBlock)bytes < ' ');
        memcpy(halves, &stops, sizeof halves);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (halves[0] != 0) {
            return p + __builtin_ctzll(halves[0]) / 8;
        }
        if (halves[1] != 0) {
            return p + 8 + __builtin_ctzll(halves[1]) / 8;
        }
#else
        if (halves[0] != 0 || halves[1] != 0) {
            break;
        }
#endif
        p += sizeof bytes;
    }
    while (*p >= ' ' && *p < 0x80 && *p != '"' && *p != '\\') {
        p++;
    }
    return p;
}

/* The digits of \uXXXX; -1 if they are none. */
static int hex4(const uint8_t *p)
{
    int value = 0;

    for (int i = 0; i < 4; i++) {
        int letter = p[i] | 0x20;
        if (p[i] >= '0' && p[i] <= '9') {
            value = value << 4 | (p[i] - '0');
        } else if (letter >= 'a' && letter <= 'f') {
            value = value << 4 | (letter - 'a' + 10);
        } else {
            return -1;
        }
    }
    return value;
}

static int is_high_surrogate(int unit)
{
    return unit >= 0xd800 && unit < 0xdc00;
}

static int is_low_surrogate(int unit)
{
    return unit >= 0xdc00 && unit < 0xe000;
}

/* Past an escape, and the character that it stands for. */
static const uint8_t *skip_escape(const uint8_t *p, uint32_t *character)
{
    int unit, low;

    *character = p[1];
    switch (p[1]) {
    case '"':
    case '\\':
    case '/':
        return p + 2;
    case 'b':
        *character = '\b';
        return p + 2;
    case 'f':
        *character = '\f';
        return p + 2;
    case 'n':
        *character = '\n';
        return p + 2;
    case 'r':
        *character = '\r';
        return p + 2;
    case 't':
        *character = '\t';
        return p + 2;
    case 'u':
        unit = hex4(p + 2);
        if (unit < 0 || is_low_surrogate(unit)) {
            return NULL;
        }
        *character = (uint32_t)unit;
        if (!is_high_surrogate(unit)) {
            return p + 6;
        }
        low = p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
        *character = 0x10000 + ((uint32_t)(unit & 0x3ff) << 10 | (uint32_t)(low & 0x3ff));
        return is_low_surrogate(low) ? p + 12 : NULL;
    default:
        return NULL;
    }
}

static int continues(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* One character of two to four bytes: the shortest form of no surrogate (RFC 3629, 4). */
static const uint8_t *skip_multibyte(const uint8_t *p)
{
    if (p[0] < 0xc2 || p[0] > 0xf4 || !continues(p[1])) {
        return NULL;
    }
    if (p[0] < 0xe0) {
        return p + 2;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90) || !continues(p[2])) {
        return NULL;
    }
    if (p[0] < 0xf0) {
        return p + 3;
    }
    return continues(p[3]) ? p + 4 : NULL;
}

static const uint8_t *skip_string(const uint8_t *p, const uint8_t *end, int *escapes)
{
    uint32_t character;

    *escapes = 0;
    p++;
    while (p != NULL) {
        p = skip_plain(p, end);
        if (*p == '"') {
            return p + 1;
        }
        if (*p == '\\') {
            *escapes = 1;
            p = skip_escape(p, &character);
        } else if (*p < ' ') {
            return NULL;
        } else {
            do {
                p = skip_multibyte(p);
            } while (p != NULL && *p >= 0x80);
        }
    }
    return NULL;
}

/* Keys. */

static uint8_t *put_character(uint8_t *to, uint32_t character)
{
    if (character < 0x80) {
        *to++ = (uint8_t)character;
    } else if (character < 0x800) {
        *to++ = (uint8_t)(0xc0 | character >> 6);
        *to++ = (uint8_t)(0x80 | (character & 0x3f));
    } else if (character < 0x10000) {
        *to++ = (uint8_t)(0xe0 | character >> 12);
        *to++ = (uint8_t)(0x80 | (character >> 6 & 0x3f));
        *to++ = (uint8_t)(0x80 | (character & 0x3f));
    } else {
        *to++ = (uint8_t)(0xf0 | character >> 18);
        *to++ = (uint8_t)(0x80 | (character >> 12 & 0x3f));
        *to++ = (uint8_t)(0x80 | (character >> 6 & 0x3f));
        *to++ = (uint8_t)(0x80 | (character & 0x3f));
    }
    return to;
}

/* Push the key from `p` to `end`, which is known to be valid, without its escapes. All such keys
 * together are shorter than the text; memory that is never written to costs nothing. Should another
 * thread change a bytearray meanwhile, the verdict is worthless, but this ends at what is invalid. */
static int push_unescaped(Scanner *self, const uint8_t *p, const uint8_t *end)
{
    uint8_t *start, *to;
    uint32_t character;

    if (self->unescaped == NULL && (self->unescaped = malloc(self->size)) == NULL) {
        return -1;
    }
    start = to = self->unescaped + self->unescaped_size;
    while (p != NULL && p < end) {
        if (*p == '\\') {
            p = skip_escape(p, &character);
            to = put_character(to, character);
        } else {
            *to++ = *p++;
        }
    }
    self->unescaped_size += (size_t)(to - start);
    return keys_push(&self->keys, start, (size_t)(to - start));
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

/* Numbers. */

/* The least number that rounds to infinity: halfway from the largest double, (2 - 2^-52) * 2^1023,
 * to what would follow it. */
static const char TOO_LARGE[] =
    "17976931348623158079372897140530341507993413271003782693617377898044496829276475094664901797"
    "75872070963302864166928879109465555478519404026306574886715058206819089020007083836762738548"
    "45817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711"
    "559699508093042880177904174497792";
#define TOO_LARGE_DIGITS ((int)sizeof TOO_LARGE - 1)

static int is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static const uint8_t *skip_digits(const uint8_t *p)
{
    while (is_digit(*p)) {
        p++;
    }
    return p;
}

/* The number after e or E, or what lies far enough beyond all that matters. */
static int exponent_of(const uint8_t *p)
{
    int negative = *p == '-', value = 0;

    p += *p == '-' || *p == '+';
    for (; is_digit(*p) && value < 10000; p++) {
        value = 10 * value + (*p - '0');
    }
    return negative ? -value : value;
}

/* Whether a number, known to be valid, is too large for a double. Exact, without arithmetic:
 * numbers with as many digits before the point compare like their digits. */
static int is_too_large(const uint8_t *p)
{
    const uint8_t *digits;
    int before_point = 0, fraction = 0, place = 0;

    p += *p == '-';
    while (*p == '0' || *p == '.') {
        before_point -= fraction && *p == '0';
        fraction |= *p == '.';
        p++;
    }
    digits = p;
    for (; is_digit(*p) || *p == '.'; p++) {
        fraction |= *p == '.';
        before_point += !fraction;
    }
    if (p == digits) {
        return 0;
    }
    if ((*p | 0x20) == 'e') {
        before_point += exponent_of(p + 1);
    }
    if (before_point != TOO_LARGE_DIGITS) {
        return before_point > TOO_LARGE_DIGITS;
    }
    for (; place < TOO_LARGE_DIGITS && (is_digit(*digits) || *digits == '.'); digits++) {
        if (*digits != '.' && *digits != TOO_LARGE[place++]) {
            return *digits > TOO_LARGE[place - 1];
        }
    }
    /* Equal so far. What is left of TOO_LARGE makes it greater, save zeros. */
    return strspn(TOO_LARGE + place, "0") == (size_t)(TOO_LARGE_DIGITS - place);
}

static const uint8_t *skip_number(const uint8_t *start)
{
    const uint8_t *p = start, *digits;
    int long_exponent = 0;

    p += *p == '-';
    if (!is_digit(*p)) {
        return NULL;
    }
    p = *p == '0' ? p + 1 : skip_digits(p);
    if (*p == '.') {
        digits = p + 1;
        p = skip_digits(digits);
        if (p == digits) {
            return NULL;
        }
    }
    if ((*p | 0x20) == 'e') {
        p += p[1] == '-' || p[1] == '+' ? 2 : 1;
        digits = p;
        p = skip_digits(p);
        if (p == digits) {
            return NULL;
        }
        long_exponent = p - digits > 2;
    }
    if (p - start > MAX_NUMBER_LENGTH) {
        return NULL;
    }
    /* With an exponent of two digits it takes two hundred others to be as large as that. */
    return (long_exponent || p - start > 200) && is_too_large(start) ? NULL : p;
}

/* Values. */

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

int json_is_object(const uint8_t *text, size_t size, const uint64_t seed[2])
{
    const uint8_t *p = skip_space(text), *end = text + size;
    Scanner scanner;

    if (*p != '{') {
        return 0;
    }
    scanner.size = size;
    scanner.depth = 0;
    scanner.unescaped = NULL;
    scanner.unescaped_size = 0;
    scanner.no_memory = 0;
    keys_init(&scanner.keys, seed);
    p = skip_object(&scanner, p, end);
    keys_clear(&scanner.keys);
    free(scanner.unescaped);
    if (scanner.no_memory) {
        return -1;
    }
    return p != NULL && skip_space(p) == end;
}
