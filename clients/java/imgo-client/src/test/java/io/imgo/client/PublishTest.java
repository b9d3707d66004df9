package io.imgo.client;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Published messages and messages that were read, beyond what the conformance scenarios ask. */
@Timeout(120)
class PublishTest {
    private static final byte[] BODY = {'b'};

    private final Recorder recorder = new Recorder();
    private FakeServer server;
    private ImgoClient client;
    @TempDir
    Path folder;

    /** An outbox of the application whose calls a test replaces. */
    static class OtherOutbox implements Outbox {
        final MemoryOutbox memory = new MemoryOutbox();

        @Override
        public OutboxContent load() throws IOException {
            return memory.load();
        }

        @Override
        public void setBase(long base) throws IOException {
            memory.setBase(base);
        }

        @Override
        public void add(OutboxMessage message) throws IOException {
            memory.add(message);
        }

        @Override
        public void remove(long upTo) throws IOException {
            memory.remove(upTo);
        }
    }

    @BeforeEach
    void start() throws IOException {
        server = new FakeServer();
    }

    @AfterEach
    void stop() throws IOException {
        if (client != null) {
            client.close();
            await().untilAsserted(() -> assertThat(recorder.aliveThreads()).as("threads after close").isZero());
        }
        server.close();
    }

    private ImgoClientBuilder builder() {
        return ImgoClient.builder().address(server.address()).token("t").device("laptop").listener(recorder).onMessage(recorder)
                .threadFactory(recorder).minBackoff(1, MILLISECONDS).maxBackoff(20, MILLISECONDS);
    }

    private FakeServer.Connection connect(ImgoClientBuilder builder) throws Exception {
        client = builder.build();
        return server.connect(client);
    }

    private static ErrorCode codeOf(Completion<?> call) throws InterruptedException {
        try {
            call.await();
            return null;
        } catch (ImgoException e) {
            return e.code();
        }
    }

    private FileOutbox file() {
        return new FileOutbox(folder.resolve("outbox").toFile());
    }

    @Test
    void publishBeforeTheFirstConnectHasATimeLimit() throws Exception {
        CountDownLatch released = new CountDownLatch(1);
        client = builder().requestTimeout(100, MILLISECONDS).outbox(new OtherOutbox() {
            @Override
            public OutboxContent load() throws IOException {
                try {
                    released.await();
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
                return super.load();
            }
        }).build();
        List<Completion<Long>> calls = List.of(client.publish(BODY), client.publish(BODY));
        try {
            for (Completion<Long> call : calls) {
                await().untilAsserted(() -> assertThat(call.isDone()).isTrue()); // no caller needs to wait for it
                assertThat(codeOf(call)).isEqualTo(ErrorCode.TIMEOUT);
            }
        } finally {
            released.countDown();
        }
    }

    @Test
    void theThreadOfTheOutboxEndsWhenNothingIsToDo() throws Exception {
        client = builder().outbox(file()).build();
        assertThat(client.publish(BODY).await()).isEqualTo(1);
        assertThat(client.publish(1000, BODY).await()).isEqualTo(2);
        await().untilAsserted(() -> assertThat(recorder.aliveThreads()).isZero());
        client.close();
        assertThat(client.publish(BODY).await()).as("an idle client stays usable").isEqualTo(3);
        assertThat(file().load().messages()).hasSize(3);
    }

    /** Two messages with one number would be one message. */
    @Test
    void threadsMayPublishAtTheSameTime() throws Exception {
        MemoryOutbox outbox = new MemoryOutbox();
        client = builder().outbox(outbox).build();
        assertThat(client.publish(BODY).await()).isEqualTo(1);
        Queue<Object> numbers = new ConcurrentLinkedQueue<>();
        List<Thread> threads = new ArrayList<>();
        synchronized (outbox) { // it is busy until both threads are in publish
            for (int i = 0; i < 2; i++) {
                Thread thread = new Thread(() -> {
                    try {
                        numbers.add(client.publish(BODY).await());
                    } catch (Throwable e) {
                        numbers.add(e);
                    }
                });
                thread.start();
                threads.add(thread);
            }
            await().untilAsserted(() -> assertThat(threads).extracting(Thread::getState)
                    .isSubsetOf(Thread.State.BLOCKED, Thread.State.WAITING, Thread.State.TIMED_WAITING));
        }
        for (Thread thread : threads) {
            thread.join();
        }
        assertThat(numbers).containsExactlyInAnyOrder(2L, 3L);
        assertThat(outbox.load().messages()).hasSize(3);
    }

    /** What was published just before a close is in the outbox, and nothing uses the outbox after the close. */
    @Test
    void closeWaitsForTheOutbox() throws Exception {
        connect(builder().outbox(file()));
        List<Completion<Long>> calls = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            calls.add(client.publish(BODY));
        }
        client.close();
        for (Completion<Long> call : calls) {
            assertThat(call.isDone()).isTrue();
            call.await();
        }
        assertThat(codeOf(client.publish(BODY))).isEqualTo(ErrorCode.CLOSED);
        assertThat(file().load().messages()).hasSize(20);
    }

