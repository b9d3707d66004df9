package io.imgo.client;

import io.imgo.client.spi.Link;
import io.imgo.client.spi.LinkClosedException;
import io.imgo.client.spi.PacketException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** One connection: its auth, and its life as a session. Only the client's thread uses it. */
final class SessionLoop {
    /** The bound of the wait for the reply to the last acknowledgements. */
    private static final long LAST_ACK_TIMEOUT = TimeUnit.SECONDS.toNanos(2);
    private static final long MIN_REFRESH = TimeUnit.SECONDS.toNanos(1);
    /** When to look again whether a link that bounds its writes has sent all: it does not wake the client then. */
    private static final long LOOK_AGAIN = TimeUnit.MILLISECONDS.toNanos(100);
    /** How many packets are taken before timers and calls have their turn. */
    private static final int PACKETS_PER_TURN = 256;
    /** Calls wait while so many bytes are not sent. */
    private static final int MAX_UNSENT = 64 << 10;
    /** How many tries of published messages may wait for their replies in one session. */
    private static final int MAX_UNANSWERED = 256;

    private final Engine engine;
    private final Options options;
    private final Link link;
    private final Address address;

    private int seq;
    private ByteBuffer arrived; // packets of the link that are not yet taken; null if there are none
    private ByteBuffer batch; // packets inside the last packet
    private boolean reading = true;

    private Session session;
    private long heartbeat; // the interval
    private long nextHeartbeat = Clock.NEVER;
    private long silentAt = Clock.NEVER; // when the connection counts as dead
    private long arrivedAtHeartbeat;

    private long unsent;
    private long stuckAt = Clock.NEVER; // when the connection counts as one that takes no bytes

    private final Map<Integer, Call> open = new LinkedHashMap<>();

    private final Map<Integer, Long> published = new HashMap<>(); // sequences of published messages without a reply, and their numbers
    private long publishing; // the number of the message whose reply is awaited, or 0
    private long publishAgainAt = Clock.NEVER; // when that message is sent again

    private long refreshAt = Clock.NEVER;
    private int refreshAttempt;
    private Task<String> refreshing;
    private long refreshUntil = Clock.NEVER; // when the token source, or the server, must have answered
    private int refreshSeq;

    private int lastAckSeq;
    private boolean lastAckReplied;

    SessionLoop(Engine engine, Link link, Address address) {
        this.engine = engine;
        this.options = engine.options;
        this.link = link;
        this.address = address;
    }

    /** Ends the connection. Calls that wait fail with the code. */
    void end(ErrorCode code, String why) {
        engine.paused = null;
        if (refreshing != null) {
            refreshing.abandon();
            refreshing = null;
        }
        try {
            link.close();
        } catch (Throwable e) { // a transport of the application may throw anything
            engine.client.log(LogHook.Level.WARN, "close the connection: " + e);
        }
        List<Call> calls = new ArrayList<>(open.values());
        open.clear();
        calls.addAll(engine.client.sessionEnded());
        for (Call call : calls) {
            call.fail(code, why);
        }
    }

    /** Opens the link, sends the auth packet and waits for the reply. Then the session is live. */
    void authenticate(String token, long connectUntil) throws SessionEnd, Engine.Stopped, IOException {
        ImgoClient client = engine.client;
        String what = "connect to " + address;
        try {
            link.begin(engine.selector);
            link.process();
            while (!link.isOpen()) {
                waitUntil(connectUntil, what + ": the connection was not open within connectTimeout");
                link.process();
            }
            List<String> rooms = client.roomsForAuth();
            long until = Clock.now() + options.authTimeout;
            what = "wait for the auth reply of " + address;
            link.send(Packet.encode(Protocol.OP_AUTH, nextSeq(), Bodies.auth(options, token, rooms)));
            while (true) {
                link.process();
                for (Packet packet = next(); packet != null; packet = next()) {
                    if (packet.op == Protocol.OP_DISCONNECT) {
                        throw SessionEnd.parse(packet.body);
                    }
                    if (packet.op == Protocol.OP_AUTH_REPLY) {
                        live(packet.body, rooms);
                        return;
                    }
                    // Other packets have no meaning before the auth reply.
                }
                waitUntil(until, what + ": none came within authTimeout");
            }
        } catch (IOException e) {
            throw ended(what, e);
        }
    }

