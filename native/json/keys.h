/* The keys of the objects that are open, and whether one of them has the same key twice.
 *
 * Keys are compared unescaped: "a" and "\u0061" are one. Objects of a few keys are compared
 * pair by pair, larger ones by a hash table. Its hash is keyed with a seed that nobody outside
 * of the process knows, else a client could choose keys that all hash alike, and take quadratic
 * time (CVE-2011-4815 and its like).
 */
#ifndef PRISM_JSON_KEYS_H
#define PRISM_JSON_KEYS_H

#include <stddef.h>
#include <stdint.h>

#define KEYS_INLINE 128
#define SLOTS_INLINE 256 /* a power of two, at least twice KEYS_INLINE */

typedef struct {
    const uint8_t *bytes; /* unescaped */
    uint32_t size;
    uint32_t mark; /* where it differs, so do the keys */
} Key;

/* A stack: the keys of an object lie above those of the objects around it. */
typedef struct {
    Key *keys;
    size_t count, room;
    uint32_t *slots; /* of the hash table: a key's place in its object plus 1, or 0 */
    size_t slot_room;
    uint64_t seed[2];
    Key inline_keys[KEYS_INLINE];
    uint32_t inline_slots[SLOTS_INLINE];
} Keys;

void keys_init(Keys *self, const uint64_t seed[2]);
void keys_clear(Keys *self);

/* 0, or -1 without memory. `bytes` must stay where they are until `keys_clear`. */
int keys_push(Keys *self, const uint8_t *bytes, size_t size);

/* Whether two keys from `first` on are equal: 1, 0, or -1 without memory. */
int keys_repeat(Keys *self, size_t first);

#endif
