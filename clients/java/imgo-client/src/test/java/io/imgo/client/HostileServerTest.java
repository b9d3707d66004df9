package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * A server that keeps a mailbox and does what it likes otherwise: it repeats, cuts, stalls, sends rubbish and closes. The client
 * restarts at times, and its handler and its store fail at times. In the end each message was handled once, in order of each
 * connection, and acknowledged only after that.
 */
@Timeout(180)
class HostileServerTest {
    private static final int MESSAGES = 150;
    private static final int HOSTILE_SESSIONS = 60;

    @TempDir
    Path folder;

    private final Set<Long> pending = Collections.synchronizedSet(new TreeSet<>());
    private final Set<Long> handled = Collections.synchronizedSet(new HashSet<>());
    private final List<String> faults = Collections.synchronizedList(new ArrayList<>());
    private final Map<Long, Integer> failures = new ConcurrentHashMap<>();
    private volatile boolean stopped;
    private volatile int sessions;

    @ParameterizedTest
    @CsvSource({"1, true", "2, true", "3, false", "4, true", "5, false", "6, true"})
    void losesNothingAndHandlesNothingTwice(long seed, boolean restarts) throws Exception {
        for (long id = 1; id <= MESSAGES; id++) {
            pending.add(id);
        }
        try (FakeServer server = new FakeServer()) {
            Thread thread = new Thread(() -> serve(server, new Random(seed)), "hostile server");
            thread.start();
            Recorder recorder = new Recorder();
            Random random = new Random(-seed);
            FileStore file = new FileStore(folder.resolve("ids").toFile());
            ImgoClient client = client(server, recorder, file, random);
            client.connect();
            while (!pending.isEmpty() && faults.isEmpty()) {
                // A restart with the same store; without restarts, a close and a connect of the same client.
                Thread.sleep(random.nextInt(60));
                if (random.nextInt(4) == 0) {
                    client.close();
                    assertThat(recorder.aliveThreads()).as("threads after close").isZero();
                    client = restarts ? client(server, recorder, file, random) : client;
                    client.connect();
                } else {
                    client.connect(); // ends a wait
                }
            }
            await().atMost(30, TimeUnit.SECONDS).until(() -> pending.isEmpty() || !faults.isEmpty());
            client.close();
            assertThat(recorder.aliveThreads()).as("threads after close").isZero();
            stopped = true;
            server.close();
            thread.join(30_000);
            assertThat(thread.isAlive()).isFalse();
        }
        assertThat(faults).isEmpty();
        assertThat(handled).hasSize(MESSAGES);
        assertThat(sessions).isGreaterThan(20);
    }

    private ImgoClient client(FakeServer server, Recorder recorder, FileStore file, Random random) {
        Store store = new Store() {
            private boolean failed; // the last time; a store that goes on failing at a close would lose ids, and may

            @Override
            public long[] load() throws IOException {
                return file.load();
            }

            @Override
            public void add(long[] ids) throws IOException {
                synchronized (random) {
                    failed = !failed && random.nextInt(4) == 0;
                    if (failed) {
                        throw new IOException("the store fails");
                    }
                }
                file.add(ids);
            }
        };
        return ImgoClient.builder().address(server.address()).token("t").threadFactory(recorder).listener(recorder).store(store)
                .minBackoff(1, TimeUnit.MILLISECONDS).maxBackoff(5, TimeUnit.MILLISECONDS).queue(7)
                .heartbeatTimeout(200, TimeUnit.MILLISECONDS).authTimeout(200, TimeUnit.MILLISECONDS)
                .ackDelay(1, TimeUnit.MILLISECONDS).maxBody(1000).onMessage(message -> {
                    long id = message.id();
                    synchronized (random) {
                        if (random.nextInt(10) == 0 && failures.merge(id, 1, Integer::sum) < 3) {
                            throw new IOException("the handler fails");
                        }
                    }
                    if (!handled.add(id)) {
                        faults.add("message " + id + " was handled twice");
                    }
                }).build();
    }