    private void waitUntil(long until, String late) throws SessionEnd, Engine.Stopped, IOException {
        engine.stopIfClosing();
        if (Clock.now() >= until) {
            throw SessionEnd.lost(late, null);
        }
        pause(until);
        engine.stopIfClosing();
    }

    /** Waits as the engine does. The network of the selector is not the connection's, so its errors are the engine's. */
    private void pause(long until) {
        try {
            engine.pause(until);
        } catch (IOException e) {
            throw new IllegalStateException("wait for the network: " + e, e);
        }
    }

    /** Returns the end of the session for an error of its link. */
    private SessionEnd ended(String what, IOException e) {
        if (e instanceof LinkClosedException) {
            LinkClosedException closed = (LinkClosedException) e;
            return SessionEnd.closed(closed.code(), closed.reason());
        }
        String text = what + ": " + SessionEnd.textOf(e);
        if (e instanceof PacketException) {
            engine.fail(new ImgoException(ErrorCode.PROTOCOL, text, e));
        }
        return SessionEnd.lost(text, e);
    }

    private SessionEnd broken(String what, IllegalArgumentException e) {
        String text = "read " + what + ": " + SessionEnd.textOf(e);
        engine.fail(new ImgoException(ErrorCode.PROTOCOL, text, e));
        return SessionEnd.lost(text, e);
    }

    /** Begins the session. */
    private void live(byte[] body, List<String> rooms) throws SessionEnd, IOException {
        List<RoomChange> refused;
        Long last;
        try {
            Map<?, ?> reply = Bodies.object(body);
            session = Bodies.session(reply);
            refused = Bodies.refused(reply);
            last = Bodies.published(reply);
        } catch (IllegalArgumentException e) {
            throw broken("the auth reply", e);
        }
        heartbeat = TimeUnit.MILLISECONDS.toNanos(session.heartbeatMillis());
        nextHeartbeat = Clock.now() + heartbeat;
        scheduleRefresh(session.expiresInMillis());
        engine.setAckNow(engine.inbox.hasDue());
        List<Call> late = engine.client.sessionBegan(session, rooms);
        for (RoomChange change : refused) {
            roomChanged(change);
        }
        engine.client.publisher().began(last);
        for (Call call : late) {
            send(call);
        }
    }

    /** Serves the session. It ends with an exception. */
    void serve() throws SessionEnd, Engine.Stopped {
        String what = "the connection to " + address + " was lost";
        try {
            while (true) {
                link.process();
                boolean more = readSome();
                sendCalls();
                sendAcks();
                long wake = Math.min(Math.min(timers(), publish()), checkSilence(true));
                wake = Math.min(wake, Math.min(checkWrites(), refresh()));
                engine.stopIfClosing();
                pause(more ? 0 : wake);
                engine.stopIfClosing();
            }
        } catch (IOException e) {
            throw ended(what, e);
        }
    }

    /** Returns the next packet that has arrived, or null. */
    private Packet next() throws SessionEnd, IOException {
        while (true) {
            if (batch != null && batch.hasRemaining()) {
                Packet packet = Packet.decode(batch, options.maxBody);
                if (packet.op == Protocol.OP_RAW) {
                    throw new PacketException("a batch has a batch in it");
                }
                return packet;
            }
            batch = null;
            if (arrived == null || !arrived.hasRemaining()) {
                arrived = link.receive();
                if (arrived == null) {
                    return null;
                }
            }
            Packet packet = Packet.decode(arrived, options.maxBody);
            if (packet.op != Protocol.OP_RAW) {
                return packet;
            }
            batch = ByteBuffer.wrap(packet.body);
        }
    }

