/* limits.FrameGuard in C: what a client may send before it counts as a flood. It judges a frame
 * by its header, before nghttp2 spends any work on it. What it refuses fails the session. */
#include "session.h"

#define RESET_COST 2 /* as in limits.py */

static void credit(Session *self, double amount)
{
    Guard *guard = &self->guard;
    double balance = guard->balance + amount;

    guard->balance = balance < guard->budget ? balance : guard->budget;
}

void session_refill(Session *self, double now)
{
    Guard *guard = &self->guard;

    credit(self, (now - guard->refilled_at) * guard->refill);
    guard->refilled_at = now;
}

static void charge(Session *self, double cost)
{
    self->guard.balance -= cost;
    if (self->guard.balance < 0) {
        session_fail(self, ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    }
}

static void judge_header_block(Session *self, size_t length, uint8_t flags)
{
    Guard *guard = &self->guard;

    guard->headers_follow = !(flags & NG_FLAG_END_HEADERS);
    guard->header_block += length;
    /* Compressed, it is smaller than max_header_size counts it: twice is plenty. */
    if (guard->header_block > 2 * self->max_header_size) {
        session_fail(self, ENHANCE_YOUR_CALM, "a header section is too large");
    }
}

void session_judge_frame(Session *self, size_t length, uint8_t kind, uint8_t flags)
{
    Guard *guard = &self->guard;

    guard->in_headers = kind == NG_HEADERS || kind == NG_CONTINUATION;
    if (length > MAX_FRAME_SIZE) {
        session_fail(self, FRAME_SIZE_ERROR, "a frame is larger than announced");
        return;
    }
    switch (kind) {
    case NG_DATA:
        if (flags & NG_FLAG_END_STREAM) {
            break;
        }
        if (length == 0) {
            charge(self, 1);
        } else if (flags & NG_FLAG_PADDED) {
            guard->padded_length = length;
        }
        break;
    case NG_HEADERS:
        guard->header_block = 0;
        judge_header_block(self, length, flags);
        break;
    case NG_CONTINUATION:
        charge(self, 1);
        judge_header_block(self, length, flags);
        break;
    case NG_RST_STREAM:
        charge(self, RESET_COST);
        break;
    default:
        charge(self, 1);
    }
}

void session_judge_padding(Session *self, uint8_t pad_length)
{
    if ((size_t)pad_length + 1 >= self->guard.padded_length) {
        charge(self, 1); /* it holds nothing else */
    }
    self->guard.padded_length = 0;
}

/* From the connection. */

PyObject *session_charge(Session *self, PyObject *cost)
{
    double value;
    int go;

    if (session_decimal(cost, &value) < 0 || (go = session_ready(self)) < 0) {
        return NULL;
    }
    if (go) {
        charge(self, value);
    }
    if (self->failed) {
        return session_raise(self, 0);
    }
    Py_RETURN_NONE;
}

PyObject *session_credit(Session *self, PyObject *amount)
{
    double value;

    if (session_decimal(amount, &value) < 0) {
        return NULL;
    }
    credit(self, value);
    Py_RETURN_NONE;
}
