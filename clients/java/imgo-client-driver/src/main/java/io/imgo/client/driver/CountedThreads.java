package io.imgo.client.driver;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ThreadFactory;

/** Makes the threads of the clients, and counts those that have not ended. */
final class CountedThreads implements ThreadFactory {
    private final List<Thread> threads = new ArrayList<>();

    @Override
    public synchronized Thread newThread(Runnable work) {
        Thread thread = new Thread(work, "imgo");
        thread.setDaemon(true);
        threads.removeIf(other -> other.getState() == Thread.State.TERMINATED);
        threads.add(thread);
        return thread;
    }

    synchronized int alive() {
        int alive = 0;
        for (Thread thread : threads) {
            alive += thread.isAlive() ? 1 : 0;
        }
        return alive;
    }
}
