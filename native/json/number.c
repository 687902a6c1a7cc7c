/* Numbers, and whether a double can hold them (RFC 8259, 6). */
#include "skip.h"

#include "scan.h"

#include <stddef.h>
#include <string.h>

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

const uint8_t *skip_number(const uint8_t *start)
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
