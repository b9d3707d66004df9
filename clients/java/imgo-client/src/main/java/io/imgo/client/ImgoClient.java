package io.imgo.client;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.Iterator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/**
 * Receives the messages of a user. A client keeps one connection, replaces it when it is lost, and acknowledges the messages
 * that its handler has handled.
 *
 * <pre>{@code
 * try (ImgoClient client = ImgoClient.builder()
 *         .address("tls://push.example.com:8443")
 *         .token(token)
 *         .device("laptop")
 *         .store(new FileStore(new File("handled-ids")))
 *         .onMessage(message -> show(message.body()))
 *         .build()) {
 *     client.connect().await();
 *     // ...
 * }
 * }</pre>
 *
 * <ul>
 *   <li>A kept message is acknowledged after its handler has succeeded, and not before. Otherwise it comes again with the next
 *       session.
 *   <li>The handler gets one message at a time, in the order of the connection, and none that it has handled. With a {@link
 *       Store} the latter holds across restarts.
 *   <li>A client whose queue is full stops reading, and the server keeps the rest.
 *   <li>Each wait has a time limit. Queue, ids and calls have bounds.
 * </ul>
 *
 * <p>A connected client has two threads: its own, which never blocks in code of the application except in the listener, and the
 * one of the handler. Other threads are there while a connection is made, a token source is asked, or ids or messages are saved.
 * After {@link #close} none is left. All methods are safe for concurrent use. Two clients share nothing.
 */
public final class ImgoClient implements AutoCloseable {
    private static final int MAX_CALLS = 256;

    private final Options options;
    private final Inbox inbox;
    private final Publisher publisher;

    private final Object lock = new Object();
    private State state = State.IDLE;
    private Session session; // null without a live session
    private Engine engine; // null if the client is idle or closed
    private Engine last; // engine, or the one before, whose threads may still be about to end
    private boolean ending; // the engine closes, or the server has refused the client
    private boolean loaded; // the inbox has the ids of the store
    private final Set<String> rooms;
    private final Deque<Call> calls = new ArrayDeque<>(); // calls that are not yet sent
    private int openCalls; // calls that have not ended, sent or not
    private final List<Completion<Void>> connecting = new ArrayList<>();
    private final List<Completion<Void>> connectingNext = new ArrayList<>(); // calls of connect while the engine ends
    private final List<Completion<Void>> closing = new ArrayList<>();

    ImgoClient(Options options) {
        this.options = options;
        inbox = new Inbox(options.remember, options.store != null);
        publisher = new Publisher(this, options);
        rooms = new LinkedHashSet<>(options.rooms);
    }

    /**
     * Begins to configure a client.
     *
     * @return a builder with the defaults
     */
    public static ImgoClientBuilder builder() {
        return new ImgoClientBuilder();
    }

    /**
     * Connects, and keeps the client connected until {@link #close}. During a wait between two attempts it starts the next one
     * at once. A client that was closed may connect again.
     *
     * @return ends with the first session. It fails with {@link ErrorCode#REFUSED} if the server refuses the client for good,
     *     and with {@link ErrorCode#CLOSED} if the client is closed before. A server out of reach is no failure: the client goes
     *     on trying
     */
    public Completion<Void> connect() {
        Completion<Void> completion = new Completion<>();
        Engine hurried = null;
        ImgoException failure = null;
        synchronized (lock) {
            if (engine == null) {
                failure = startLocked();
                if (failure == null) {
                    connecting.add(completion);
                }
            } else if (ending) {
                connectingNext.add(completion);
            } else if (session != null) {
                return Completion.of(null);
            } else {
                connecting.add(completion);
                hurried = engine;
            }
        }
        if (failure != null) {
            completion.end(null, failure);
        } else if (hurried != null) {
            hurried.hurry();
        }
        return completion;
    }

    /** Makes and starts an engine. It returns an error if it could not. */
    private ImgoException startLocked() {
        try {
            ending = false;
            engine = new Engine(this, options, inbox);
            engine.start();
            last = engine;
            return null;
        } catch (Throwable e) { // a thread factory of the application may throw anything
            engine = null;
            return new ImgoException(ErrorCode.LOST, "connect: no thread or selector is to be had: " + e, e);
        }
    }

