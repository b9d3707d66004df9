package io.imgo.client;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.Executor;

/**
 * Passes messages to the handler, one at a time and in order. It lives from connect to close, so messages of a lost
 * connection are handled before those of the next one. It is safe for concurrent use.
 */
final class MessageQueue {
    /** Gets what the queue has done. The methods run on the thread that handled the message. */
    interface Owner {
        /** A message has left the queue for the handler. */
        void taken();

        /** The handler has ended. error is null if it succeeded. */
        void handled(Message message, Throwable error);

        /** No message is with the handler, and none waits. */
        void idle();
    }

    private final int limit;
    private final AsyncMessageHandler handler;
    private final Executor executor;
    private final Owner owner;

    private final Deque<Message> waiting = new ArrayDeque<>();
    private boolean running; // a message is with the executor or the handler
    private boolean stopped;
    private Thread handling; // the thread that is inside the handler

    MessageQueue(int limit, AsyncMessageHandler handler, Executor executor, Owner owner) {
        this.limit = limit;
        this.handler = handler;
        this.executor = executor;
        this.owner = owner;
    }

    synchronized boolean isFull() {
        return waiting.size() >= limit;
    }

    /** Reports whether a reader that stopped at a full queue may go on. */
    synchronized boolean hasRoom() {
        return waiting.size() <= limit / 2;
    }

    /** Adds a message. The caller has asked isFull before, and is the only one that adds. */
    void put(Message message) {
        synchronized (this) {
            waiting.add(message);
            if (running || stopped) {
                return;
            }
            running = true;
        }
        execute();
    }

    /** Makes the queue call no further handler. */
    synchronized void halt() {
        stopped = true;
    }

    /** Stops: no further handler is called. It returns the messages that waited. */
    synchronized Deque<Message> stop() {
        stopped = true;
        Deque<Message> rest = new ArrayDeque<>(waiting);
        waiting.clear();
        return rest;
    }

    synchronized boolean isRunning() {
        return running;
    }

    /** Reports whether the calling thread is inside the handler. */
    synchronized boolean isHandling() {
        return handling == Thread.currentThread();
    }

    private void execute() {
        while (true) {
            try {
                executor.execute(this::step);
                return;
            } catch (Throwable e) { // the executor takes no more tasks
                Message message;
                synchronized (this) {
                    message = waiting.poll();
                }
                if (message != null) {
                    owner.handled(message, e);
                }
                if (!goOn()) {
                    return;
                }
            }
        }
    }

    /** Reports whether there is a message to handle next. Otherwise the queue is idle from now on. */
    private boolean goOn() {
        synchronized (this) {
            running = !stopped && !waiting.isEmpty();
            if (running) {
                return true;
            }
        }
        owner.idle();
        return false;
    }

    /** Handles the oldest message. */
    private void step() {
        Message message;
        synchronized (this) {
            message = stopped ? null : waiting.poll();
            if (message == null) {
                running = false;
            } else {
                handling = Thread.currentThread();
            }
        }
        if (message == null) {
            owner.idle();
            return;
        }
        owner.taken();
        Result result = new Result(message);
        try {
            handler.handle(message, result);
        } catch (Throwable e) { // an Error of the application must not stop the queue either
            if (e instanceof InterruptedException) {
                Thread.currentThread().interrupt();
            }
            result.end(e);
        } finally {
            synchronized (this) {
                handling = null;
            }
            result.returned();
        }
    }

    /** Passes the result on and goes on with the next message. */
    private void ended(Message message, Throwable error) {
        // The owner hears of the end before the queue counts as idle, so that a graceful close acknowledges this message.
        owner.handled(message, error);
        if (goOn()) {
            execute();
        }
    }

    /** The result of one message. It counts when the handler has both returned and said it. */
    private final class Result implements Acknowledgement {
        private final Message message;
        private boolean said;
        private boolean returned;
        private Throwable error;

        Result(Message message) {
            this.message = message;
        }

        @Override
        public void success() {
            end(null);
        }

        @Override
        public void failure(Throwable cause) {
            end(cause == null ? new IllegalStateException("the handler gave no cause") : cause);
        }

        void end(Throwable cause) {
            synchronized (this) {
                if (said) {
                    return;
                }
                said = true;
                error = cause;
                if (!returned) {
                    return;
                }
            }
            ended(message, cause);
        }

        /** Notes that the handler has returned, so that two handlers never run at the same time. */
        void returned() {
            synchronized (this) {
                returned = true;
                if (!said) {
                    return;
                }
            }
            ended(message, error);
        }
    }
}
