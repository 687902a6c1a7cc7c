package dev.prism.plugin;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Map;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/**
 * What the session keeps of a call that runs.
 *
 * <p>Its lock guards all that is not final. An interrupt is only given while the handler is in
 * code of its own: a thread that writes to the connection may not have one, since an interrupt
 * closes the channel that the thread is in.
 */
final class Run {
    record Item(Map<String, Object> message, int size) { }

    final long id;
    final int method;
    final long began = System.nanoTime();
    private final long deadline;
    final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private Thread thread;
    volatile Status cancelled;
    volatile long cancelledAt;

    // Of a stream: messages not yet read, and credit in both directions.
    final Deque<Item> inbox = new ArrayDeque<>();
    boolean inboxEnded = true;
    long credit;
    long room;
    long dealtWith;

    Run(long id, int method, long milliseconds) {
        this.id = id;
        this.method = method;
        deadline = milliseconds == 0 ? Long.MAX_VALUE : milliseconds * 1_000_000;
    }

    boolean isCall() {
        return method == Frame.EXECUTE || method == Frame.EXECUTE_STREAM;
    }

    long nanosLeft() {
        return deadline == Long.MAX_VALUE ? Long.MAX_VALUE : deadline - (System.nanoTime() - began);
    }

    /** The handler's code begins in this thread; false where the call was cancelled before. */
    boolean enter() {
        lock.lock();
        try {
            if (cancelled != null) return false;
            thread = Thread.currentThread();
            return true;
        } finally {
            lock.unlock();
        }
    }

    /** The handler's code is left, for good or to write: no interrupt comes from here on, or is pending. */
    Thread leave() {
        Thread left;
        lock.lock();
        try {
            left = thread;
            thread = null;
        } finally {
            lock.unlock();
        }
        Thread.interrupted();
        return left;
    }

    /** Back into the handler's code, of the thread that {@link #leave} returned. Throws where the call was cancelled meanwhile. */
    void back(Thread left) throws InterruptedException {
        lock.lock();
        try {
            if (cancelled != null) throw new InterruptedException("the call was cancelled");
            thread = left;
        } finally {
            lock.unlock();
        }
    }

    void cancel(Status status) {
        lock.lock();
        try {
            if (cancelled != null) return;
            cancelledAt = System.nanoTime();
            cancelled = status;
            if (thread != null) thread.interrupt();
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /** Wake who waits, after something of this changed under the lock. */
    void changed() {
        changed.signalAll();
    }

    /** Wait, under the lock, for a change. Throws where the call is cancelled. */
    void await() throws InterruptedException {
        if (cancelled != null) throw new InterruptedException("the call was cancelled");
        changed.await();
    }
}
