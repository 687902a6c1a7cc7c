/* The incoming frames one by one, before nghttp2 sees them. */
#include "session.h"

#define FRAMES_AT_ONCE 256 /* limits.py says why not more, and has fewer */
#define UNKNOWN_FRAME 0xfe

/* What nghttp2 would let pass without a word: it ignores what comes for a closed stream. */
static void check_stream(Session *self, int32_t id)
{
    const Closed *closed = &self->remembered[(id >> 1) & (REMEMBERED - 1)];

    if (id % 2 == 0 || id > self->highest_id ||
        ng.session_get_stream_user_data(self->session, id) != NULL) {
        return;
    }
    if (closed->id != id) {
        session_fail(self, PROTOCOL_ERROR, "a frame for a stream that was never opened");
    } else if (!closed->by_our_reset) {
        session_fail(self, STREAM_CLOSED, "a frame for a stream that has ended");
    }
}

static void check_header(Session *self, Follower *follower)
{
    const uint8_t *header = follower->header, kind = header[3], flags = header[4];
    size_t length = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
    int32_t id = (int32_t)((uint32_t)(header[5] & 0x7f) << 24 | (uint32_t)header[6] << 16 |
                           (uint32_t)header[7] << 8 | header[8]);

    follower->to_skip = length;
    follower->frames++;
    session_judge_frame(self, length, kind, flags);
    if (kind == NG_HEADERS || kind == NG_DATA) {
        check_stream(self, id);
    } else if (kind == NG_GOAWAY && length < 8) {
        session_fail(self, FRAME_SIZE_ERROR, "GOAWAY is too short");
    } else if (kind == NG_GOAWAY && id != 0) {
        session_fail(self, PROTOCOL_ERROR, "GOAWAY on a stream");
    }
}

/* How much of `data` belongs to one frame. In `type`, the place of the frame's type if it
 * is GOAWAY and in `data`, else NULL. */
static size_t follow(Session *self, const uint8_t *data, size_t size, const uint8_t **type)
{
    Follower *follower = &self->follower;
    size_t position = 0, step;

    *type = NULL;
    if (follower->to_skip == 0) {
        while (follower->header_len < sizeof follower->header) {
            if (position == size) {
                return size;
            }
            if (follower->header_len == 3 && data[position] == NG_GOAWAY) {
                *type = data + position;
            }
            follower->header[follower->header_len++] = data[position++];
        }
        check_header(self, follower);
    }
    if (self->guard.padded_length > 0 && position < size) {
        session_judge_padding(self, data[position]);
    }
    step = size - position < follower->to_skip ? size - position : follower->to_skip;
    follower->to_skip -= step;
    return position + step;
}

/* Whether the last byte that was followed ends a frame (or the preface), which is noted. */
static int frame_ends(Follower *follower)
{
    if (follower->to_skip > 0 || (follower->header_len > 0 && follower->header_len < 9)) {
        return 0;
    }
    follower->header_len = 0;
    return 1;
}

ssize_t session_feed(Session *self, const uint8_t *data, size_t size)
{
    size_t position = 0;

    self->follower.frames = 0;
    while (position < size && self->follower.frames < FRAMES_AT_ONCE) {
        const uint8_t unknown = UNKNOWN_FRAME, *start = data + position, *type;
        size_t step = follow(self, start, size - position, &type);
        size_t before = type == NULL ? 0 : (size_t)(type - start) + 1;
        ssize_t result = 0;

        if (self->failed) {
            return 0;
        }
        self->left = size - position - step;
        if (before > 1) {
            result = ng.session_mem_recv(self->session, start, before - 1);
        }
        if (before > 0 && result >= 0) {
            result = ng.session_mem_recv(self->session, &unknown, 1);
        }
        if (step > before && result >= 0) {
            result = ng.session_mem_recv(self->session, start + before, step - before);
        }
        if (result < 0) {
            return result;
        }
        position += step;
        if (frame_ends(&self->follower) && self->follower.header[3] == NG_GOAWAY &&
            session_add_event(self, EVENT_LEAVING, 0) == NULL) {
            return NG_ERR_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)position;
}