    /** Takes packets while the queue has room. It reports whether more may be there. */
    private boolean readSome() throws SessionEnd, IOException {
        for (int i = 0; i < PACKETS_PER_TURN; i++) {
            if (!mayRead()) {
                return false;
            }
            Packet packet = next();
            if (packet == null) {
                return false;
            }
            dispatch(packet);
        }
        return true;
    }

    /** Reports whether the queue has room, and stops or resumes reading. */
    private boolean mayRead() {
        boolean may = reading ? !engine.queue.isFull() : engine.queue.hasRoom();
        if (reading && !may) {
            engine.paused = this;
            may = engine.queue.hasRoom(); // the handler may have been faster than the line above
        }
        if (may != reading) {
            reading = may;
            link.setReading(may);
            if (may && silentAt != Clock.NEVER) {
                silentAt = Math.max(silentAt, Clock.now() + options.heartbeatTimeout);
            }
        }
        if (may) {
            engine.paused = null;
        }
        return may;
    }

    private void dispatch(Packet packet) throws SessionEnd {
        if (packet.op == Protocol.OP_DISCONNECT) {
            throw SessionEnd.parse(packet.body);
        }
        if (packet.op == Protocol.OP_ROOM_CHANGED) {
            try {
                roomChanged(Bodies.roomChange(Bodies.object(packet.body)));
            } catch (IllegalArgumentException e) {
                throw broken("a change of a room", e);
            }
        } else if (packet.op == Protocol.OP_DISMISS) {
            try {
                engine.client.dismiss(new Dismiss(Bodies.ids(packet.body), packet.id));
            } catch (IllegalArgumentException e) {
                throw broken("which messages were read elsewhere", e);
            }
        } else if (packet.seq != 0) {
            reply(packet);
        } else if (packet.op == Protocol.OP_MESSAGE || packet.op >= Protocol.FIRST_APPLICATION_OP) {
            if (packet.id == 0 || engine.inbox.take(packet.id)) {
                engine.queue.put(new Message(packet.id, packet.op, packet.body));
            } else {
                engine.touch(); // it may be due again
            }
        }
    }

    /** Passes a reply on to the one that waits for it. A late one, for which nobody waits any more, is dropped. */
    private void reply(Packet packet) throws SessionEnd {
        if (packet.seq == refreshSeq) {
            refreshSeq = 0;
            refreshReplied(packet);
            return;
        }
        Long number = published.remove(packet.seq);
        if (number != null) {
            // The reply to the first try may come after the second one was sent.
            if (number == publishing) {
                publishing = 0;
                engine.client.publisher().replied(engine, number, packet);
            }
            return;
        }
        Call call = open.remove(packet.seq);
        if (call == null) {
            return;
        }
        engine.client.callEnded();
        if (packet.op == Protocol.OP_REFUSED) {
            call.completion.end(null, Bodies.denied(call.what, packet.body));
        } else {
            call.completion.end(packet.body, null);
        }
    }

    private void roomChanged(RoomChange change) {
        // A server that could not decide may do so next time.
        if (!change.isJoined() && !change.code().equals("unavailable")) {
            engine.client.forgetRoom(change.room());
        }
        engine.client.room(change);
    }

    private int nextSeq() {
        seq = seq == Integer.MAX_VALUE ? 1 : seq + 1; // never 0, which asks for no reply
        return seq;
    }

    private void send(Call call) throws IOException {
        int number = nextSeq();
        open.put(number, call);
        link.send(Packet.encode(call.op, number, call.id, call.body));
    }

    /** Sends the oldest published message if it is time. It returns when it is to be called again. */
    private long publish() throws IOException {
        Publisher publisher = engine.client.publisher();
        long now = Clock.now();
        if (publishing != 0 && now < publishAgainAt) {
            return publishAgainAt;
        }
        OutboxMessage oldest = link.unsent() < MAX_UNSENT ? publisher.next(session) : null;
        if (oldest == null) {
            return publisher.sendAt();
        }
        int number = nextSeq();
        if (published.size() >= MAX_UNANSWERED) {
            published.clear(); // the server answers nothing; a late reply is of no use
        }
        published.put(number, oldest.number());
        publishing = oldest.number();
        publishAgainAt = now + options.requestTimeout;
        link.send(Packet.encode(oldest.op(), number, publisher.id(oldest), oldest.body()));
        return publishAgainAt;
    }

