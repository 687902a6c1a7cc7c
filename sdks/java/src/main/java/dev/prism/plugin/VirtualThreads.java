package dev.prism.plugin;

import java.util.concurrent.ExecutorService;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** Threads for handlers: virtual ones where the runtime has them (Java 21), else a bounded pool. */
final class VirtualThreads {
    static final boolean EXIST = Runtime.version().feature() >= 21;
    /** Beside those of calls: of handlers that go on after their call was closed without them. */
    private static final int SPARE = 32;

    private VirtualThreads() { }

    static ExecutorService executor(int threads) {
        if (EXIST) {
            try {
                return (ExecutorService) java.util.concurrent.Executors.class
                        .getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
            } catch (ReflectiveOperationException error) {
                throw new LinkageError("this runtime has no virtual threads after all", error);
            }
        }
        return new ThreadPoolExecutor(0, threads + SPARE, 10, TimeUnit.SECONDS, new SynchronousQueue<>(), task -> {
            Thread thread = new Thread(task, "call");
            thread.setDaemon(true);
            return thread;
        });
    }
}