    /** Another client may have used the outbox between a close and the next connect. */
    @Test
    void aClientThatConnectsAgainReadsTheOutboxAnew() throws Exception {
        FakeServer.Connection connection = connect(builder().outbox(file()));
        assertThat(client.publish(BODY).await()).isEqualTo(1);
        Packet sent = connection.expect(4);
        connection.write(4, sent.seq, 0, "");
        assertThat(Recorder.next(recorder.published).number()).isEqualTo(1);
        client.close();
        FileOutbox other = file();
        other.add(new OutboxMessage(2, 1000, BODY));
        Completion<Void> connected = client.connect();
        connection = server.session();
        connected.await();
        assertThat(connection.expect(1000).id).isEqualTo(sent.id + 1);
        assertThat(client.publish(BODY).await()).isEqualTo(3);
    }

    @Test
    void anOutboxThatHangsHoldsNothingElseUp() throws Exception {
        CountDownLatch go = new CountDownLatch(1);
        FakeServer.Connection connection = connect(builder().requestTimeout(50, MILLISECONDS).outbox(new OtherOutbox() {
            @Override
            public void add(OutboxMessage message) throws IOException {
                try {
                    go.await();
                } catch (InterruptedException e) {
                    throw new IOException(e);
                }
                super.add(message);
            }
        }));
        Completion<Long> first = client.publish(BODY);
        Completion<Long> second = client.publish(BODY);
        assertThat(codeOf(first)).isEqualTo(ErrorCode.TIMEOUT);
        assertThat(codeOf(second)).isEqualTo(ErrorCode.TIMEOUT);
        connection.push(1, "meanwhile");
        assertThat(recorder.nextBody()).isEqualTo("meanwhile");
        Completion<Long> last = client.publish(BODY);
        client.close();
        assertThat(codeOf(last)).isIn(ErrorCode.CLOSED, ErrorCode.TIMEOUT);
        go.countDown();
    }

