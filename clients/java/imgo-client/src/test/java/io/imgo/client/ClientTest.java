package io.imgo.client;

import static java.util.concurrent.TimeUnit.DAYS;
import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.sun.net.httpserver.HttpServer;
import java.io.File;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The client against a server that does what the test says. */
@Timeout(120)
class ClientTest {
    private final Recorder recorder = new Recorder();
    private FakeServer server;
    private ImgoClient client;
    @TempDir
    Path folder;

    @BeforeEach
    void start() throws IOException {
        server = new FakeServer();
    }

    @AfterEach
    void stop() throws IOException {
        if (client != null) {
            client.close();
            assertThat(recorder.aliveThreads()).as("threads after close").isZero();
        }
        server.close();
    }

    private ImgoClientBuilder builder() {
        return ImgoClient.builder().address(server.address()).token("t").listener(recorder).onMessage(recorder)
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

    @Test
    void acknowledgesWhatWasHandled() throws Exception {
        FakeServer.Connection connection = connect(builder().device("laptop").rooms("a").accepts(1000));
        assertThat(connection.auth.get("device")).isEqualTo("laptop");
        assertThat(connection.auth.get("rooms")).isEqualTo(List.of("a"));
        assertThat(connection.auth.get("accepts")).isEqualTo(List.of(1000L));
        assertThat(client.session().user()).isEqualTo("u");
        connection.push(-1, "largest id");
        connection.push(0, "not kept");
        connection.write(1000, 0, 7, "other operation");
        Message first = Recorder.next(recorder.messages);
        assertThat(first.idText()).isEqualTo("18446744073709551615");
        assertThat(first.isKept()).isTrue();
        assertThat(Recorder.next(recorder.messages).isKept()).isFalse();
        assertThat(Recorder.next(recorder.messages).op()).isEqualTo(1000);
        List<Long> acks = new ArrayList<>(connection.acks());
        while (acks.size() < 2) {
            acks.addAll(connection.acks());
        }
        assertThat(acks).containsExactly(-1L, 7L);
    }

    @Test
    void aFailedMessageComesAgainAndAHandledOneDoesNot() throws Exception {
        AtomicInteger fails = new AtomicInteger(1);
        FakeServer.Connection connection = connect(builder().onMessage(m -> {
            recorder.handle(m);
            if (m.id() == 1 && fails.getAndDecrement() > 0) {
                throw new IOException("no");
            }
        }));
        connection.push(1, "a");
        connection.push(2, "b");
        assertThat(connection.acks()).containsExactly(2L);
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("handle message 1").hasMessageContaining("no")
                .returns(ErrorCode.HANDLER, ImgoException::code);
        connection.close();
        connection = server.session();
        connection.push(1, "a");
        connection.push(2, "b");
        List<Long> acks = new ArrayList<>(connection.acks());
        while (acks.size() < 2) {
            acks.addAll(connection.acks());
        }
        assertThat(acks).containsExactlyInAnyOrder(1L, 2L); // the repeated one is acknowledged again
        assertThat(List.of(recorder.nextBody(), recorder.nextBody(), recorder.nextBody())).containsExactly("a", "b", "a");
        assertThat(recorder.messages).isEmpty();
    }

    @Test
    void aStoreRemembersAcrossRestarts() throws Exception {
        File file = folder.resolve("ids").toFile();
        FakeServer.Connection connection = connect(builder().store(new FileStore(file)));
        connection.push(1, "a");
        assertThat(connection.acks()).containsExactly(1L);
        assertThat(new FileStore(file).load()).containsExactly(1L);
        client.close();
        connection = connect(builder().store(new FileStore(file)));
        connection.push(1, "a");
        connection.push(2, "b");
        List<Long> acks = new ArrayList<>(connection.acks());
        while (acks.size() < 2) {
            acks.addAll(connection.acks());
        }
        assertThat(acks).containsExactlyInAnyOrder(1L, 2L);
        assertThat(List.of(recorder.nextBody(), recorder.nextBody())).containsExactly("a", "b");
    }

    @Test
    void idsThatAreNotSavedAreNotAcknowledged() throws Exception {
        AtomicInteger fails = new AtomicInteger(2);
        List<Long> saved = Collections.synchronizedList(new ArrayList<>());
        FakeServer.Connection connection = connect(builder().store(new Store() {
            @Override
            public long[] load() throws IOException {
                if (fails.getAndDecrement() == 2) {
                    throw new IOException("not now");
                }
                return new long[0];
            }

            @Override
            public void add(long[] ids) throws IOException {
                if (fails.getAndDecrement() == 0) {
                    throw new IOException("disk full");
                }
                for (long id : ids) {
                    saved.add(id);
                }
            }
        }));
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("not now").returns(ErrorCode.STORAGE, ImgoException::code);
        connection.push(1, "a");
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("disk full").returns(ErrorCode.STORAGE, ImgoException::code);
        assertThat(connection.acks()).containsExactly(1L);
        assertThat(saved).containsExactly(1L);
    }

    @Test
    void aStoreThatHangsIsToldAndTriedAgain() throws Exception {
        CountDownLatch never = new CountDownLatch(1);
        AtomicInteger calls = new AtomicInteger();
        FakeServer.Connection connection = connect(builder().requestTimeout(50, MILLISECONDS).store(new Store() {
            @Override
            public long[] load() {
                return new long[0];
            }

            @Override
            public void add(long[] ids) throws IOException {
                if (calls.incrementAndGet() == 1) {
                    try {
                        never.await();
                    } catch (InterruptedException e) {
                        throw new IOException(e);
                    }
                }
            }
        }));
        connection.push(1, "a");
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("in time").returns(ErrorCode.STORAGE, ImgoException::code);
        assertThat(connection.acks()).containsExactly(1L);
        assertThat(calls).hasValue(2);
    }

    @Test
    void aFullQueueStopsReadingAndIsNotSilence() throws Exception {
        Semaphore go = new Semaphore(0);
        FakeServer.Connection connection = connect(builder().queue(2).heartbeatTimeout(50, MILLISECONDS).onMessage(m -> {
            go.acquire();
            recorder.handle(m);
        }));
        client.close();
        client = builder().queue(2).heartbeatTimeout(50, MILLISECONDS).onMessage(m -> {
            go.acquire();
            recorder.handle(m);
        }).build();
        client.connect();
        connection = server.accept();
        connection.auth("{\"session\":\"s\",\"user\":\"u\",\"heartbeat\":0.02,\"pending\":0}");
        byte[] body = new byte[100_000];
        CountDownLatch written = new CountDownLatch(1);
        FakeServer.Connection to = connection;
        Thread writer = new Thread(() -> {
            try {
                for (int i = 1; i <= 200; i++) {
                    to.write(FakeServer.packet(Protocol.OP_MESSAGE, 0, i, body));
                }
                written.countDown();
            } catch (IOException e) {
                // The test fails by the latch.
            }
        });
        writer.start();
        // Many heartbeats later the session is still there, and the 20 MB have not been read.
        for (int i = 0; i < 20; i++) {
            connection.expect(Protocol.OP_HEARTBEAT);
        }
        assertThat(client.state()).isEqualTo(State.LIVE);
        assertThat(written.getCount()).as("the server could not write everything").isOne();
        go.release(200);
        for (int i = 1; i <= 200; i++) {
            assertThat(Recorder.next(recorder.messages).id()).isEqualTo(i);
        }
        assertThat(written.await(30, SECONDS)).isTrue();
    }

    @Test
    void aSilentServerIsLeft() throws Exception {
        client = builder().heartbeatTimeout(30, MILLISECONDS).build();
        client.connect();
        FakeServer.Connection silent = server.accept();
        silent.auth("{\"heartbeat\":0.01}");
        silent.write(new byte[] {0, 0, 0, 24, 0, 24}); // half a header
        StateChange waiting = recorder.await(State.WAITING);
        assertThat(waiting.reason()).contains("heartbeat");
        server.session();
        recorder.await(State.LIVE);
    }

    @Test
    void aBrokenPacketEndsTheConnection() throws Exception {
        FakeServer.Connection connection = connect(builder().maxBody(100));
        connection.push(1, "x".repeat(100));
        assertThat(recorder.nextBody()).hasSize(100);
        connection.push(2, "x".repeat(101));
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.PROTOCOL, ImgoException::code).hasMessageContaining("maxBody");
        connection = server.session();
        connection.write(FakeServer.packet(Protocol.OP_RAW, 0, 0, FakeServer.packet(Protocol.OP_RAW, 0, 0, new byte[0])));
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.PROTOCOL, ImgoException::code);
        connection = server.session();
        connection.write("HTTP/1.1 400 Bad Request\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("HTTP");
    }