    /**
     * Joins a room, now and in every later session. Without a session it ends at once.
     *
     * @param room 1 to 128 bytes of text
     * @return ends with the reply of the server. It fails with {@link ErrorCode#DENIED} if the server does not let the client
     *     in; the client then does not ask again. It also fails with {@link ErrorCode#INVALID}, {@link ErrorCode#CLOSED}, {@link
     *     ErrorCode#LOST}, {@link ErrorCode#TIMEOUT} or {@link ErrorCode#TOO_MANY}
     */
    public Completion<Void> join(String room) {
        return changeRoom(room, true);
    }

    /**
     * Leaves a room, now and in every later session. Without a session it ends at once.
     *
     * @param room 1 to 128 bytes of text
     * @return ends with the reply of the server. It fails as {@link #join} does
     */
    public Completion<Void> leave(String room) {
        return changeRoom(room, false);
    }

    private Completion<Void> changeRoom(String room, boolean join) {
        String what = (join ? "join" : "leave") + " room \"" + room + "\"";
        try {
            Names.check("room", room);
        } catch (ImgoException e) {
            return Completion.failed(e.code(), e.getMessage());
        }
        Call call;
        Engine current;
        synchronized (lock) {
            if (ending) {
                return Completion.failed(ErrorCode.CLOSED, what + ": the client closes");
            }
            if (session != null && openCalls >= MAX_CALLS) {
                return tooMany(what);
            }
            if (join) {
                rooms.add(room);
            } else {
                rooms.remove(room);
            }
            if (session == null) {
                return Completion.of(null);
            }
            call = addCallLocked(what, join ? Protocol.OP_JOIN : Protocol.OP_LEAVE, 0, Bodies.bytes(room));
            current = engine;
        }
        Completion<Void> completion = new Completion<>();
        call.completion.whenDone((reply, error) -> {
            if (join && error != null && error.code() == ErrorCode.DENIED) {
                forgetRoom(room);
            }
            completion.end(null, error);
        });
        current.wakeup();
        return completion;
    }

    private static <T> Completion<T> tooMany(String what) {
        return Completion.failed(ErrorCode.TOO_MANY, what + ": " + MAX_CALLS + " calls are open: wait for one to end");
    }

    private Call addCallLocked(String what, int op, long id, byte[] body) {
        Call call = new Call(what, op, id, body, Clock.now() + options.requestTimeout);
        calls.add(call);
        openCalls++;
        return call;
    }

    /**
     * Sends a body to the backend behind the server, with the operation 4.
     *
     * @param body the body; it is copied
     * @return ends with the body of the reply. See {@link #send(int, byte[])}
     */
    public Completion<byte[]> send(byte[] body) {
        return send(Protocol.OP_SEND, body);
    }

    /**
     * Sends a body to the backend behind the server.
     *
     * @param op 4, or an operation from 1000 on
     * @param body the body, at most maxBody bytes, and at most what the server takes; it is copied
     * @return ends with the body of the reply. It fails with {@link ErrorCode#NOT_LIVE} without a session, and with {@link
     *     ErrorCode#DENIED}, {@link ErrorCode#INVALID}, {@link ErrorCode#CLOSED}, {@link ErrorCode#LOST}, {@link
     *     ErrorCode#TIMEOUT} or {@link ErrorCode#TOO_MANY}
     */
    public Completion<byte[]> send(int op, byte[] body) {
        String what = "send with op " + op;
        String wrong = wrongMessage(op, body);
        return wrong == null ? call(what, op, 0, body.clone()) : Completion.failed(ErrorCode.INVALID, what + wrong);
    }

    /** Returns what is wrong with a message for the backend, or null. */
    private String wrongMessage(int op, byte[] body) {
        if (op != Protocol.OP_SEND && op < Protocol.FIRST_APPLICATION_OP) {
            return ": op must be 4, or 1000 and above";
        }
        if (body == null || body.length > options.maxBody) {
            return ": body " + (body == null ? "is null" : "has " + body.length + " bytes") + ": give at most maxBody bytes";
        }
        return null;
    }

