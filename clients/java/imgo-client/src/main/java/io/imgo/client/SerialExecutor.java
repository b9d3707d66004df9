package io.imgo.client;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadFactory;

/** Runs work one after the other, on a thread that ends when nothing is left to do. All methods are safe for concurrent use. */
final class SerialExecutor implements Executor {
    private final ThreadFactory threads;
    private final Deque<Runnable> queue = new ArrayDeque<>();
    private boolean running;
    private Thread thread; // the last one

    SerialExecutor(ThreadFactory threads) {
        this.threads = threads;
    }

    /** Runs work later. It throws RejectedExecutionException or OutOfMemoryError if no thread is to be had. */
    @Override
    public void execute(Runnable work) {
        synchronized (this) {
            if (!running) {
                Thread made = threads.newThread(this::drain);
                if (made == null) {
                    throw new RejectedExecutionException("the thread factory gave no thread");
                }
                made.start();
                thread = made;
                running = true;
            }
            queue.add(work);
        }
    }

    private void drain() {
        while (true) {
            Runnable next;
            synchronized (this) {
                next = queue.poll();
                if (next == null) {
                    running = false;
                    return;
                }
            }
            try {
                next.run();
            } catch (Throwable e) {
                Completion.uncaught(e);
            }
        }
    }

    /** Waits for the end of the thread, at most that long. */
    void join(long millis) throws InterruptedException {
        Thread last;
        synchronized (this) {
            last = thread;
        }
        if (last != null && last != Thread.currentThread()) {
            last.join(millis);
        }
    }
}