    @Test
    void takesABatchApart() throws Exception {
        FakeServer.Connection connection = connect(builder().queue(1));
        byte[] a = FakeServer.packet(Protocol.OP_MESSAGE, 0, 1, new byte[] {'a'});
        byte[] b = FakeServer.packet(Protocol.OP_MESSAGE, 0, 2, new byte[] {'b'});
        byte[] both = new byte[a.length + b.length];
        System.arraycopy(a, 0, both, 0, a.length);
        System.arraycopy(b, 0, both, a.length, b.length);
        connection.write(FakeServer.packet(Protocol.OP_RAW, 0, 0, both));
        assertThat(recorder.nextBody() + recorder.nextBody()).isEqualTo("ab");
    }

    @Test
    void aRefusedClientIsClosedAndMayConnectAgain() throws Exception {
        client = builder().build();
        Completion<Void> connected = client.connect();
        FakeServer.Connection connection = server.accept();
        connection.expect(Protocol.OP_AUTH);
        connection.write(Protocol.OP_DISCONNECT, 0, 0, "{\"code\":3501,\"reason\":\"the token is unknown\",\"reconnect\":false}");
        assertThatThrownBy(connected::await).isInstanceOfSatisfying(ImgoException.class, e -> {
            assertThat(e.code()).isEqualTo(ErrorCode.REFUSED);
            assertThat(e.closeCode()).isEqualTo(3501);
        }).hasMessageContaining("the token is unknown");
        StateChange closed = recorder.await(State.CLOSED);
        assertThat(closed.isFailed()).isTrue();
        assertThat(closed.code()).isEqualTo(3501);
        Completion<Void> again = client.connect();
        server.session();
        again.await();
        assertThat(client.state()).isEqualTo(State.LIVE);
    }

