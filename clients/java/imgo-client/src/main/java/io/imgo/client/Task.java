package io.imgo.client;

import java.io.Closeable;
import java.io.IOException;
import java.util.concurrent.Callable;
import java.util.concurrent.Executor;

/** Work that may block, on a helper thread of a client. */
final class Task<T> implements Runnable {
    private final Callable<T> work;
    private final Runnable wakeup;
    private Thread thread; // while it works
    private boolean done;
    private boolean abandoned;
    private T value;
    private Throwable error;

    private Task(Callable<T> work, Runnable wakeup) {
        this.work = work;
        this.wakeup = wakeup;
    }

    /** Starts the work. wakeup runs at its end. */
    static <T> Task<T> start(Executor executor, Callable<T> work, Runnable wakeup) {
        Task<T> task = new Task<>(work, wakeup);
        try {
            executor.execute(task);
        } catch (Throwable e) { // no thread is to be had
            task.end(null, e);
        }
        return task;
    }

    @Override
    public void run() {
        boolean unwanted;
        synchronized (this) {
            unwanted = abandoned;
            thread = Thread.currentThread();
        }
        if (unwanted) {
            end(null, new IOException("it was given up before it began"));
            return;
        }
        T result = null;
        Throwable failure = null;
        try {
            result = work.call();
        } catch (Throwable e) { // the code of the application may throw anything
            failure = e;
        }
        end(result, failure);
    }

    private void end(T result, Throwable failure) {
        boolean unwanted;
        synchronized (this) {
            thread = null;
            Thread.interrupted(); // an interruption meant only this work
            value = result;
            error = failure;
            done = true;
            unwanted = abandoned;
        }
        if (unwanted) {
            close(result);
        }
        wakeup.run();
    }

    /** Gives up: the thread is interrupted, and the work and its result are closed if they can be. */
    void abandon() {
        T unwanted;
        synchronized (this) {
            abandoned = true;
            if (thread != null) {
                thread.interrupt();
            }
            unwanted = value;
        }
        close(work);
        close(unwanted);
    }

    private static void close(Object result) {
        if (result instanceof Closeable) {
            try {
                ((Closeable) result).close();
            } catch (IOException e) {
                // Nobody wants it.
            }
        }
    }

    synchronized boolean isDone() {
        return done;
    }

    /** Returns the error of work that is done, or null if it succeeded. */
    synchronized Throwable error() {
        return error;
    }

    synchronized T value() {
        return value;
    }
}