    /** Sends a call that needs a live session. */
    private Completion<byte[]> call(String what, int op, long id, byte[] body) {
        Call call;
        Engine current;
        synchronized (lock) {
            if (ending) {
                return Completion.failed(ErrorCode.CLOSED, what + ": the client closes");
            }
            if (session == null) {
                return Completion.failed(ErrorCode.NOT_LIVE, what + ": there is no session: connect, and wait for the state live");
            }
            String wrong = session.tooLarge(body);
            if (wrong != null) {
                return Completion.failed(ErrorCode.INVALID, what + ": " + wrong);
            }
            if (openCalls >= MAX_CALLS) {
                return tooMany(what);
            }
            call = addCallLocked(what, op, id, body);
            current = engine;
        }
        current.wakeup();
        return call.completion;
    }

    /**
     * Publishes a body for the backend behind the server, with the operation 4.
     *
     * @param body the body; it is copied
     * @return ends with the number of the message. See {@link #publish(int, byte[])}
     */
    public Completion<Long> publish(byte[] body) {
        return publish(Protocol.OP_SEND, body);
    }

    /**
     * Puts a body for the backend into the outbox. It needs no session. The message reaches the backend once, also after
     * reconnects, and after a restart with a {@link FileOutbox}. {@link ClientListener#onPublished} tells when it has arrived.
     * It needs the option device, whose name only this installation may have.
     *
     * <p>Without a session the client does not know how much the server takes. A message that turns out to be larger leaves the
     * outbox as one that was refused, with the word {@code "too_large"}.
     *
     * @param op 4, or an operation from 1000 on
     * @param body the body, at most maxBody bytes, and with a session at most what the server takes; it is copied
     * @return ends with the number of the message when the message is in the outbox: 1, 2, 3 and so on. It fails with {@link
     *     ErrorCode#INVALID}, with {@link ErrorCode#TOO_MANY} if 1,024 messages wait, with {@link ErrorCode#STORAGE} if the outbox
     *     failed, and with {@link ErrorCode#CLOSED} or {@link ErrorCode#TIMEOUT}
     */
    public Completion<Long> publish(int op, byte[] body) {
        String what = "publish with op " + op;
        String wrong = options.device == null ? ": device is missing: give a name that only this installation has" : wrongMessage(op, body);
        if (wrong != null) {
            return Completion.failed(ErrorCode.INVALID, what + wrong);
        }
        boolean connected;
        synchronized (lock) {
            connected = engine != null;
            if (ending || (engine == null && state == State.CLOSED)) {
                return Completion.failed(ErrorCode.CLOSED, what + ": the client is closed: connect again first");
            }
            String tooLarge = session == null ? null : session.tooLarge(body);
            if (tooLarge != null) {
                return Completion.failed(ErrorCode.INVALID, what + ": " + tooLarge);
            }
        }
        return publisher.publish(op, body.clone(), connected);
    }

    /**
     * Tells that the user has read kept messages. All devices of the user have acknowledged them then, and the user's other
     * sessions get the event dismiss.
     *
     * @param ids the messages, at most 500; it may be empty
     * @param upTo the id up to which all messages were read; 0 if only ids were read
     * @return ends with the reply of the server. It fails with {@link ErrorCode#NOT_LIVE} without a session, and with {@link
     *     ErrorCode#DENIED}, {@link ErrorCode#INVALID}, {@link ErrorCode#CLOSED}, {@link ErrorCode#LOST}, {@link
     *     ErrorCode#TIMEOUT} or {@link ErrorCode#TOO_MANY}
     */
    public Completion<Void> read(long[] ids, long upTo) {
        String what = "tell which messages were read";
        String wrong = null;
        if (ids == null || (ids.length == 0 && upTo == 0)) {
            wrong = ": name them by ids or upTo";
        } else if (ids.length > Protocol.ACK_BATCH) {
            wrong = ": ids has " + ids.length + " elements: give at most " + Protocol.ACK_BATCH + " in a call";
        } else {
            for (long id : ids) {
                wrong = id == 0 ? ": ids has 0, which is no id: a message that is not kept cannot be read" : wrong;
            }
        }
        if (wrong != null) {
            return Completion.failed(ErrorCode.INVALID, what + wrong);
        }
        Completion<Void> completion = new Completion<>();
        call(what, Protocol.OP_READ, upTo, Bodies.ids(ids)).whenDone((reply, error) -> completion.end(null, error));
        return completion;
    }