    @Test
    void anExpiredTokenIsReplacedOnce() throws Exception {
        AtomicInteger tokens = new AtomicInteger();
        client = builder().tokenSource(() -> "t" + tokens.incrementAndGet()).build();
        Completion<Void> connected = client.connect();
        for (int i = 1; i <= 2; i++) {
            FakeServer.Connection connection = server.accept();
            assertThat(new String(connection.expect(Protocol.OP_AUTH).body, StandardCharsets.UTF_8)).contains("\"t" + i + "\"");
            connection.write(Protocol.OP_DISCONNECT, 0, 0, "{\"code\":3502,\"reason\":\"expired\",\"reconnect\":false}");
        }
        assertThat(codeOf(connected)).isEqualTo(ErrorCode.REFUSED);
        assertThat(tokens).hasValue(2);
    }

    @Test
    void theTokenOfALiveSessionIsReplaced() throws Exception {
        AtomicInteger tokens = new AtomicInteger();
        client = builder().tokenSource(() -> {
            if (tokens.incrementAndGet() == 2) {
                throw new IOException("no token now");
            }
            return "t" + tokens;
        }).build();
        client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth("{\"expires_in\":1}");
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("no token now").returns(ErrorCode.TOKEN, ImgoException::code);
        Packet auth = connection.expect(Protocol.OP_AUTH);
        assertThat(new String(auth.body, StandardCharsets.UTF_8)).isEqualTo("{\"token\":\"t3\"}");
        connection.write(Protocol.OP_REFUSED, auth.seq, 0, "{\"op\":7,\"code\":\"forbidden\",\"reason\":\"another user\"}");
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("another user");
        auth = connection.expect(Protocol.OP_AUTH);
        connection.write(Protocol.OP_AUTH_REPLY, auth.seq, 0, "{\"expires_in\":1}");
        connection.expect(Protocol.OP_AUTH);
        assertThat(client.state()).isEqualTo(State.LIVE);
    }