    @Test
    void anOutboxThatCannotBeReadIsTriedAgain() throws Exception {
        AtomicInteger loads = new AtomicInteger();
        client = builder().outbox(new OtherOutbox() {
            @Override
            public OutboxContent load() throws IOException {
                switch (loads.incrementAndGet()) {
                    case 1:
                        throw new IOException("not now");
                    case 2:
                        return null;
                    case 3:
                        throw new IllegalStateException("a bug");
                    default:
                        return super.load();
                }
            }
        }).build();
        assertThatThrownBy(() -> client.publish(BODY).await()).isInstanceOf(ImgoException.class).hasMessageContaining("not now")
                .extracting(e -> ((ImgoException) e).code()).isEqualTo(ErrorCode.STORAGE);
        client.connect();
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.STORAGE, ImgoException::code).hasMessageContaining("returned null");
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.STORAGE, ImgoException::code).hasMessageContaining("a bug");
        server.session();
        recorder.await(State.LIVE);
        assertThat(client.publish(BODY).await()).isEqualTo(1);
        assertThat(loads).hasValue(4);
    }

    /** The outbox gets one call at a time, so further attempts wait for a reading that hangs. */
    @Test
    void aReadingThatHangsIsNotRepeated() throws Exception {
        AtomicInteger loads = new AtomicInteger();
        CountDownLatch go = new CountDownLatch(1);
        client = builder().connectTimeout(30, MILLISECONDS).outbox(new OtherOutbox() {
            @Override
            public OutboxContent load() throws IOException {
                loads.incrementAndGet();
                try {
                    go.await();
                } catch (InterruptedException e) {
                    throw new IOException(e);
                }
                return super.load();
            }
        }).build();
        Completion<Void> connected = client.connect();
        for (int i = 0; i < 3; i++) {
            assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.STORAGE, ImgoException::code).hasMessageContaining("in time");
        }
        go.countDown();
        server.session();
        connected.await();
        assertThat(loads).hasValue(1);
    }

    @Test
    void aListenerMayPublish() throws Exception {
        AtomicReference<ImgoClient> made = new AtomicReference<>();
        FakeServer.Connection connection = connect(builder().listener(new ClientListener() {
            @Override
            public void onPublished(Published published) {
                recorder.onPublished(published);
                if (published.number() < 3) {
                    made.get().publish(BODY);
                }
                throw new IllegalStateException("a listener that fails");
            }
        }));
        made.set(client);
        client.publish(BODY).await();
        long base = 0;
        for (int i = 1; i <= 3; i++) {
            Packet packet = connection.expect(4);
            base = i == 1 ? packet.id - 1 : base;
            assertThat(packet.id).isEqualTo(base + i);
            connection.write(4, packet.seq, 0, "r" + i);
            Published published = Recorder.next(recorder.published);
            assertThat(published.number()).isEqualTo(i);
            assertThat(published.error()).isNull();
            assertThat(new String(published.body(), StandardCharsets.UTF_8)).isEqualTo("r" + i);
        }
        assertThat(client.state()).isEqualTo(State.LIVE);
    }

    /** A reply to the first try is no message of the server, also if its operation is one that messages may have. */
    @Test
    void lateRepliesAreNoMessages() throws Exception {
        FakeServer.Connection connection = connect(builder().requestTimeout(200, MILLISECONDS));
        client.publish(1000, BODY).await();
        Packet first = connection.expect(1000);
        Packet second = connection.expect(1000);
        assertThat(second.id).isEqualTo(first.id);
        connection.write(1000, second.seq, 0, "reply");
        Recorder.next(recorder.published);
        connection.write(1000, first.seq, 0, "late reply");
        connection.push(1, "a message");
        assertThat(recorder.nextBody()).isEqualTo("a message");
        assertThat(recorder.published).isEmpty();
    }

    /** One message that the server does not take does not hold up those behind it. */
    @Test
    void whatIsTooLargeForTheServerLeavesTheOutbox() throws Exception {
        client = builder().outbox(file()).build();
        client.publish(new byte[17]).await();
        client.publish(new byte[16]).await();
        client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth("{\"max_body\":16}");
        Published refused = Recorder.next(recorder.published);
        assertThat(refused.number()).isEqualTo(1);
        assertThat(refused.error()).returns(ErrorCode.DENIED, ImgoException::code).returns("too_large", ImgoException::serverCode);
        Packet next = connection.expect(4);
        assertThat(next.body).hasSize(16);
        connection.write(4, next.seq, 0, "");
        assertThat(Recorder.next(recorder.published)).returns(2L, Published::number).returns(null, Published::error);
        assertThat(codeOf(client.publish(new byte[17]))).isEqualTo(ErrorCode.INVALID);
        assertThat(file().load().messages()).isEmpty();
        assertThat(client.publish(BODY).await()).as("the next number").isEqualTo(3);
    }

    @Test
    void anAbsurdRetryTimeIsBounded() throws Exception {
        FakeServer.Connection connection = connect(builder());
        client.publish(BODY).await();
        Packet packet = connection.expect(4);
        for (String retry : new String[] {"1e300", "\"soon\"", "-1"}) {
            connection.write(Protocol.OP_REFUSED, packet.seq, 0, "{\"op\":4,\"code\":\"unavailable\",\"retry_ms\":" + retry + "}");
            if (retry.equals("1e300")) {
                connection.push(0, "after the refusal");
                assertThat(recorder.nextBody()).isEqualTo("after the refusal");
                connection.close(); // a new session tries at once
                connection = server.session();
            }
            packet = connection.expect(4); // by the backoff
        }
    }

    /** The ids begin above those of an earlier process, also above those that the server has not got yet. */
    @Test
    void theBaseIsTheClockUnlessTheServerHasMore() throws Exception {
        long began = Clock.unixMicros();
        for (String reply : new String[] {"{}", "{\"published\":\"41\"}"}) {
            assertThat(firstId(reply) - 1).as(reply).isBetween(began, Clock.unixMicros());
        }
        assertThat(firstId("{\"published\":\"9223372036854775807\"}")).isEqualTo(Long.MIN_VALUE);
    }

    /** The ids begin anew if the server has more than was sent from the outbox: its file was restored, for example. */
    @Test
    void anOldOutboxBeginsAnew() throws Exception {
        long ahead = 1L << 60; // above the clock
        // How many of three messages wait, published of the server, how many of them have arrived, and the base; it was 10.
        long[][] cases = {
            {0, 13, 0, 10}, {0, 14, 0, 14}, {0, 99, 0, 99}, {2, 11, 0, 10}, {2, 12, 1, 10}, {2, 13, 0, 13}, {2, 99, 0, 99}, {3, 10, 0, 10}
        };
        for (long[] given : cases) {
            String as = Arrays.toString(given);
            MemoryOutbox outbox = new MemoryOutbox();
            outbox.setBase(ahead + 10);
            for (long number = 1; number <= 3; number++) {
                outbox.add(new OutboxMessage(number, 4, BODY));
            }
            outbox.remove(3 - given[0]);
            client = builder().outbox(outbox).build();
            client.connect();
            FakeServer.Connection connection = server.accept();
            assertThat(client.publish(BODY).await()).as(as).isEqualTo(4);
            connection.auth("{\"published\":\"" + (ahead + given[1]) + "\"}");
            for (long number = 4 - given[0]; number <= 4; number++) {
                if (number >= 4 - given[0] + given[2]) {
                    Packet packet = connection.expect(4);
                    assertThat(packet.id - ahead).as(as).isEqualTo(given[3] + number);
                    connection.write(4, packet.seq, 0, "");
                }
                assertThat(Recorder.next(recorder.published)).as(as).returns(number, Published::number).returns(null, Published::error);
            }
            client.close();
        }
    }

    /** The end of a removal is not taken for that of a new base. */
    @Test
    void anOldOutboxIsFoundDuringARemoval() throws Exception {
        AtomicBoolean hangs = new AtomicBoolean();
        CountDownLatch removing = new CountDownLatch(1);
        CountDownLatch go = new CountDownLatch(1);
        long ahead = 1L << 60;
        OtherOutbox outbox = new OtherOutbox() {
            @Override
            public void remove(long upTo) throws IOException {
                if (!hangs.get()) {
                    throw new IOException("not now");
                }
                removing.countDown();
                try {
                    go.await();
                } catch (InterruptedException e) {
                    throw new IOException(e);
                }
                super.remove(upTo);
            }
        };
        client = builder().outbox(outbox).build();
        client.publish(BODY).await();
        client.publish(BODY).await();
        client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth("{\"published\":\"" + ahead + "\"}");
        Packet packet = connection.expect(4);
        assertThat(packet.id).isEqualTo(ahead + 1);
        connection.write(4, packet.seq, 0, "");
        Recorder.next(recorder.errors);
        connection.close();
        connection = server.accept();
        hangs.set(true); // the client has read the outbox
        removing.await();
        connection.auth("{\"published\":\"" + (ahead + 50) + "\"}");
        connection.push(0, "the session has begun");
        recorder.nextBody();
        go.countDown();
        assertThat(connection.expect(4).id).isEqualTo(ahead + 52);
        assertThat(Recorder.next(recorder.published).number()).isEqualTo(1);
        assertThat(outbox.load().base()).isEqualTo(ahead + 50);
    }

    /** Returns the id of the first message of a new client. */
    private long firstId(String authReply) throws Exception {
        client = builder().build();
        client.publish(BODY).await();
        Completion<Void> connected = client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth(authReply);
        connected.await();
        long id = connection.expect(4).id;
        client.close();
        return id;
    }

    @Test
    void idsThatEndAreToldAndNotReused() throws Exception {
        client = builder().build();
        Completion<Void> connected = client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth("{\"published\":\"18446744073709551614\"}");
        connected.await();
        client.publish(BODY).await();
        client.publish(BODY).await();
        Packet packet = connection.expect(4);
        assertThat(Ids.text(packet.id)).isEqualTo("18446744073709551615");
        connection.write(4, packet.seq, 0, "");
        assertThat(Recorder.next(recorder.published).error()).isNull();
        assertThat(Recorder.next(recorder.published).error()).returns(ErrorCode.DENIED, ImgoException::code).hasMessageContaining("name");
        connection.push(1, "live");
        assertThat(recorder.nextBody()).isEqualTo("live");
    }

    @Test
    void brokenPublishedEndsTheConnection() throws Exception {
        client = builder().build();
        client.connect();
        for (String published : new String[] {"\"\"", "\"x\"", "7", "\"-1\"", "\"99999999999999999999\"", "[]"}) {
            server.accept().auth("{\"published\":" + published + "}");
            assertThat(Recorder.next(recorder.errors)).as(published).returns(ErrorCode.PROTOCOL, ImgoException::code);
        }
        server.session();
        recorder.await(State.LIVE);
    }

    @Test
    void readAndDismiss() throws Exception {
        FakeServer.Connection connection = connect(builder());
        Completion<Void> read = client.read(new long[] {-1, 7}, 5);
        Packet packet = connection.expect(Protocol.OP_READ);
        assertThat(packet.id).isEqualTo(5);
        assertThat(Bodies.ids(packet.body)).containsExactly(-1, 7);
        connection.write(25, packet.seq, 0, "");
        read.await();
        assertThat(codeOf(client.read(null, 1))).isEqualTo(ErrorCode.INVALID);
        connection.write(FakeServer.packet(Protocol.OP_DISMISS, 0, 5, Bodies.ids(new long[] {-1, 7})));
        Dismiss dismiss = Recorder.next(recorder.dismissed);
        assertThat(dismiss.ids()).containsExactly(-1, 7);
        assertThat(dismiss.upTo()).isEqualTo(5);
        assertThat(dismiss).hasToString("read elsewhere: [18446744073709551615, 7] and all up to 5");
        for (long id : new long[] {1, 5, 7, -1}) {
            assertThat(dismiss.covers(id)).as("%d", id).isTrue();
        }
        for (long id : new long[] {0, 6, 8, -2}) {
            assertThat(dismiss.covers(id)).as("%d", id).isFalse();
        }
        assertThat(new Dismiss(new long[0], 0).covers(0)).isFalse();
        assertThat(new Dismiss(new long[0], -1).covers(-2)).isTrue();
    }

    @Test
    void closeIsNotHeldUpByPublishing() throws Exception {
        FakeServer.Connection connection = connect(builder().outbox(file()));
        client.publish(BODY).await();
        connection.expect(4); // no reply comes
        client.closeAsync().get(30, SECONDS);
        assertThat(recorder.published).isEmpty();
        assertThat(file().load().messages()).hasSize(1);
    }
}