    /**
     * Returns the state.
     *
     * @return the state at this moment
     */
    public State state() {
        synchronized (lock) {
            return state;
        }
    }

    /**
     * Returns the live session.
     *
     * @return the session; null if there is none
     */
    public Session session() {
        synchronized (lock) {
            return session;
        }
    }

    /**
     * Begins to close in good order. The client stops reading and calls no further handler. It waits for the running handler,
     * at most closeTimeout, saves and sends the due acknowledgements, waits at most 2 s for the server's reply to them, and ends
     * the connection. Messages that were not handled come again with the next session.
     *
     * @return ends when the client is closed. It never fails
     */
    public Completion<Void> closeAsync() {
        List<Completion<Void>> dropped;
        Completion<Void> completion = new Completion<>();
        Engine current;
        synchronized (lock) {
            dropped = new ArrayList<>(connectingNext);
            connectingNext.clear();
            current = engine;
            if (current != null) {
                ending = true;
                closing.add(completion);
            }
        }
        failConnects(dropped, closedError());
        if (current == null) {
            completion.end(null, null);
        } else {
            current.close();
        }
        return completion;
    }

    /**
     * Closes in good order, as {@link #closeAsync} does, and waits for the end. In a message handler or a listener it does not
     * wait, since they must return first. A handler that runs longer than closeTimeout is interrupted. If this thread is
     * interrupted, the close goes on and the method returns.
     */
    @Override
    public void close() {
        Engine current;
        synchronized (lock) {
            current = last;
        }
        Completion<Void> closed = closeAsync();
        if (current == null || current.isOwnThread()) {
            return;
        }
        try {
            closed.await();
            current.join();
            publisher.join();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static ImgoException closedError() {
        return new ImgoException(ErrorCode.CLOSED, "connect: the client was closed");
    }

    private static void failConnects(List<Completion<Void>> completions, ImgoException error) {
        for (Completion<Void> completion : completions) {
            completion.end(null, error);
        }
    }

    Options options() {
        return options;
    }

    Publisher publisher() {
        return publisher;
    }

    /** Makes the client's thread, if there is one, look at what has changed. Any thread may call it. */
    void wakeup() {
        Engine current;
        synchronized (lock) {
            current = engine;
        }
        if (current != null) {
            current.wakeup();
        }
    }

    // The following methods are called by the client's thread.

    /** Changes the state and tells the listener. */
    void change(StateChange change) {
        synchronized (lock) {
            state = change.state();
        }
        log(LogHook.Level.INFO, change.toString());
        tell(change, listener -> listener.onState(change));
    }

    void room(RoomChange change) {
        log(LogHook.Level.INFO, change.toString());
        tell(change, listener -> listener.onRoom(change));
    }

    void published(Published published) {
        log(published.error() == null ? LogHook.Level.DEBUG : LogHook.Level.WARN, published.toString());
        tell(published, listener -> listener.onPublished(published));
    }

    void dismiss(Dismiss dismiss) {
        log(LogHook.Level.DEBUG, dismiss.toString());
        tell(dismiss, listener -> listener.onDismiss(dismiss));
    }

    void error(ImgoException error) {
        log(LogHook.Level.WARN, error.getMessage());
        tell("an error", listener -> listener.onError(error));
    }

    private interface Event {
        void tell(ClientListener listener);
    }

    /** Tells the listener. What it throws goes to the log. Code in Kotlin throws checked exceptions without a declaration. */
    private void tell(Object what, Event event) {
        if (options.listener != null) {
            try {
                event.tell(options.listener);
            } catch (Throwable e) {
                log(LogHook.Level.WARN, "the listener failed at " + what + ": " + e);
            }
        }
    }

    void log(LogHook.Level level, String line) {
        if (options.log != null) {
            try {
                options.log.log(level, line);
            } catch (Throwable e) {
                // A log that fails is no reason to lose messages.
            }
        }
    }

    boolean isLoaded() {
        synchronized (lock) {
            return loaded;
        }
    }

    void setLoaded() {
        synchronized (lock) {
            loaded = true;
        }
    }

    List<String> roomsForAuth() {
        synchronized (lock) {
            return new ArrayList<>(rooms);
        }
    }

    /** Makes the next session not ask for a room. */
    void forgetRoom(String room) {
        synchronized (lock) {
            rooms.remove(room);
        }
    }

    /**
     * Makes the session the live one. It returns calls for the rooms that have changed since sent was read for the auth packet.
     */
    List<Call> sessionBegan(Session began, List<String> sent) {
        List<Call> late = new ArrayList<>();
        List<Completion<Void>> connected;
        synchronized (lock) {
            session = began;
            long until = Clock.now() + options.requestTimeout;
            for (String room : rooms) {
                if (!sent.contains(room)) {
                    late.add(lateRoom(room, true, until));
                }
            }
            for (String room : sent) {
                if (!rooms.contains(room)) {
                    late.add(lateRoom(room, false, until));
                }
            }
            openCalls += late.size();
            connected = new ArrayList<>(connecting);
            connecting.clear();
        }
        change(StateChange.live(began));
        for (Completion<Void> completion : connected) {
            completion.end(null, null);
        }
        return late;
    }

    private Call lateRoom(String room, boolean join, long until) {
        String what = (join ? "join" : "leave") + " room \"" + room + "\"";
        Call call = new Call(what, join ? Protocol.OP_JOIN : Protocol.OP_LEAVE, 0, Bodies.bytes(room), until);
        call.completion.whenDone((reply, error) -> {
            if (join && error != null && error.code() == ErrorCode.DENIED) {
                // A server that could not decide may do so next time.
                if (!error.serverCode().equals("unavailable")) {
                    forgetRoom(room);
                }
                room(new RoomChange(room, false, error.serverCode(), error.getMessage()));
            }
        });
        return call;
    }

    /** Notes that there is no live session any more. It returns the calls that were not sent. */
    List<Call> sessionEnded() {
        synchronized (lock) {
            List<Call> unsent = new ArrayList<>(calls);
            calls.clear();
            openCalls = 0;
            session = null;
            return unsent;
        }
    }

    /** Takes the next call to send, or returns null. */
    Call nextCall() {
        synchronized (lock) {
            return calls.poll();
        }
    }

    /** Notes that a call that nextCall returned has ended. */
    void callEnded() {
        synchronized (lock) {
            openCalls--;
        }
    }

    /**
     * Ends calls that could not be sent in time. It returns the time of the next one. A change of a room among them ends the
     * session: the next auth packet has the change.
     */
    long failLateCalls(long now) throws SessionEnd {
        List<Call> late = new ArrayList<>();
        long next = Clock.NEVER;
        synchronized (lock) {
            Iterator<Call> all = calls.iterator();
            while (all.hasNext()) {
                Call call = all.next();
                if (now < call.until) {
                    next = call.until;
                    break; // the calls are in the order of their time
                }
                all.remove();
                openCalls--;
                late.add(call);
            }
        }
        for (Call call : late) {
            call.fail(ErrorCode.TIMEOUT, "it was not sent within requestTimeout");
        }
        for (Call call : late) {
            if (call.op == Protocol.OP_JOIN || call.op == Protocol.OP_LEAVE) {
                throw SessionEnd.lost(call.what + ": it was not sent within requestTimeout", null);
            }
        }
        return next;
    }

    /** The server has refused the client for good. The engine ends by itself. */
    void refused(StateChange change) {
        List<Completion<Void>> failed;
        synchronized (lock) {
            ending = true;
            failed = new ArrayList<>(connecting);
            connecting.clear();
        }
        change(change);
        failConnects(failed, ImgoException.refused(change.code(), change.reason()));
    }

    /** The engine has ended. change is null if the listener knows already. */
    void ended(StateChange change) {
        if (change != null) {
            change(change);
        }
        List<Completion<Void>> failed;
        List<Completion<Void>> next;
        List<Completion<Void>> closed;
        ImgoException failure = null;
        synchronized (lock) {
            failed = new ArrayList<>(connecting);
            connecting.clear();
            next = new ArrayList<>(connectingNext);
            connectingNext.clear();
            closed = new ArrayList<>(closing);
            closing.clear();
            engine = null;
            ending = false;
            if (!next.isEmpty()) {
                failure = startLocked();
                if (failure == null) {
                    connecting.addAll(next);
                }
            }
        }
        failConnects(failed, closedError());
        if (failure != null) {
            failConnects(next, failure);
        }
        for (Completion<Void> completion : closed) {
            completion.end(null, null);
        }
    }
}
