/* Strings: their end, their escapes, and that they are UTF-8 (RFC 8259, 7 and 8.1). */
#include "skip.h"

#include <stddef.h>
#include <string.h>

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

const uint8_t *skip_string(const uint8_t *p, const uint8_t *end, int *escapes)
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

uint8_t *unescape(uint8_t *to, const uint8_t *p, const uint8_t *end)
{
    uint32_t character;

    while (p != NULL && p < end) {
        if (*p == '\\') {
            p = skip_escape(p, &character);
            to = put_character(to, character);
        } else {
            *to++ = *p++;
        }
    }
    return to;
}
