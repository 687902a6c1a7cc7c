/* The functions `skip_*` take the place where something begins and return the place after its end,
 * or NULL if it is not what it should be. A zero byte follows the text, and no place takes one, so
 * that only what reads many bytes at once has to know where the end is. */
#ifndef PRISM_JSON_SKIP_H
#define PRISM_JSON_SKIP_H

#include <stdint.h>

/* string.c: a string, from its opening quote. Says whether there are escapes in it. */
const uint8_t *skip_string(const uint8_t *p, const uint8_t *end, int *escapes);

/* Copy what is inside of a valid string, without its escapes; it does not become longer. Returns the end
 * of the copy. Should another thread change a bytearray meanwhile, the copy is worthless, but ends at
 * what is invalid. */
uint8_t *unescape(uint8_t *to, const uint8_t *p, const uint8_t *end);

/* number.c: a number that is neither too long nor too large. */
const uint8_t *skip_number(const uint8_t *p);

#endif
