package io.imgo.client;

import io.imgo.client.spi.Endpoint;
import io.imgo.client.spi.Link;
import io.imgo.client.spi.Transport;
import java.io.IOException;
import java.nio.channels.Selector;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * A client from connect to close: its attempts, its waits and its end. It runs on the client's thread. Other threads use only
 * the methods that say so.
 *
 * <p>A live session is one loop, SessionLoop.serve. Each method that it calls does what needs no waiting and returns when it is to
 * be called again; pause waits for the earliest of these times. Pause may return early, and the loop then calls all of them.
 * <ul>
 *   <li>The end of a handler sets touched and wakes pause. Pause calls save, which gathers the ids after ackDelay, gives them to the
 *       store, and sets ackNow when they may be acknowledged. Pause then returns at once, so that sendAcks runs and resets ackNow.
 *   <li>A full queue makes mayRead stop the link (reading is false) and sets paused. Only then a handler that takes a message wakes
 *       pause, when half of the queue is free, so that mayRead runs and the link reads on.
 * </ul>
 */
final class Engine implements Runnable, ThreadFactory, MessageQueue.Owner {
    /** The longest time before the first attempt at an address that a stopping server named. */
    private static final long JITTER = TimeUnit.MILLISECONDS.toNanos(500);
    private static final int LAST_SAVES = 3;
    /** Helpers work on one thing each: a token, a connection, the store. One more may hang after it was given up. */
    private static final int MAX_HELPERS = 8;

    /** The application wants the client to close. */
    static final class Stopped extends Exception {
        private static final long serialVersionUID = 1L;

        Stopped() {
            super("the client closes");
        }
    }

    final ImgoClient client;
    final Options options;
    final Inbox inbox;
    final MessageQueue queue;
    final Selector selector;
    private final ThreadPoolExecutor helpers;
    private final ExecutorService worker; // null if the application has an executor
    private final Route route;
    private final Thread thread;
    private final List<Thread> threads = new ArrayList<>(); // all that have not ended; guarded by itself

    private final Object lock = new Object();
    private boolean closing;
    private boolean hurry;
    private boolean ended; // the selector is closed
    private final Deque<ImgoException> errors = new ArrayDeque<>();

    private SessionLoop session; // the live one, also while it closes; only the client's thread uses it
    private boolean dialed; // the attempt has used an address of the route
    private boolean accepted; // the attempt became a session
    private long liveSince;

    /** Tells the client's thread that ids were handled or came again. It stays set until they are gathered. */
    private final AtomicBoolean touched = new AtomicBoolean();
    private long gatherAt = Clock.NEVER; // when the gathered ids are saved, or acknowledged
    private long retryAt = Clock.NEVER; // when ids that were not saved are tried again
    private boolean ackNow; // the due ids are to be sent
    private Task<Boolean> saving;
    private long savingUntil; // when the store must have answered
    private long[] savingIds;