    /** Sends calls of the application while the network takes them. */
    private void sendCalls() throws IOException {
        while (link.unsent() < MAX_UNSENT) {
            Call call = engine.client.nextCall();
            if (call == null) {
                return;
            }
            send(call);
        }
    }

    private void sendAcks() throws IOException {
        while (engine.isAckNow() && link.unsent() < MAX_UNSENT) {
            List<Long> ids = engine.inbox.takeDue(session.ackBatch());
            if (!ids.isEmpty()) {
                link.send(Packet.encode(Protocol.OP_ACK, 0, Bodies.acks(ids)));
            }
            engine.setAckNow(ids.size() == session.ackBatch() && engine.inbox.hasDue());
        }
    }

    /** Sends a heartbeat if it is time, and ends late calls. It returns when it is to be called again. */
    private long timers() throws SessionEnd, IOException {
        long now = Clock.now();
        if (now >= nextHeartbeat) {
            nextHeartbeat = now + heartbeat;
            if (silentAt == Clock.NEVER && (link.unsent() == 0 || link.boundsWrites())) { // else it waits behind a long packet
                silentAt = now + options.heartbeatTimeout;
                arrivedAtHeartbeat = link.arrived();
            }
            if (link.unsent() < MAX_UNSENT) {
                link.send(Packet.encode(Protocol.OP_HEARTBEAT, nextSeq(), new byte[0]));
            }
        }
        long wake = Math.min(nextHeartbeat, engine.client.failLateCalls(now));
        Iterator<Call> calls = open.values().iterator();
        while (calls.hasNext()) {
            Call call = calls.next();
            if (now < call.until) {
                wake = Math.min(wake, call.until);
                break; // the calls are in the order of their time
            }
            calls.remove();
            engine.client.callEnded();
            call.fail(ErrorCode.TIMEOUT, "no reply came within requestTimeout");
        }
        return wake;
    }

    /** Ends the session if nothing has arrived since a heartbeat. It returns when it is to be called again. */
    private long checkSilence(boolean countsUnread) throws SessionEnd, IOException {
        if (silentAt == Clock.NEVER) {
            return Clock.NEVER;
        }
        if (link.arrived() != arrivedAtHeartbeat) {
            silentAt = Clock.NEVER;
            return Clock.NEVER;
        }
        long now = Clock.now();
        if (now < silentAt) {
            return silentAt;
        }
        if (countsUnread && !reading && ((arrived != null && arrived.hasRemaining()) || batch != null || link.hasUnread())) {
            silentAt = now + options.heartbeatTimeout; // not silence: the queue is full, and more waits
            return silentAt;
        }
        throw SessionEnd.lost("nothing came from " + address + " within heartbeatTimeout after a heartbeat", null);
    }

    /** Ends the session if the network takes no bytes. It returns when it is to be called again. */
    private long checkWrites() throws SessionEnd {
        long now = Clock.now();
        long bytes = link.unsent();
        if (link.boundsWrites()) {
            return bytes == 0 ? Clock.NEVER : now + LOOK_AGAIN;
        }
        if (bytes == 0) {
            stuckAt = Clock.NEVER;
        } else if (stuckAt == Clock.NEVER || bytes < unsent) {
            stuckAt = now + options.requestTimeout;
        } else if (now >= stuckAt) {
            throw SessionEnd.lost(address + " took no bytes within requestTimeout", null);
        }
        unsent = bytes;
        return stuckAt;
    }

    private void scheduleRefresh(long expiresInMillis) {
        refreshAt = options.tokenSource == null || expiresInMillis <= 0 ? Clock.NEVER
                : Clock.now() + Math.max(TimeUnit.MILLISECONDS.toNanos(expiresInMillis) / 5 * 4, MIN_REFRESH);
    }

