/* Keys, and the search for one that comes twice. */
#include "keys.h"

#include <stdlib.h>
#include <string.h>

#define FEW 16 /* keys; comparing all pairs of their marks takes less time than hashing them */

void keys_init(Keys *self, const uint64_t seed[2])
{
    self->keys = self->inline_keys;
    self->room = KEYS_INLINE;
    self->count = 0;
    self->slots = self->inline_slots;
    self->slot_room = SLOTS_INLINE;
    self->seed[0] = seed[0];
    self->seed[1] = seed[1];
}

void keys_clear(Keys *self)
{
    if (self->keys != self->inline_keys) {
        free(self->keys);
    }
    if (self->slots != self->inline_slots) {
        free(self->slots);
    }
}

static uint64_t load(const uint8_t *bytes, size_t size)
{
    uint64_t word = 0;

    memcpy(&word, bytes, size);
    return word;
}

/* Of the size, and of up to eight bytes at both ends. */
static uint32_t mark_of(const uint8_t *bytes, size_t size)
{
    uint64_t head, tail;

    if (size >= 8) {
        head = load(bytes, 8);
        tail = load(bytes + size - 8, 8);
    } else if (size >= 4) {
        head = load(bytes, 4);
        tail = load(bytes + size - 4, 4);
    } else if (size > 0) {
        head = (uint64_t)bytes[0] << 8 | bytes[size / 2];
        tail = bytes[size - 1];
    } else {
        return 0;
    }
    return (uint32_t)(((head ^ size) * 0x9e3779b97f4a7c15u + tail * 0xc2b2ae3d27d4eb4fu) >> 32);
}

static int grow(Keys *self)
{
    size_t room = 2 * self->room;
    Key *grown;

    if (self->keys == self->inline_keys) {
        grown = malloc(room * sizeof *grown);
        if (grown != NULL) {
            memcpy(grown, self->inline_keys, sizeof self->inline_keys);
        }
    } else {
        grown = realloc(self->keys, room * sizeof *grown);
    }
    if (grown == NULL) {
        return -1;
    }
    self->keys = grown;
    self->room = room;
    return 0;
}

int keys_push(Keys *self, const uint8_t *bytes, size_t size)
{
    if (self->count == self->room && grow(self) < 0) {
        return -1;
    }
    self->keys[self->count++] = (Key){bytes, (uint32_t)size, mark_of(bytes, size)};
    return 0;
}

static int equal(const Key *one, const Key *other)
{
    return one->mark == other->mark && one->size == other->size &&
           !memcmp(one->bytes, other->bytes, one->size);
}

static int repeat_among_few(const Key *keys, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (equal(&keys[i], &keys[j])) {
                return 1;
            }
        }
    }
    return 0;
}

static uint64_t rotate(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32) + v[3];
    v[2] += v[1];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3, which Python and Rust use for the same reason. */
static uint64_t sip_hash(const uint64_t seed[2], const uint8_t *bytes, size_t size)
{
    uint64_t v[4] = {
        seed[0] ^ 0x736f6d6570736575u,
        seed[1] ^ 0x646f72616e646f6du,
        seed[0] ^ 0x6c7967656e657261u,
        seed[1] ^ 0x7465646279746573u,
    };
    uint64_t last = (uint64_t)size << 56;

    for (; size >= 8; size -= 8, bytes += 8) {
        uint64_t word = load(bytes, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    last |= load(bytes, size);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* How many slots, all of them empty: a power of two, at least twice `count`. 0 without memory. */
static size_t empty_slots(Keys *self, size_t count)
{
    size_t number = 64;

    while (number < 2 * count) {
        number *= 2;
    }
    if (number > self->slot_room) {
        uint32_t *slots = malloc(number * sizeof *slots);
        if (slots == NULL) {
            return 0;
        }
        if (self->slots != self->inline_slots) {
            free(self->slots);
        }
        self->slots = slots;
        self->slot_room = number;
    }
    memset(self->slots, 0, number * sizeof *self->slots);
    return number;
}

static int repeat_among_many(Keys *self, const Key *keys, size_t count)
{
    size_t number = empty_slots(self, count);

    if (number == 0) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        size_t slot = sip_hash(self->seed, keys[i].bytes, keys[i].size) & (number - 1);
        while (self->slots[slot] != 0) {
            if (equal(&keys[i], &keys[self->slots[slot] - 1])) {
                return 1;
            }
            slot = (slot + 1) & (number - 1);
        }
        self->slots[slot] = (uint32_t)(i + 1);
    }
    return 0;
}

int keys_repeat(Keys *self, size_t first)
{
    const Key *keys = self->keys + first;
    size_t count = self->count - first;

    return count <= FEW ? repeat_among_few(keys, count) : repeat_among_many(self, keys, count);
}
