package io.imgo.client;

import java.util.concurrent.ThreadFactory;
import java.util.concurrent.atomic.AtomicInteger;

/** Makes the threads of one client if the application has no factory of its own. */
final class Threads implements ThreadFactory {
    private final AtomicInteger made = new AtomicInteger();

    @Override
    public Thread newThread(Runnable work) {
        Thread thread = new Thread(work, "imgo-client-" + made.incrementAndGet());
        thread.setDaemon(true);
        return thread;
    }
}