    private void serve(FakeServer server, Random random) {
        for (int session = 0; !stopped; session++) {
            try (FakeServer.Connection connection = server.accept()) {
                connection.socket.setSoTimeout(2_000);
                if (session < HOSTILE_SESSIONS && random.nextInt(6) == 0) {
                    beforeAuth(connection, random);
                    continue;
                }
                Packet auth = connection.expect(Protocol.OP_AUTH);
                connection.write(Protocol.OP_AUTH_REPLY, auth.seq, 0, "{\"heartbeat\":0.05,\"pending\":1}");
                sessions = session + 1;
                session(connection, random, session < HOSTILE_SESSIONS, 3 * (session + 1));
            } catch (IOException e) {
                // The client has gone, or was too slow for this server.
            }
        }
    }

    private static void beforeAuth(FakeServer.Connection connection, Random random) throws IOException {
        switch (random.nextInt(4)) {
            case 0:
                break; // closes
            case 1:
                connection.expect(Protocol.OP_AUTH);
                connection.write(rubbish(random));
                break;
            case 2:
                Packet auth = connection.expect(Protocol.OP_AUTH);
                connection.write(Protocol.OP_AUTH_REPLY, auth.seq, 0, "{\"session\":");
                break;
            default:
                connection.expect(Protocol.OP_AUTH);
                connection.write(Protocol.OP_DISCONNECT, 0, 0, "{\"code\":3005,\"reason\":\"overload\"}");
        }
    }

    private static byte[] rubbish(Random random) {
        byte[] bytes = new byte[1 + random.nextInt(100)];
        random.nextBytes(bytes);
        return bytes;
    }

    /** Sends what is pending, in order, and takes acknowledgements. */
    private void session(FakeServer.Connection connection, Random random, boolean hostile, long newest) throws IOException {
        List<Long> ids;
        synchronized (pending) {
            ids = new ArrayList<>(pending);
        }
        ids.removeIf(id -> id > newest); // not pushed yet
        int fatal = hostile ? random.nextInt(ids.size() + 1) : Integer.MAX_VALUE;
        for (int i = 0; i < ids.size(); i++) {
            if (i == fatal) {
                fault(connection, ids.get(i), random);
                return;
            }
            connection.push(ids.get(i), "message " + ids.get(i));
            if (hostile && random.nextInt(10) == 0) {
                connection.push(ids.get(random.nextInt(i + 1)), "again");
            }
            while (connection.socket.getInputStream().available() >= 16) {
                take(connection);
            }
        }
        // Waits for the rest. Messages whose handler has failed come again with the next session, so this one ends after a while.
        connection.socket.setSoTimeout(300);
        while (!pending.isEmpty() && !stopped) {
            take(connection);
        }
    }

    private void take(FakeServer.Connection connection) throws IOException {
        Packet packet = connection.read();
        if (packet.op == Protocol.OP_HEARTBEAT) {
            if (packet.seq % 7 == 6) {
                throw new IOException("ends the session");
            }
            connection.write(3, packet.seq, 0, "");
            return;
        }
        assertThat(packet.op).isEqualTo(Protocol.OP_ACK);
        ByteBuffer body = ByteBuffer.wrap(packet.body);
        while (body.hasRemaining()) {
            long id = body.getLong();
            if (!handled.contains(id)) {
                faults.add("message " + id + " was acknowledged and not handled");
            }
            pending.remove(id);
        }
        if (packet.seq != 0) {
            connection.write(19, packet.seq, 0, "");
        }
    }

    private static void fault(FakeServer.Connection connection, long id, Random random) throws IOException {
        byte[] packet = FakeServer.packet(Protocol.OP_MESSAGE, 0, id, new byte[10]);
        switch (random.nextInt(6)) {
            case 0:
                connection.write(java.util.Arrays.copyOf(packet, random.nextInt(packet.length))); // and then closes
                break;
            case 1:
                connection.write(rubbish(random));
                break;
            case 2:
                connection.write(FakeServer.packet(Protocol.OP_MESSAGE, 0, id, new byte[1001]));
                break;
            case 3:
                connection.write(Protocol.OP_DISCONNECT, 0, 0, "{\"code\":3001,\"addresses\":[\"127.0.0.1:1\",\"nonsense\"]}");
                break;
            case 4:
                connection.socket.setSoLinger(true, 0); // a reset
                break;
            default:
                // Silence: the client leaves by its heartbeat.
                connection.socket.setSoTimeout(2_000);
                while (connection.read() != null) {
                    // not answered
                }
        }
    }
}