    @Test
    void aTokenSourceThatHangsIsInterrupted() throws Exception {
        CountDownLatch interrupted = new CountDownLatch(1);
        client = builder().connectTimeout(50, MILLISECONDS).tokenSource(() -> {
            try {
                Thread.sleep(DAYS.toMillis(1));
            } catch (InterruptedException e) {
                interrupted.countDown();
                throw e;
            }
            return "";
        }).build();
        client.connect();
        assertThat(interrupted.await(30, SECONDS)).isTrue();
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.TOKEN, ImgoException::code);
    }

    @Test
    void followsTheAddressesOfAStoppingServer() throws Exception {
        FakeServer.Connection connection = connect(builder());
        try (FakeServer other = new FakeServer()) {
            connection.write(Protocol.OP_DISCONNECT, 0, 0,
                    "{\"code\":3001,\"reason\":\"stops\",\"addresses\":[\"127.0.0.1:1\",\"" + other.address() + "\"]}");
            StateChange waiting = recorder.await(State.WAITING);
            assertThat(waiting.code()).isEqualTo(3001);
            assertThat(waiting.retryInMillis()).isLessThanOrEqualTo(500);
            other.session();
            recorder.await(State.LIVE);
            other.close();
        }
        server.session(); // its own address again
    }

    /** The first move is soon, also after failed attempts. Further ones wait, so that servers do not send the client in circles. */
    @Test
    void onlyTheFirstMoveIsSoon() throws Exception {
        client = builder().minBackoff(1, DAYS).maxBackoff(1, DAYS).build();
        client.connect();
        server.accept().close();
        recorder.await(State.WAITING);
        client.connect();
        String move = "{\"code\":3001,\"reason\":\"stops\",\"addresses\":[\"" + server.address() + "\"]}";
        server.session().write(Protocol.OP_DISCONNECT, 0, 0, move);
        recorder.await(State.LIVE);
        assertThat(recorder.await(State.WAITING).retryInMillis()).isLessThanOrEqualTo(500);
        server.session().write(Protocol.OP_DISCONNECT, 0, 0, move);
        recorder.await(State.LIVE);
        assertThat(recorder.await(State.WAITING).retryInMillis()).isGreaterThan(500);
    }

    @Test
    void asksForTheBestNodes() throws Exception {
        try (FakeServer best = new FakeServer()) {
            BlockingQueue<String> asked = new LinkedBlockingQueue<>();
            HttpServer api = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 0);
            api.createContext("/", exchange -> {
                asked.add(exchange.getRequestURI().toString());
                byte[] answer = ("{\"addresses\":[\"" + best.address() + "\"]}").getBytes(StandardCharsets.US_ASCII);
                exchange.sendResponseHeaders(200, answer.length);
                exchange.getResponseBody().write(answer);
                exchange.close();
            });
            api.start();
            try {
                client = builder().discover("http://127.0.0.1:" + api.getAddress().getPort()).build();
                client.connect();
                best.session();
                recorder.await(State.LIVE);
                assertThat(Recorder.next(asked)).isEqualTo("/v1/nodes/best?transport=tcp");
                client.close();
            } finally {
                api.stop(0);
            }
            client = builder().discover("http://127.0.0.1:" + api.getAddress().getPort()).build();
            client.connect(); // the API is gone
            server.session();
            recorder.await(State.LIVE);
        }
    }

    @Test
    void roomsAreJoinedNowAndLater() throws Exception {
        FakeServer.Connection connection = connect(builder());
        Completion<Void> joined = client.join("a");
        Packet join = connection.expect(Protocol.OP_JOIN);
        assertThat(new String(join.body, StandardCharsets.UTF_8)).isEqualTo("a");
        connection.write(21, join.seq, 0, "");
        joined.await();
        Completion<Void> refused = client.join("b");
        connection.write(Protocol.OP_REFUSED, connection.expect(Protocol.OP_JOIN).seq, 0, "{\"op\":20,\"code\":\"forbidden\",\"reason\":\"no\"}");
        assertThatThrownBy(refused::await).isInstanceOfSatisfying(ImgoException.class, e -> {
            assertThat(e.code()).isEqualTo(ErrorCode.DENIED);
            assertThat(e.serverCode()).isEqualTo("forbidden");
        });
        assertThat(codeOf(client.join(""))).isEqualTo(ErrorCode.INVALID);
        connection.write(Protocol.OP_ROOM_CHANGED, 0, 0, "{\"room\":\"c\",\"joined\":true}");
        assertThat(Recorder.next(recorder.rooms)).returns("c", RoomChange::room).returns(true, RoomChange::isJoined);
        connection.close();
        connection = server.accept();
        connection.auth("{\"refused\":[{\"room\":\"a\",\"code\":\"forbidden\",\"reason\":\"a rule\"}]}");
        assertThat(connection.auth.get("rooms")).isEqualTo(List.of("a"));
        assertThat(Recorder.next(recorder.rooms)).returns("a", RoomChange::room).returns("forbidden", RoomChange::code);
        connection.close();
        connection = server.session();
        assertThat(connection.auth.containsKey("rooms")).isFalse();
    }

    /** The server answers a join in any case, also while it decides about the same room of the auth packet. */
    @Test
    void aJoinEndsWithItsReply() throws Exception {
        client = builder().rooms("a").build();
        client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth("{\"undecided\":[\"a\"]}");
        recorder.await(State.LIVE);
        Completion<Void> joined = client.join("a");
        Packet join = connection.expect(Protocol.OP_JOIN);
        connection.write(Protocol.OP_ROOM_CHANGED, 0, 0, "{\"room\":\"a\",\"joined\":false,\"code\":\"forbidden\",\"reason\":\"no\"}");
        assertThat(Recorder.next(recorder.rooms)).returns("a", RoomChange::room).returns("forbidden", RoomChange::code);
        connection.write(21, join.seq, 0, "");
        assertThat(codeOf(joined)).isNull();
    }

    @Test
    void roomsThatChangeDuringAuthAreAskedForAfterIt() throws Exception {
        client = builder().rooms("old").build();
        client.connect();
        FakeServer.Connection connection = server.accept();
        Packet auth = connection.expect(Protocol.OP_AUTH);
        client.join("new").await();
        client.leave("old").await();
        connection.write(Protocol.OP_AUTH_REPLY, auth.seq, 0, "{}");
        Packet join = connection.expect(Protocol.OP_JOIN);
        assertThat(new String(join.body, StandardCharsets.UTF_8)).isEqualTo("new");
        assertThat(new String(connection.expect(Protocol.OP_LEAVE).body, StandardCharsets.UTF_8)).isEqualTo("old");
        connection.write(Protocol.OP_REFUSED, join.seq, 0, "{\"code\":\"forbidden\",\"reason\":\"no\"}");
        assertThat(Recorder.next(recorder.rooms)).returns("new", RoomChange::room).returns("forbidden", RoomChange::code);
    }

    @Test
    void sendsWithReply() throws Exception {
        client = builder().requestTimeout(200, MILLISECONDS).build();
        assertThat(codeOf(client.send(new byte[0]))).isEqualTo(ErrorCode.NOT_LIVE);
        client.close();
        FakeServer.Connection connection = connect(builder().requestTimeout(200, MILLISECONDS));
        Completion<byte[]> sent = client.send(1000, new byte[] {1, 2});
        Packet packet = connection.expect(1000);
        assertThat(packet.body).containsExactly(1, 2);
        connection.write(1000, packet.seq, 0, "reply");
        assertThat(sent.await()).isEqualTo("reply".getBytes(StandardCharsets.US_ASCII));
        assertThat(codeOf(client.send(5, new byte[0]))).isEqualTo(ErrorCode.INVALID);
        assertThat(codeOf(client.send(null))).isEqualTo(ErrorCode.INVALID);
        assertThat(codeOf(client.send(1000, new byte[0]))).isEqualTo(ErrorCode.TIMEOUT);
        connection.write(1000, connection.expect(1000).seq, 0, "late"); // no message, though messages have such operations
        connection.push(1, "a message");
        assertThat(recorder.nextBody()).isEqualTo("a message");
        assertThat(connection.acks()).containsExactly(1L);
        Completion<byte[]> lost = client.send(new byte[0]);
        connection.expect(Protocol.OP_SEND);
        connection.close();
        assertThat(codeOf(lost)).isEqualTo(ErrorCode.LOST);
        assertThat(recorder.messages).isEmpty();
    }

    /** A body that the server does not take would end the connection for good. */
    @Test
    void whatIsTooLargeForTheServerIsNotSent() throws Exception {
        client = builder().ackDelay(50, MILLISECONDS).build();
        client.connect();
        FakeServer.Connection connection = server.accept();
        connection.auth("{\"max_body\":16}");
        recorder.await(State.LIVE);
        assertThatThrownBy(client.send(new byte[17])::await).hasMessageContaining("16")
                .isInstanceOfSatisfying(ImgoException.class, e -> assertThat(e.code()).isEqualTo(ErrorCode.INVALID));
        assertThat(codeOf(client.read(new long[] {1, 2, 3}, 0))).isEqualTo(ErrorCode.INVALID);
        client.send(new byte[16]);
        assertThat(connection.expect(Protocol.OP_SEND).body).hasSize(16);
        for (int i = 1; i <= 5; i++) {
            connection.push(i, "");
        }
        List<Long> acks = new ArrayList<>();
        while (acks.size() < 5) {
            List<Long> packet = connection.acks();
            assertThat(packet).hasSizeLessThanOrEqualTo(2);
            acks.addAll(packet);
        }
        assertThat(acks).containsExactly(1L, 2L, 3L, 4L, 5L);
    }

    @Test
    void openCallsHaveABound() throws Exception {
        FakeServer.Connection connection = connect(builder());
        List<Completion<byte[]>> calls = new ArrayList<>();
        for (int i = 0; i < 256; i++) {
            calls.add(client.send(new byte[0]));
        }
        assertThat(codeOf(client.send(new byte[0]))).isEqualTo(ErrorCode.TOO_MANY);
        connection.write(Protocol.OP_SEND, connection.expect(Protocol.OP_SEND).seq, 0, "");
        calls.get(0).await();
        Completion<byte[]> room = client.send(new byte[0]);
        client.close();
        assertThat(codeOf(room)).isEqualTo(ErrorCode.CLOSED);
        assertThat(codeOf(calls.get(255))).isEqualTo(ErrorCode.CLOSED);
    }

    @Test
    void closeWaitsForTheHandlerAndAcknowledges() throws Exception {
        CountDownLatch began = new CountDownLatch(1);
        Semaphore go = new Semaphore(0);
        FakeServer.Connection connection = connect(builder().ackDelay(1, DAYS).onMessage(m -> {
            began.countDown();
            go.acquire();
            recorder.handle(m);
        }));
        connection.push(1, "a");
        connection.push(2, "b");
        began.await();
        Completion<Void> closed = client.closeAsync();
        assertThat(codeOf(client.join("late"))).isEqualTo(ErrorCode.CLOSED);
        go.release(2);
        assertThat(connection.acks()).containsExactly(1L);
        connection.expectEnd();
        closed.await();
        assertThat(recorder.messages).hasSize(1);
        assertThat(recorder.await(State.CLOSED).isFailed()).isFalse();
        // The message that was not handled comes again.
        Completion<Void> again = client.connect();
        connection = server.session();
        again.await();
        connection.push(1, "a");
        connection.push(2, "b");
        assertThat(recorder.nextBody() + recorder.nextBody()).isEqualTo("ab");
    }

    @Test
    void closeDoesNotWaitForEverForAHandlerOrAServer() throws Exception {
        CountDownLatch began = new CountDownLatch(1);
        CountDownLatch interrupted = new CountDownLatch(1);
        FakeServer.Connection connection = connect(builder().closeTimeout(20, MILLISECONDS).onMessage(m -> {
            if (m.id() == 1) {
                return; // its acknowledgement gets no reply
            }
            began.countDown();
            try {
                Thread.sleep(DAYS.toMillis(1));
            } catch (InterruptedException e) {
                interrupted.countDown();
            }
        }).ackDelay(1, DAYS));
        connection.push(1, "a");
        connection.push(2, "b");
        began.await();
        client.close();
        assertThat(interrupted.await(30, SECONDS)).isTrue();
        assertThat(connection.expect(Protocol.OP_ACK).seq).isNotZero();
    }

    @Test
    void closeDuringEachStepEndsConnect() throws Exception {
        // Token source.
        client = builder().tokenSource(() -> {
            Thread.sleep(DAYS.toMillis(1));
            return "";
        }).build();
        Completion<Void> connected = client.connect();
        recorder.await(State.CONNECTING);
        client.close();
        assertThat(codeOf(connected)).isEqualTo(ErrorCode.CLOSED);
        // Auth.
        client = builder().build();
        connected = client.connect();
        server.accept().expect(Protocol.OP_AUTH);
        client.close();
        assertThat(codeOf(connected)).isEqualTo(ErrorCode.CLOSED);
        // Waiting.
        client = builder().address("127.0.0.1:1").minBackoff(1, DAYS).maxBackoff(1, DAYS).build();
        connected = client.connect();
        recorder.await(State.WAITING);
        client.close();
        assertThat(codeOf(connected)).isEqualTo(ErrorCode.CLOSED);
        assertThat(client.state()).isEqualTo(State.CLOSED);
    }

    @Test
    void connectEndsAWait() throws Exception {
        client = builder().minBackoff(1, DAYS).maxBackoff(1, DAYS).build();
        client.connect();
        server.accept().close();
        recorder.await(State.WAITING);
        Completion<Void> connected = client.connect();
        server.session();
        connected.await();
        client.connect().await(); // live already
    }

    @Test
    void aServerThatDoesNotAnswerToAuthIsLeft() throws Exception {
        client = builder().authTimeout(50, MILLISECONDS).build();
        client.connect();
        server.accept().expect(Protocol.OP_AUTH);
        assertThat(recorder.await(State.WAITING).reason()).contains("authTimeout");
        FakeServer.Connection broken = server.accept();
        broken.write(Protocol.OP_AUTH_REPLY, broken.expect(Protocol.OP_AUTH).seq, 0, "hello");
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.PROTOCOL, ImgoException::code);
        server.session();
        recorder.await(State.LIVE);
    }

    @Test
    void aHandlerMayEndLater() throws Exception {
        BlockingQueue<CompletableFuture<Void>> stages = new LinkedBlockingQueue<>();
        FakeServer.Connection connection = connect(builder().ackDelay(0, MILLISECONDS).onMessageAsync(Stages.handler(m -> {
            recorder.handle(m);
            CompletableFuture<Void> stage = new CompletableFuture<>();
            stages.add(stage);
            return stage;
        })));
        connection.push(1, "a");
        connection.push(2, "b");
        CompletableFuture<Void> first = Recorder.next(stages);
        assertThat(recorder.messages).hasSize(1); // the second one waits
        first.completeExceptionally(new IOException("no"));
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("no");
        Recorder.next(stages).complete(null);
        assertThat(connection.acks()).containsExactly(2L);
        assertThat(Stages.future(client.send(5, new byte[0])).handle((v, e) -> ((ImgoException) e).code()).get())
                .isEqualTo(ErrorCode.INVALID);
        Stages.future(client.connect()).get();
    }

    @Test
    void theHandlerRunsInTheExecutor() throws Exception {
        ExecutorService executor = Executors.newFixedThreadPool(4, work -> new Thread(work, "mine"));
        try {
            AtomicReference<String> thread = new AtomicReference<>();
            FakeServer.Connection connection = connect(builder().executor(executor).onMessage(m -> {
                thread.set(Thread.currentThread().getName());
                recorder.handle(m);
            }));
            for (int i = 1; i <= 1000; i++) {
                connection.push(i, "");
            }
            for (int i = 1; i <= 1000; i++) {
                assertThat(Recorder.next(recorder.messages).id()).isEqualTo(i);
            }
            assertThat(thread).hasValue("mine");
        } finally {
            executor.shutdown();
        }
    }

    @Test
    void anExecutorThatTakesNothingIsAFailedHandler() throws Exception {
        AtomicInteger rejected = new AtomicInteger();
        FakeServer.Connection connection = connect(builder().executor(task -> {
            rejected.incrementAndGet();
            throw new RejectedExecutionException("full");
        }));
        connection.push(1, "a");
        connection.push(2, "b");
        assertThat(Recorder.next(recorder.errors)).returns(ErrorCode.HANDLER, ImgoException::code);
        assertThat(Recorder.next(recorder.errors)).hasMessageContaining("message 2");
        assertThat(rejected).hasValue(2);
    }

    @Test
    void theListenerMayCallTheClientAndFail() throws Exception {
        AtomicReference<ImgoClient> self = new AtomicReference<>();
        List<String> log = Collections.synchronizedList(new ArrayList<>());
        client = builder().log((level, line) -> log.add(level + " " + line)).listener(new ClientListener() {
            @Override
            public void onState(StateChange change) {
                recorder.onState(change);
                if (change.state() == State.LIVE) {
                    self.get().close(); // does not wait here
                }
                throw new IllegalStateException("a bug");
            }
        }).build();
        self.set(client);
        client.connect();
        server.session();
        recorder.await(State.CLOSED);
        await().untilAsserted(() -> assertThat(log.toString()).contains("WARN the listener failed").contains("a bug"));
    }

    @Test
    void aHandlerMayCloseTheClient() throws Exception {
        AtomicReference<ImgoClient> self = new AtomicReference<>();
        client = builder().onMessage(m -> self.get().close()).build();
        self.set(client);
        client.connect();
        FakeServer.Connection connection = server.session();
        connection.push(1, "a");
        assertThat(connection.acks()).containsExactly(1L);
        recorder.await(State.CLOSED);
    }

    @Test
    void optionsAreChecked() {
        assertInvalid("address", () -> ImgoClient.builder().token("t").onMessage(m -> {}).build());
        assertInvalid("token", () -> ImgoClient.builder().address("h:1").onMessage(m -> {}).build());
        assertInvalid("onMessage", () -> ImgoClient.builder().address("h:1").token("t").build());
        assertInvalid("minBackoff", () -> builder().minBackoff(0, SECONDS));
        assertInvalid("closeTimeout", () -> builder().closeTimeout(-1, SECONDS));
        assertInvalid("authTimeout", () -> builder().authTimeout(1, null));
        assertInvalid("minBackoff", () -> builder().minBackoff(2, SECONDS).maxBackoff(1, SECONDS).build());
        assertInvalid("queue", () -> builder().queue(0));
        assertInvalid("remember", () -> builder().remember(-1));
        assertInvalid("maxBody", () -> builder().maxBody(0));
        assertInvalid("accepts", () -> builder().accepts(999));
        assertInvalid("device", () -> builder().device(""));
        assertInvalid("room", () -> builder().rooms("a\n"));
        assertInvalid("discover", () -> builder().address("tls://h:1").discover("http://h").build());
        assertThatThrownBy(() -> builder().address("ws://h:1").build())
                .isInstanceOfSatisfying(ImgoException.class, e -> assertThat(e.code()).isEqualTo(ErrorCode.UNSUPPORTED))
                .hasMessageContaining("imgo-client-okhttp");
    }

    private static void assertInvalid(String option, org.assertj.core.api.ThrowableAssert.ThrowingCallable call) {
        assertThatThrownBy(call).isInstanceOfSatisfying(ImgoException.class, e -> assertThat(e.code()).isEqualTo(ErrorCode.INVALID))
                .hasMessageContaining(option);
    }
}
