package io.imgo.client;

import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * The outbox of a client: what the application has published, and what is to be done with it. It makes one call of the outbox at
 * a time, on a thread that ends when nothing is left to do. Any thread may call publish. The client's thread calls the other
 * methods.
 */
final class Publisher {
    private static final int MAX_MESSAGES = 1024;

    /** A call of publish whose message is not yet in the outbox. */
    private static final class Adding {
        final int op;
        final byte[] body;
        final Completion<Long> completion = new Completion<>();
        final long end;

        Adding(int op, byte[] body, long end) {
            this.op = op;
            this.body = body;
            this.end = end;
        }

        void fail(ErrorCode code, String why, Throwable cause) {
            completion.end(null, new ImgoException(code, "publish with op " + op + ": " + why, cause));
        }
    }

    private final ImgoClient client;
    private final Options options;
    private final Outbox outbox;
    private final SerialExecutor serial; // of all calls of the outbox: two that add at a time would give one number twice
    private final SerialExecutor watch; // ends late calls of publish while the client has no thread

    // The monitor guards the following.
    private boolean loaded; // the state is that of the outbox
    private final OutboxState state = new OutboxState();
    private long sent; // the number of the last message that can have been sent
    private final Deque<Adding> adding = new ArrayDeque<>(); // in the order of their time

    // Only the client's thread uses the following.
    private Task<Boolean> loading;
    private Long newBase; // to be saved
    private Published outcome; // of the oldest message, which is to be removed, and then told
    private Task<Boolean> saving; // of savedBase, or else the removal
    private Long savedBase;
    private long saveAt; // no earlier
    private int saveFailures;
    private long sendAt; // no message is sent earlier
    private int sendFailures;

    Publisher(ImgoClient client, Options options) {
        this.client = client;
        this.options = options;
        outbox = options.outbox != null ? options.outbox : new MemoryOutbox();
        serial = new SerialExecutor(options.threads);
        watch = new SerialExecutor(options.threads);
    }

    /** Puts a message into the outbox. The completion has its number. connected is false if no thread of the client calls work. */
    Completion<Long> publish(int op, byte[] body, boolean connected) {
        Adding call = new Adding(op, body, Clock.now() + options.requestTimeout);
        synchronized (this) {
            if (state.messages.size() + adding.size() >= MAX_MESSAGES) {
                call.fail(ErrorCode.TOO_MANY, full(), null);
                return call.completion;
            }
            adding.add(call);
        }
        try {
            serial.execute(() -> add(call));
            if (!connected) {
                watch.execute(() -> awaitEnd(call));
            }
        } catch (Throwable e) {
            drop(call);
            call.fail(ErrorCode.STORAGE, "no thread is to be had for the outbox: " + e, e);
        }
        return call.completion;
    }