    Engine(ImgoClient client, Options options, Inbox inbox) throws IOException {
        this.client = client;
        this.options = options;
        this.inbox = inbox;
        route = new Route(options.address);
        helpers = new ThreadPoolExecutor(0, MAX_HELPERS, 1, TimeUnit.SECONDS, new SynchronousQueue<>(), this);
        worker = options.executor != null ? null
                : new ThreadPoolExecutor(1, 1, 0, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), this);
        queue = new MessageQueue(options.queue, options.handler, worker != null ? worker : options.executor, this);
        thread = newThread(this);
        if (thread == null) {
            throw new IOException("the thread factory gave no thread");
        }
        selector = Selector.open();
    }

    /** Starts the client's thread. If it throws, nothing of the engine is left. */
    void start() throws IOException {
        try {
            thread.start();
        } catch (Throwable e) {
            selector.close();
            throw e;
        }
    }

    // The following methods may be called by any thread.

    /** Makes the client's thread look at what has changed. */
    void wakeup() {
        synchronized (lock) {
            if (!ended) {
                selector.wakeup();
            }
        }
    }

    /** Begins to close. */
    void close() {
        synchronized (lock) {
            closing = true;
        }
        queue.halt();
        wakeup();
    }

    boolean isClosing() {
        synchronized (lock) {
            return closing;
        }
    }

    /** Ends a wait between two attempts. */
    void hurry() {
        synchronized (lock) {
            hurry = true;
        }
        wakeup();
    }

    /** Reports whether the calling thread is one on which the end of the client cannot be awaited. */
    boolean isOwnThread() {
        return Thread.currentThread() == thread || queue.isHandling();
    }

    /** Makes a thread that join waits for. Transports use it as well. */
    @Override
    public Thread newThread(Runnable work) {
        Thread made = options.threads.newThread(work);
        synchronized (threads) {
            Iterator<Thread> all = threads.iterator();
            while (all.hasNext()) {
                if (all.next().getState() == Thread.State.TERMINATED) {
                    all.remove();
                }
            }
            if (made != null) {
                threads.add(made);
            }
        }
        return made;
    }

    /** Waits until the threads have ended. Those in code of the application that does not end are given up after a second. */
    void join() throws InterruptedException {
        thread.join();
        long until = Clock.now() + TimeUnit.SECONDS.toNanos(1);
        List<Thread> rest;
        synchronized (threads) {
            rest = new ArrayList<>(threads);
        }
        for (Thread one : rest) {
            long millis = TimeUnit.NANOSECONDS.toMillis(until - Clock.now());
            if (one != Thread.currentThread() && millis > 0) {
                one.join(millis);
            }
        }
    }

    @Override
    public void handled(Message message, Throwable error) {
        if (error != null) {
            fail(new ImgoException(ErrorCode.HANDLER, "handle " + message + ": " + SessionEnd.textOf(error), error));
        }
        if (message.isKept()) {
            inbox.done(message.id(), error == null);
            if (error == null) {
                touch();
            }
        }
    }

    @Override
    public void taken() {
        if (paused != null && queue.hasRoom()) {
            wakeup();
        }
    }

    /** The session that does not read since the queue is full. */
    volatile SessionLoop paused;

    @Override
    public void idle() {
        if (isClosing() || paused != null) {
            wakeup();
        }
    }

    /** Notes that ids are to be gathered. */
    void touch() {
        if (touched.compareAndSet(false, true)) {
            wakeup();
        }
    }

    /** Reports an error by an event. */
    void fail(ImgoException error) {
        synchronized (lock) {
            errors.add(error);
        }
        wakeup();
    }

    // The following methods are called by the client's thread.

    @Override
    public void run() {
        StateChange end = StateChange.closed(0, "closed by the application", false);
        boolean refused = false;
        try {
            SessionEnd refusal = attempts();
            refused = true;
            end = StateChange.closed(refusal.code, refusal.reason, true);
            client.refused(end);
        } catch (Stopped e) {
            client.log(LogHook.Level.DEBUG, "close");
        } catch (Throwable e) {
            refused = true;
            end = StateChange.closed(0, "the client failed: " + e, true);
            client.refused(end);
        }
        step(this::finish);
        step(this::endSession);
        step(this::awaitOutbox);
        step(this::release);
        client.ended(refused ? null : end);
    }

    private interface Step {
        void run() throws IOException;
    }

    /** Does one step of the close. Those behind it follow in any case, so that close never waits for ever. */
    private void step(Step step) {
        try {
            step.run();
        } catch (Throwable e) { // a transport of the application may throw anything
            client.log(LogHook.Level.WARN, "close: " + e);
        }
    }

    private void endSession() {
        if (session != null) {
            session.end(ErrorCode.CLOSED, "the client was closed");
        }
    }

    /** Waits for calls of the outbox that are under way, so that nothing uses it after the close. */
    private void awaitOutbox() throws IOException {
        long until = Clock.now() + options.requestTimeout;
        while (client.publisher().isBusy() && Clock.now() < until) {
            pause(until);
        }
    }

    private void release() throws IOException {
        client.publisher().stop();
        helpers.shutdownNow();
        if (worker != null) {
            worker.shutdownNow();
        }
        drainErrors();
        synchronized (lock) {
            ended = true;
            selector.close();
        }
    }

    /** Connects again and again. It returns why the server does not want the client any more. */
    private SessionEnd attempts() throws Stopped, IOException {
        int attempt = 0;
        boolean moved = false; // a server has named other addresses, and no session was stable since
        boolean renewed = false; // a new token was taken after an expired one
        while (true) {
            SessionEnd end = attempt();
            if (accepted) {
                renewed = false;
                if (Clock.now() - liveSince >= options.stableAfter) {
                    attempt = 0;
                    moved = false;
                }
            }
            if (!end.reconnect) {
                if (end.code != Protocol.CLOSE_TOKEN_EXPIRED || options.tokenSource == null || renewed) {
                    return end;
                }
                renewed = true;
            }
            boolean named = !end.addresses.isEmpty();
            if (named) {
                route.begin(end.addresses);
            } else if (accepted) {
                route.clear();
            }
            long retryIn;
            if (named ? !moved : dialed && !route.isEmpty()) {
                retryIn = random(JITTER); // the next address of the round
            } else {
                retryIn = backoff(attempt); // also for servers that send the client to one another
                attempt++;
            }
            moved |= named;
            long millis = TimeUnit.NANOSECONDS.toMillis(retryIn);
            takeHurry(); // a call of connect during the attempt does not end the wait after it
            client.change(StateChange.waiting(millis, end.code, end.reason));
            long until = Clock.now() + retryIn;
            while (Clock.now() < until && !takeHurry()) {
                pause(until);
                stopIfClosing();
            }
        }
    }

    private boolean takeHurry() {
        synchronized (lock) {
            boolean was = hurry;
            hurry = false;
            return was;
        }
    }

    /** Returns a random part of the span: full jitter. The reconnects of a server's clients thus spread over the whole span. */
    long backoff(int attempt) {
        return random(span(options.minBackoff, options.maxBackoff, attempt));
    }

    /** Returns the span of an attempt: min for the first one, doubled with each further one up to max. */
    static long span(long min, long max, int attempt) {
        long span = min;
        for (int i = 0; i < attempt && span < max; i++) {
            span *= 2;
        }
        return Math.min(span, max);
    }

    private static long random(long span) {
        return ThreadLocalRandom.current().nextLong(span) + 1;
    }

    /** Connects once, and serves the connection to its end. */
    private SessionEnd attempt() throws Stopped, IOException {
        dialed = false;
        accepted = false;
        client.change(StateChange.connecting());
        long until = Clock.now() + options.connectTimeout;
        try {
            load(until);
            loadOutbox(until);
            if (route.isEmpty()) {
                route.begin(discover(until));
            }
            String token = token(until);
            Address to = route.next();
            dialed = true;
            client.log(LogHook.Level.DEBUG, "connect to " + to);
            Link link = dial(to, until);
            SessionLoop loop = new SessionLoop(this, link, to);
            try {
                loop.authenticate(token, until);
                accepted = true;
                liveSince = Clock.now();
                session = loop;
                loop.serve();
            } catch (Stopped e) {
                if (session == null) {
                    loop.end(ErrorCode.CLOSED, "the client was closed");
                }
                throw e; // finish ends a live session
            } catch (Throwable e) {
                session = null;
                loop.end(ErrorCode.LOST, "the connection was lost before the reply");
                throw e;
            }
            throw new AssertionError("a session ends with an exception");
        } catch (SessionEnd e) {
            client.log(LogHook.Level.WARN, e.text());
            return e;
        }
    }

    private void load(long until) throws Stopped, SessionEnd, IOException {
        if (options.store == null || client.isLoaded()) {
            return;
        }
        Task<long[]> loading = start(options.store::load);
        Throwable error = await(loading, until) ? loading.error() : new IOException("no answer in time");
        if (error == null && loading.value() == null) {
            error = new IOException("the store returned null");
        }
        if (error != null) {
            String what = "load the ids of handled messages: " + SessionEnd.textOf(error);
            fail(new ImgoException(ErrorCode.STORAGE, what, error));
            throw SessionEnd.lost(what, error);
        }
        inbox.load(loading.value());
        client.setLoaded();
    }

    private void loadOutbox(long until) throws Stopped, SessionEnd, IOException {
        if (options.device == null) {
            return;
        }
        Task<Boolean> loading = client.publisher().startLoading(this::wakeup);
        // A reading that hangs is not given up: the next attempt waits for it, since the outbox has one call at a time.
        boolean done = waitFor(loading, until);
        stopIfClosing();
        Throwable error = done ? loading.error() : new IOException("no answer in time");
        if (done) {
            client.publisher().loadingEnded();
        }
        if (error != null) {
            String what = "read the outbox: " + SessionEnd.textOf(error);
            fail(new ImgoException(ErrorCode.STORAGE, what, error));
            throw SessionEnd.lost(what, error);
        }
    }

    private String token(long until) throws Stopped, SessionEnd, IOException {
        if (options.tokenSource == null) {
            return options.token;
        }
        Task<String> task = start(options.tokenSource::token);
        Throwable error = await(task, until) ? task.error() : new IOException("no answer in time");
        if (error == null && (task.value() == null || task.value().isEmpty())) {
            error = new IOException("the token is empty");
        }
        if (error != null) {
            throw SessionEnd.lost(failToken(error), error);
        }
        return task.value();
    }

    /** Tells that the token source has failed. It returns the text. */
    String failToken(Throwable error) {
        String what = "get a token: " + SessionEnd.textOf(error);
        fail(new ImgoException(ErrorCode.TOKEN, what, error));
        return what;
    }

    private List<String> discover(long until) throws Stopped, IOException {
        if (options.discover == null) {
            return Collections.emptyList();
        }
        long limit = Math.min(until, Clock.now() + Math.min(Discovery.TIMEOUT, options.connectTimeout / 2));
        Task<List<String>> task = start(new Discovery(options.discover, options.sslContext, limit));
        Throwable error = await(task, limit) ? task.error() : new IOException("no answer in time");
        if (error == null) {
            return task.value();
        }
        client.log(LogHook.Level.WARN, "discover nodes: " + SessionEnd.textOf(error));
        return Collections.emptyList();
    }

    private Link dial(Address to, long until) throws Stopped, SessionEnd, IOException {
        Transport transport = null;
        for (Transport candidate : options.transports) {
            if (candidate.supports(to.scheme)) {
                transport = candidate;
                break;
            }
        }
        if (transport == null) {
            throw SessionEnd.lost("connect to " + to + ": no transport for " + to.scheme, null);
        }
        long millis = Math.max(1, TimeUnit.NANOSECONDS.toMillis(until - Clock.now()));
        long writeMillis = TimeUnit.NANOSECONDS.toMillis(options.requestTimeout);
        Endpoint endpoint = new Endpoint(
                to.scheme, to.host, to.port, to.path, options.sslContext, millis, writeMillis, options.maxBody, this);
        Transport chosen = transport;
        Task<Link> task = start(() -> chosen.open(endpoint));
        Throwable error = await(task, until) ? task.error() : new IOException("no connection in time");
        if (error == null && task.value() == null) {
            error = new IOException("the transport returned null");
        }
        if (error != null) {
            throw SessionEnd.lost("connect to " + to + ": " + SessionEnd.textOf(error), error);
        }
        return task.value();
    }

    /** Starts work that may block. */
    <T> Task<T> start(Callable<T> work) {
        return Task.start(helpers, work, this::wakeup);
    }

    /** Waits for work. It gives up at the time until, and when the client closes. It reports whether the work is done. */
    private boolean await(Task<?> task, long until) throws Stopped, IOException {
        if (!waitFor(task, until)) {
            task.abandon();
            stopIfClosing();
            return false;
        }
        return true;
    }

    /** Waits for work until the time, or until the client closes. It reports whether the work is done. */
    private boolean waitFor(Task<?> task, long until) throws IOException {
        while (!task.isDone()) {
            if (isClosing() || Clock.now() >= until) {
                return false;
            }
            pause(until);
        }
        return true;
    }

    void stopIfClosing() throws Stopped {
        if (isClosing()) {
            throw new Stopped();
        }
    }

    /**
     * Waits for the network, for another thread, or until the time, whichever is first. It may return early. Meanwhile it does
     * what is always done: events, and saving ids and published messages.
     */
    void pause(long until) throws IOException {
        drainErrors();
        boolean wasAckNow = ackNow;
        long wake = Math.min(until, Math.min(save(), client.publisher().work(this)));
        // The caller is to send what save has made ready.
        long wait = ackNow && !wasAckNow ? 0 : wake - Clock.now();
        if (wait <= 0) {
            selector.selectNow();
        } else {
            // Rounded up, so that the time has come when select returns.
            selector.select(Math.min(TimeUnit.NANOSECONDS.toMillis(wait) + 1, TimeUnit.HOURS.toMillis(1)));
        }
        selector.selectedKeys().clear();
        Thread.interrupted(); // an interrupted thread would never wait again
    }

    private void drainErrors() {
        while (true) {
            List<ImgoException> batch;
            synchronized (lock) {
                batch = new ArrayList<>(errors);
                errors.clear();
            }
            if (batch.isEmpty()) {
                return;
            }
            for (ImgoException error : batch) {
                client.error(error);
            }
        }
    }

    /** Saves gathered ids and makes due ones ready to send. It returns when it is to be called again. */
    private long save() {
        long now = Clock.now();
        if (saving != null && saving.isDone()) {
            Throwable error = saving.error();
            if (error == null) {
                inbox.saved(savingIds);
                ackNow = true;
            } else {
                retryAt = now + options.maxBackoff;
                savingFailed(error);
            }
            saving = null;
            savingIds = null;
        }
        if (touched.get() && gatherAt == Clock.NEVER) {
            gatherAt = now + options.ackDelay;
        }
        if (saving == null && now >= Math.min(gatherAt, retryAt)) {
            gatherAt = Clock.NEVER;
            retryAt = Clock.NEVER;
            touched.set(false); // before the ids are taken: later ones set it again
            startSaving();
            ackNow |= inbox.hasDue();
        }
        if (saving == null) {
            return Math.min(gatherAt, retryAt);
        }
        if (now >= savingUntil) {
            // The store has one call at a time, so the next one waits for the end of this one.
            savingUntil = now + options.requestTimeout + options.maxBackoff;
            savingFailed(new IOException("no answer in time"));
            saving.abandon();
        }
        return savingUntil;
    }

    private void savingFailed(Throwable error) {
        fail(new ImgoException(ErrorCode.STORAGE, "save " + savingIds.length + " ids: " + SessionEnd.textOf(error), error));
        drainErrors();
    }

    private void startSaving() {
        if (options.store == null || saving != null) {
            return;
        }
        long[] ids = inbox.unsaved();
        if (ids.length > 0) {
            savingIds = ids;
            savingUntil = Clock.now() + options.requestTimeout;
            saving = start(() -> {
                options.store.add(ids.clone());
                return true;
            });
        }
    }

    /** Reports whether due ids are to be sent now. */
    boolean isAckNow() {
        return ackNow;
    }

    void setAckNow(boolean now) {
        ackNow = now;
    }

    /**
     * Ends in good order. It waits for the running handler, saves what was handled, acknowledges it if there is a session, and
     * closes the connection.
     */
    private void finish() throws IOException {
        synchronized (lock) {
            closing = true;
        }
        for (Message message : queue.stop()) {
            if (message.isKept()) {
                inbox.done(message.id(), false);
            }
        }
        long until = Clock.now() + options.closeTimeout;
        while (queue.isRunning() && Clock.now() < until) {
            keepAlive(until);
        }
        if (options.store != null) {
            saveLast(Clock.now() + options.requestTimeout);
        }
        if (session != null) {
            try {
                session.acknowledgeLast();
            } catch (SessionEnd e) {
                client.log(LogHook.Level.WARN, "close: " + e.text());
            }
        }
    }

    /** Saves what was handled. A store that fails is tried a few times: what is not saved may be handled again after a restart. */
    private void saveLast(long until) throws IOException {
        for (int i = 0; i < LAST_SAVES; i++) {
            while (saving != null && Clock.now() < until) { // the first time, one that was started before
                keepAlive(until);
            }
            if (saving != null || !inbox.hasUnsaved()) {
                return;
            }
            startSaving();
        }
        while (saving != null && Clock.now() < until) {
            keepAlive(until);
        }
    }

    /** Waits as pause does, and keeps a live session from being taken for dead. */
    private void keepAlive(long until) throws IOException {
        if (session == null) {
            pause(until);
            return;
        }
        try {
            session.keepAlive(until);
        } catch (SessionEnd e) {
            session.end(ErrorCode.CLOSED, "the client was closed");
            session = null;
        }
    }
}