    /** Replaces the token when it is time. It returns when it is to be called again. */
    private long refresh() throws IOException {
        long now = Clock.now();
        if (refreshing != null) {
            if (!refreshing.isDone() && now < refreshUntil) {
                return refreshUntil;
            }
            Throwable error = refreshing.isDone() ? refreshing.error() : new IOException("no answer in time");
            String token = refreshing.value();
            refreshing.abandon();
            refreshing = null;
            if (error == null && (token == null || token.isEmpty())) {
                error = new IOException("the token is empty");
            }
            if (error != null) {
                refreshFailed(error);
                return refreshAt;
            }
            refreshSeq = nextSeq();
            refreshUntil = now + options.requestTimeout;
            link.send(Packet.encode(Protocol.OP_AUTH, refreshSeq, Bodies.newToken(token)));
        }
        if (refreshSeq != 0) {
            if (now < refreshUntil) {
                return refreshUntil;
            }
            refreshSeq = 0;
            refreshFailed(new IOException("the server did not answer to the new token within requestTimeout"));
        }
        if (now >= refreshAt) {
            refreshAt = Clock.NEVER;
            refreshing = engine.start(options.tokenSource::token);
            refreshUntil = now + options.connectTimeout;
            return refreshUntil;
        }
        return refreshAt;
    }

    private void refreshFailed(Throwable error) {
        engine.failToken(error);
        refreshAt = Clock.now() + engine.backoff(refreshAttempt++);
    }

    private void refreshReplied(Packet packet) throws SessionEnd {
        if (packet.op == Protocol.OP_REFUSED) {
            refreshFailed(Bodies.denied("send the new token", packet.body));
            return;
        }
        try {
            scheduleRefresh(Bodies.expiry(Bodies.object(packet.body)));
        } catch (IllegalArgumentException e) {
            throw broken("the reply to a new token", e);
        }
        refreshAttempt = 0;
        engine.client.log(LogHook.Level.DEBUG, "the session goes on with a new token");
    }

    /** During a close, waits without reading, and sends heartbeats. */
    void keepAlive(long until) throws SessionEnd {
        try {
            stopReading();
            link.process();
            if (Clock.now() >= nextHeartbeat) {
                nextHeartbeat = Clock.now() + heartbeat;
                link.send(Packet.encode(Protocol.OP_HEARTBEAT, nextSeq(), new byte[0]));
            }
            pause(Math.min(Math.min(until, nextHeartbeat), checkWrites()));
        } catch (IOException e) {
            throw ended("close", e);
        }
    }

    private void stopReading() {
        if (reading) {
            reading = false;
            link.setReading(false);
        }
    }

    /** Sends the last acknowledgements and waits for the server to have them. Messages that arrive meanwhile come again. */
    void acknowledgeLast() throws SessionEnd {
        try {
            long until = Clock.now() + LAST_ACK_TIMEOUT;
            reading = true;
            link.setReading(true);
            while (engine.inbox.hasDue()) {
                List<Long> ids = engine.inbox.takeDue(session.ackBatch());
                lastAckSeq = engine.inbox.hasDue() ? 0 : nextSeq();
                link.send(Packet.encode(Protocol.OP_ACK, lastAckSeq, Bodies.acks(ids)));
            }
            // What has arrived is read in any case: to close a socket with unread bytes resets it.
            while (Clock.now() < until) {
                link.process();
                for (Packet packet = next(); packet != null && Clock.now() < until; packet = next()) {
                    if (packet.op == Protocol.OP_DISCONNECT) {
                        return;
                    }
                    if (packet.seq != 0 && packet.seq == lastAckSeq && packet.id == 0) {
                        lastAckReplied = true;
                    }
                }
                if ((lastAckSeq == 0 || lastAckReplied) && link.unsent() == 0) {
                    return;
                }
                pause(until);
            }
        } catch (IOException e) {
            throw ended("close", e);
        }
    }
}
