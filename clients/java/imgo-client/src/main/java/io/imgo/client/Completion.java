package io.imgo.client;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * The end of a call. {@link #await} blocks until then, {@link #whenDone} does not, and {@link Stages#future} makes a {@code
 * CompletableFuture}. Every call ends within the time limits of the client, so no wait is for ever. All methods are safe for
 * concurrent use.
 *
 * @param <T> the type of the result
 */
public final class Completion<T> implements Future<T> {
    /**
     * Is called with the end of a call.
     *
     * @param <T> the type of the result
     */
    public interface Callback<T> {
        /**
         * Takes the result. It runs on a thread of the client, or on the thread of {@link Completion#whenDone} if the call had
         * ended before. It must return soon and must not block.
         *
         * @param value the result; null if the call failed or has none
         * @param error the error; null if the call succeeded
         */
        void done(T value, ImgoException error);
    }

    private final CountDownLatch ended = new CountDownLatch(1);
    private final Object lock = new Object();
    private List<Callback<? super T>> callbacks = new ArrayList<>(1); // null after the end
    private T value;
    private ImgoException error;

    Completion() {}

    static <T> Completion<T> of(T value) {
        Completion<T> done = new Completion<>();
        done.end(value, null);
        return done;
    }

    static <T> Completion<T> failed(ErrorCode code, String message) {
        Completion<T> done = new Completion<>();
        done.end(null, new ImgoException(code, message));
        return done;
    }

    /** Ends the call. Only the first end counts. It reports whether this was the first one. */
    boolean end(T value, ImgoException error) {
        List<Callback<? super T>> waiting;
        synchronized (lock) {
            if (callbacks == null) {
                return false;
            }
            waiting = callbacks;
            callbacks = null;
            this.value = value;
            this.error = error;
        }
        ended.countDown();
        for (Callback<? super T> callback : waiting) {
            try {
                callback.done(value, error);
            } catch (Throwable e) { // the client's thread goes on
                uncaught(e);
            }
        }
        return true;
    }

    /** Gives the thread's handler of uncaught exceptions what code of the application has thrown. The thread goes on. */
    static void uncaught(Throwable e) {
        Thread thread = Thread.currentThread();
        try {
            thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
        } catch (Throwable again) {
            // The JVM ignores it as well.
        }
    }

    /**
     * Waits for the end of the call. Neither a message handler nor a listener may wait for a call of the same client, since
     * the call may need that thread.
     *
     * @return the result
     * @throws ImgoException if the call failed
     * @throws InterruptedException if this thread was interrupted
     */
    public T await() throws InterruptedException {
        ended.await();
        if (error != null) {
            throw error.again();
        }
        return value;
    }

    /**
     * Calls back at the end of the call.
     *
     * @param callback takes the result
     */
    public void whenDone(Callback<? super T> callback) {
        synchronized (lock) {
            if (callbacks != null) {
                callbacks.add(callback);
                return;
            }
        }
        callback.done(value, error);
    }

    @Override
    public boolean isDone() {
        return ended.getCount() == 0;
    }

    /**
     * Does nothing: a packet that was sent cannot be taken back.
     *
     * @return false
     */
    @Override
    public boolean cancel(boolean mayInterruptIfRunning) {
        return false;
    }

    @Override
    public boolean isCancelled() {
        return false;
    }

    @Override
    public T get() throws InterruptedException, ExecutionException {
        ended.await();
        return result();
    }

    @Override
    public T get(long timeout, TimeUnit unit) throws InterruptedException, ExecutionException, TimeoutException {
        if (!ended.await(timeout, unit)) {
            throw new TimeoutException("the call has not ended within " + timeout + " " + unit);
        }
        return result();
    }

    private T result() throws ExecutionException {
        if (error != null) {
            throw new ExecutionException(error);
        }
        return value;
    }
}
