/* Whether a text is one JSON object that every parser reads alike; without building its values. */
#ifndef PRISM_JSON_SCAN_H
#define PRISM_JSON_SCAN_H

#include <stddef.h>
#include <stdint.h>

#define MAX_DEPTH 128         /* as json_text.MAX_DEPTH */
#define MAX_NUMBER_LENGTH 309 /* as json_text.MAX_NUMBER_LENGTH */

#define TOO_MANY_VALUES 2

/* 1, 0, or -1 without memory; TOO_MANY_VALUES once it has come upon more than `most_values`.
 *
 * `text` is followed by a zero byte, which ends whatever is being read: no place in JSON takes
 * one, so that the scanner looks for the end of the text only at the end of the object.
 * At most 4 GiB - 1. `seed` is of the hash of keys: random, and known to nobody. */
int json_is_object(const uint8_t *text, size_t size, const uint64_t seed[2], size_t most_values);

#endif
