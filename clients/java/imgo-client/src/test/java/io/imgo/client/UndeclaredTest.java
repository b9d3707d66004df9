package io.imgo.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.imgo.client.spi.Endpoint;
import io.imgo.client.spi.Link;
import io.imgo.client.spi.Transport;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.Selector;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Code of the application that throws checked exceptions without a declaration, as all code in Kotlin may. */
@Timeout(120)
class UndeclaredTest {
    private static final byte[] BODY = {'b'};

    private final Recorder recorder = new Recorder();
    private FakeServer server;
    private ImgoClient client;

    @BeforeEach
    void start() throws IOException {
        server = new FakeServer();
    }

    @AfterEach
    void stop() throws Exception {
        client.closeAsync().get(30, SECONDS);
        client.close();
        assertThat(recorder.aliveThreads()).as("threads after close").isZero();
        server.close();
    }

    private ImgoClientBuilder builder() {
        // What a test expects to be uncaught is not printed.
        ThreadFactory quiet = work -> {
            Thread thread = recorder.newThread(work);
            thread.setUncaughtExceptionHandler((t, e) -> {
                throw new IllegalStateException("the handler fails as well");
            });
            return thread;
        };
        return ImgoClient.builder().address(server.address()).token("t").device("laptop").listener(recorder).onMessage(recorder)
                .threadFactory(quiet).minBackoff(1, MILLISECONDS).maxBackoff(20, MILLISECONDS);
    }

    private FakeServer.Connection connect(ImgoClientBuilder builder) throws Exception {
        client = builder.build();
        return server.connect(client);
    }

    @SuppressWarnings("unchecked")
    private static <T extends Throwable> RuntimeException undeclared(Throwable e) throws T {
        throw (T) e;
    }

    /** Checks that the session of the connection goes on. */
    private void assertLives(FakeServer.Connection connection) throws Exception {
        connection.push(7, "alive");
        assertThat(recorder.nextBody()).isEqualTo("alive");
        assertThat(connection.acks()).containsExactly(7L);
        assertThat(client.state()).isEqualTo(State.LIVE);
    }

    @Test
    void aListenerAndALog() throws Exception {
        AtomicInteger lines = new AtomicInteger();
        FakeServer.Connection connection = connect(builder().listener(new ClientListener() {
            @Override
            public void onState(StateChange change) {
                undeclared(new IOException("a state"));
            }

            @Override
            public void onRoom(RoomChange change) {
                undeclared(new IOException("a room"));
            }
        }).log((level, line) -> {
            lines.incrementAndGet();
            undeclared(new TimeoutException("a log"));
        }));
        connection.write(Protocol.OP_ROOM_CHANGED, 0, 0, "{\"room\":\"c\",\"joined\":true}");
        assertLives(connection);
        assertThat(lines).hasPositiveValue();
    }

    @Test
    void callbacksOfCalls() throws Exception {
        FakeServer.Connection connection = connect(builder());
        for (Throwable e : new Throwable[] {new IOException("no"), new AssertionError("no"), new IllegalStateException("no")}) {
            Completion<byte[]> sent = client.send(BODY);
            sent.whenDone((reply, error) -> undeclared(e));
            connection.write(Protocol.OP_SEND, connection.expect(Protocol.OP_SEND).seq, 0, "");
            sent.await();
        }
        assertLives(connection);
    }

    @Test
    void callbacksOfTheOutbox() throws Exception {
        AtomicBoolean broken = new AtomicBoolean(true);
        Semaphore go = new Semaphore(1);
        FakeServer.Connection connection = connect(builder().outbox(new PublishTest.OtherOutbox() {
            @Override
            public void add(OutboxMessage message) throws IOException {
                go.acquireUninterruptibly();
                if (broken.getAndSet(false)) {
                    undeclared(new TimeoutException("no"));
                }
                super.add(message);
            }
        }));
        Completion<Long> failed = client.publish(BODY);
        assertThatThrownBy(failed::await).isInstanceOfSatisfying(ImgoException.class,
                e -> assertThat(e.code()).isEqualTo(ErrorCode.STORAGE));
        Completion<Long> next = client.publish(BODY);
        next.whenDone((number, error) -> undeclared(new IOException("no")));
        go.release(2);
        assertThat(next.await()).isEqualTo(1);
        assertThat(client.publish(BODY).await()).isEqualTo(2);
        connection.write(Protocol.OP_SEND, connection.expect(Protocol.OP_SEND).seq, 0, "");
        assertThat(Recorder.next(recorder.published).number()).isEqualTo(1);
    }

    @Test
    void anExecutor() throws Exception {
        AtomicBoolean broken = new AtomicBoolean(true);
        FakeServer.Connection connection = connect(builder().executor(work -> {
            if (broken.getAndSet(false)) {
                undeclared(new TimeoutException("no"));
            }
            work.run();
        }));
        connection.push(1, "not handled");
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.HANDLER, ImgoException::code);
        assertLives(connection);
    }

    /** A bug of a transport ends the client, and nothing of it is left. */
    @Test
    void aTransport() throws Exception {
        AtomicInteger closed = new AtomicInteger();
        client = builder().transport(new Transport() {
            @Override
            public boolean supports(String scheme) {
                return true;
            }

            @Override
            public Link open(Endpoint endpoint) {
                return new BrokenLink(closed);
            }
        }).build();
        Completion<Void> connected = client.connect();
        assertThatThrownBy(() -> connected.get(30, SECONDS)).hasMessageContaining("a bug");
        assertThat(recorder.await(State.CLOSED).isFailed()).isTrue();
        assertThat(closed).hasPositiveValue();
    }

    private static final class BrokenLink implements Link {
        private final AtomicInteger closed;

        BrokenLink(AtomicInteger closed) {
            this.closed = closed;
        }

        @Override
        public void begin(Selector selector) {}

        @Override
        public void process() {
            undeclared(new TimeoutException("a bug"));
        }

        @Override
        public boolean isOpen() {
            return true;
        }

        @Override
        public ByteBuffer receive() {
            return null;
        }

        @Override
        public void setReading(boolean wanted) {}

        @Override
        public long arrived() {
            return 0;
        }

        @Override
        public boolean hasUnread() {
            return false;
        }

        @Override
        public void send(ByteBuffer packet) {}

        @Override
        public long unsent() {
            return 0;
        }

        @Override
        public void close() {
            closed.incrementAndGet();
            undeclared(new TimeoutException("another bug"));
        }
    }
}