    /** Waits for the end of a call, and ends it if it is late. Another call began, and is late, after it. */
    private void awaitEnd(Adding call) {
        try {
            call.completion.get(Math.max(0, call.end - Clock.now()), TimeUnit.NANOSECONDS);
        } catch (TimeoutException e) {
            failLateCalls(Clock.now());
        } catch (ExecutionException e) {
            // The call has failed.
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static String full() {
        return MAX_MESSAGES + " messages wait in the outbox: wait for the event published";
    }

    private synchronized void drop(Adding call) {
        adding.remove(call);
    }

    /** Adds a message, unless its call has failed. The call ends before the message can be sent. */
    private void add(Adding call) {
        try {
            synchronized (this) {
                if (!adding.contains(call)) {
                    return;
                }
            }
            load();
            OutboxMessage message;
            synchronized (this) {
                if (!loaded || !adding.contains(call)) {
                    return; // the client was closed meanwhile
                }
                if (state.messages.size() >= MAX_MESSAGES) {
                    message = null;
                } else {
                    message = new OutboxMessage(state.last + 1, call.op, call.body);
                }
            }
            if (message == null) {
                call.fail(ErrorCode.TOO_MANY, full(), null);
                return;
            }
            outbox.add(message);
            call.completion.end(message.number(), null);
            synchronized (this) {
                adding.remove(call); // with the next step, so that no message counts twice
                if (loaded) {
                    state.add(message);
                }
            }
        } catch (Throwable e) { // the outbox of the application may throw anything
            call.fail(ErrorCode.STORAGE, "add it to the outbox: " + SessionEnd.textOf(e), e);
        } finally {
            drop(call);
            client.wakeup();
        }
    }

    /** Reads the outbox, unless that was done. */
    private void load() throws IOException {
        synchronized (this) {
            if (loaded) {
                return;
            }
        }
        OutboxContent content = outbox.load();
        if (content == null) {
            throw new IOException("the outbox returned null");
        }
        synchronized (this) {
            state.set(content);
            sent = state.messages.isEmpty() ? state.last : state.messages.peek().number(); // each one is removed before the next is sent
            loaded = true;
        }
    }

    /** Begins to read the outbox, or returns the reading that has begun. */
    Task<Boolean> startLoading(Runnable wakeup) {
        if (loading == null) {
            loading = start(wakeup, () -> {
                load();
                return true;
            });
        }
        return loading;
    }

    /** Makes the next startLoading begin anew. */
    void loadingEnded() {
        loading = null;
    }

    private Task<Boolean> start(Runnable wakeup, Callable<Boolean> work) {
        return Task.start(serial, work, wakeup);
    }

    /** A session is live. published is the last id of the device that the server knows, or null. */
    void began(Long published) {
        saveAt = 0;
        sendAt = 0;
        synchronized (this) {
            if (!loaded) {
                return; // the client has no device
            }
            long number = published == null || state.base == null || Ids.compare(published, state.base) <= 0 ? 0 : published - state.base;
            OutboxMessage oldest = state.messages.peek();
            // If the server has more than was sent, the outbox is an old copy, or another client uses the device.
            if (state.base == null || Ids.compare(number, sent) > 0) {
                // Messages of an earlier process may still be under way. Their ids are above published and below the clock.
                long clock = Clock.unixMicros();
                newBase = published != null && Ids.compare(published, clock) > 0 ? published : clock;
            } else if (outcome == null && oldest != null && oldest.number() == number) {
                outcome = new Published(number, new byte[0], null);
            }
        }
    }

    /** Saves what is to be saved, and ends late calls. It returns when it is to be called again. */
    long work(Engine engine) {
        boolean changed = false; // the caller may send the next message
        while (saving == null || saving.isDone()) {
            if (saving != null) {
                Throwable error = saving.error();
                saving = null;
                saved(engine, error);
                changed = true;
            }
            if (Clock.now() < saveAt || !startSaving(engine)) {
                break;
            }
        }
        long next = failLateCalls(Clock.now());
        if (saving == null && (newBase != null || outcome != null)) {
            next = Math.min(next, saveAt);
        }
        return changed ? 0 : next;
    }

    /** Begins to save the base, or else to remove the oldest message. It reports whether there is something to do. */
    private boolean startSaving(Engine engine) {
        savedBase = newBase;
        if (newBase != null) {
            long base = newBase;
            saving = start(engine::wakeup, () -> {
                outbox.setBase(base);
                synchronized (this) {
                    state.base = base;
                }
                return true;
            });
        } else if (outcome != null) {
            long upTo = outcome.number();
            saving = start(engine::wakeup, () -> {
                outbox.remove(upTo);
                synchronized (this) {
                    state.remove(upTo);
                }
                return true;
            });
        }
        return saving != null;
    }

    private void saved(Engine engine, Throwable error) {
        if (error != null) {
            saveAt = Clock.now() + engine.backoff(saveFailures++);
            String what = savedBase != null ? "save the base of published messages: " : "remove a published message from the outbox: ";
            client.error(new ImgoException(ErrorCode.STORAGE, what + SessionEnd.textOf(error), error));
            return;
        }
        saveFailures = 0;
        if (savedBase != null) {
            newBase = savedBase.equals(newBase) ? null : newBase; // the next session may have set another one
            return;
        }
        Published event = outcome;
        outcome = null;
        client.published(event);
    }

    private long failLateCalls(long now) {
        List<Adding> late = new ArrayList<>();
        long next = Clock.NEVER;
        synchronized (this) {
            Iterator<Adding> all = adding.iterator();
            while (all.hasNext()) {
                Adding call = all.next();
                if (now < call.end) {
                    next = call.end;
                    break;
                }
                all.remove();
                late.add(call);
            }
        }
        for (Adding call : late) {
            call.fail(ErrorCode.TIMEOUT, "the outbox did not save it within requestTimeout", null);
        }
        return next;
    }

    /** Returns the oldest message if it is to be sent in the session now, or null. One that cannot be sent is refused. */
    OutboxMessage next(Session session) {
        if (newBase != null || outcome != null || Clock.now() < sendAt) {
            return null;
        }
        OutboxMessage oldest;
        synchronized (this) {
            oldest = state.base == null ? null : state.messages.peek();
            if (oldest == null) {
                return null;
            }
            sent = oldest.number();
        }
        String tooLarge = session.tooLarge(oldest.body());
        if (tooLarge != null) {
            refuse(oldest, "too_large", tooLarge);
            return null;
        }
        if (Ids.compare(id(oldest), oldest.number()) < 0) {
            refuse(oldest, "", "all ids of the device are used: give it another name");
            return null;
        }
        return oldest;
    }

    private void refuse(OutboxMessage message, String code, String reason) {
        ended(new Published(message.number(), new byte[0], ImgoException.denied("publish message " + message.number(), code, reason)));
    }

    /** Returns when the oldest message may be sent again. */
    long sendAt() {
        return sendAt > Clock.now() ? sendAt : Clock.NEVER;
    }

    synchronized long id(OutboxMessage message) {
        return state.base + message.number();
    }

    /** Takes the reply to the oldest message. */
    void replied(Engine engine, long number, Packet reply) {
        if (reply.op != Protocol.OP_REFUSED) {
            ended(new Published(number, reply.body, null));
            return;
        }
        ImgoException denied = Bodies.denied("publish message " + number, reply.body);
        long wait = Bodies.retryNanos(reply.body);
        if (isTriedAgain(denied, wait)) {
            sendAt = Clock.now() + (wait > 0 ? wait : engine.backoff(sendFailures++));
            client.log(LogHook.Level.DEBUG, denied.getMessage() + ": the client tries again");
            return;
        }
        ended(new Published(number, new byte[0], denied));
    }

    /** Reports whether a message that the server refused is sent again. */
    static boolean isTriedAgain(ImgoException denied, long retryNanos) {
        return retryNanos > 0 || denied.serverCode().equals("unavailable") || denied.serverCode().equals("rate_limited");
    }

    private void ended(Published event) {
        sendFailures = 0;
        outcome = event;
        saveAt = 0;
    }

    /** Reports whether a call of the outbox is under way. */
    boolean isBusy() {
        synchronized (this) {
            return saving != null || !adding.isEmpty();
        }
    }

    /** The client is closed. The next one that uses the outbox reads it anew. */
    void stop() {
        List<Adding> late;
        synchronized (this) {
            late = new ArrayList<>(adding);
            adding.clear();
            loaded = false;
            state.clear();
        }
        for (Adding call : late) {
            call.fail(ErrorCode.CLOSED, "the client was closed", null);
        }
        loading = null;
        newBase = null;
        outcome = null;
        saving = null;
        saveAt = 0;
        saveFailures = 0;
        sendAt = 0;
        sendFailures = 0;
    }

    /** Waits for the end of the outbox's thread. One that hangs is given up after a second. */
    void join() throws InterruptedException {
        serial.join(1000);
        watch.join(1000);
    }
}
