package io.imgo.client.okhttp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.imgo.client.ClientListener;
import io.imgo.client.Completion;
import io.imgo.client.ErrorCode;
import io.imgo.client.FileStore;
import io.imgo.client.ImgoClient;
import io.imgo.client.ImgoClientBuilder;
import io.imgo.client.ImgoException;
import io.imgo.client.Message;
import io.imgo.client.State;
import io.imgo.client.StateChange;
import io.imgo.testing.ImgoProcess;
import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import okhttp3.OkHttpClient;
import okhttp3.Response;
import okhttp3.WebSocket;
import okhttp3.WebSocketListener;
import okhttp3.mockwebserver.MockResponse;
import okhttp3.mockwebserver.MockWebServer;
import okhttp3.mockwebserver.RecordedRequest;
import okhttp3.tls.HandshakeCertificates;
import okhttp3.tls.HeldCertificate;
import okio.ByteString;
import org.awaitility.Awaitility;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(120)
class OkHttpTransportTest {
    private static final long LIMIT_SECONDS = 30;

    private final MockWebServer server = new MockWebServer();
    private final BlockingQueue<Message> messages = new LinkedBlockingQueue<>();
    private final BlockingQueue<StateChange> states = new LinkedBlockingQueue<>();
    private final BlockingQueue<ImgoException> errors = new LinkedBlockingQueue<>();
    private final List<Thread> threads = Collections.synchronizedList(new ArrayList<>());
    private ImgoClient client;

    @TempDir
    Path folder;

    /** The server's side of a WebSocket. */
    private static final class Socket extends WebSocketListener {
        final BlockingQueue<ByteString> packets = new LinkedBlockingQueue<>();
        final BlockingQueue<WebSocket> open = new LinkedBlockingQueue<>();
        private final String reply;

        Socket(String reply) {
            this.reply = reply;
        }

        @Override
        public void onOpen(WebSocket socket, Response response) {
            open.add(socket);
        }

        @Override
        public void onMessage(WebSocket socket, ByteString bytes) {
            ByteBuffer packet = bytes.asByteBuffer();
            if (packet.getInt(8) == 7) {
                socket.send(packet(8, packet.getInt(12), 0, reply));
            } else if (packet.getInt(8) == 2) {
                socket.send(packet(3, packet.getInt(12), 0, ""));
            } else {
                packets.add(bytes);
            }
        }
    }

    private static ByteString packet(int op, int seq, long id, String body) {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        ByteBuffer packet = ByteBuffer.allocate(24 + bytes.length);
        packet.putInt(24 + bytes.length).putShort((short) 24).putShort((short) 2).putInt(op).putInt(seq).putLong(id).put(bytes);
        return ByteString.of(packet.array());
    }

    private static <T> T next(BlockingQueue<T> queue) throws InterruptedException {
        T value = queue.poll(LIMIT_SECONDS, TimeUnit.SECONDS);
        assertThat(value).as("something within the limit").isNotNull();
        return value;
    }

    private StateChange await(State state) throws InterruptedException {
        while (true) {
            StateChange change = next(states);
            if (change.state() == state) {
                return change;
            }
        }
    }

    private String nextBody() throws InterruptedException {
        return new String(next(messages).body(), StandardCharsets.UTF_8);
    }

    private Socket enqueue(String reply) {
        Socket socket = new Socket(reply);
        server.enqueue(new MockResponse().withWebSocketUpgrade(socket));
        return socket;
    }

    private ImgoClientBuilder builder(String address) {
        return ImgoClient.builder().address(address).token("t").onMessage(messages::add).threadFactory(work -> {
            Thread thread = new Thread(work, "client of a test");
            thread.setDaemon(true);
            threads.add(thread);
            return thread;
        }).minBackoff(1, TimeUnit.MILLISECONDS).maxBackoff(20, TimeUnit.MILLISECONDS).listener(new ClientListener() {
            @Override
            public void onState(StateChange change) {
                states.add(change);
            }

            @Override
            public void onError(ImgoException error) {
                errors.add(error);
            }
        });
    }

    private ImgoClientBuilder builder() {
        return builder("ws://127.0.0.1:" + server.getPort());
    }

    @BeforeEach
    void start() throws IOException {
        server.start();
    }

    @AfterEach
    void stop() throws IOException {
        if (client != null) {
            client.close();
            synchronized (threads) {
                assertThat(threads).as("threads after close").noneMatch(Thread::isAlive);
            }
        }
        server.shutdown();
    }

    @Test
    void carriesMessagesBothWays() throws Exception {
        Socket socket = enqueue("{\"session\":\"s\"}");
        client = builder().build(); // finds the transport by itself
        client.connect().await();
        RecordedRequest request = server.takeRequest();
        assertThat(request.getPath()).isEqualTo("/sub");
        next(socket.open).send(packet(5, 0, 1, "a"));
        assertThat(nextBody()).isEqualTo("a");
        ByteBuffer ack = next(socket.packets).asByteBuffer();
        assertThat(ack.getInt(8)).isEqualTo(18);
        assertThat(ack.getLong(16)).isEqualTo(1);
    }

    @Test
    void takesSeveralPacketsFromOneMessage() throws Exception {
        Socket socket = enqueue("{}");
        client = builder().build();
        client.connect().await();
        ByteString a = packet(5, 0, 1, "a");
        ByteString b = packet(5, 0, 2, "b");
        byte[] both = new byte[a.size() + b.size()];
        a.asByteBuffer().get(both, 0, a.size());
        b.asByteBuffer().get(both, a.size(), b.size());
        next(socket.open).send(ByteString.of(both));
        assertThat(nextBody() + nextBody()).isEqualTo("ab");
    }

    @Test
    void anAnswerThatIsNoWebSocketIsTriedAgain() throws Exception {
        server.enqueue(new MockResponse().setResponseCode(503));
        enqueue("{}");
        client = builder().build();
        client.connect().await();
        assertThat(await(State.WAITING).reason()).contains("503");
    }

    @Test
    void closeCodesDecide() throws Exception {
        Socket first = enqueue("{}");
        Socket second = enqueue("{}");
        client = builder().build();
        client.connect().await();
        WebSocket socket = next(first.open);
        socket.send(packet(5, 0, 1, "before"));
        socket.close(3001, "the server is stopping");
        assertThat(nextBody()).isEqualTo("before"); // what came before the end is not lost
        StateChange waiting = await(State.WAITING);
        assertThat(waiting.code()).isEqualTo(3001);
        assertThat(waiting.reason()).isEqualTo("the server is stopping");
        next(second.open).close(3506, "kicked");
        StateChange closed = await(State.CLOSED);
        assertThat(closed.code()).isEqualTo(3506);
        assertThat(closed.isFailed()).isTrue();
    }

    @Test
    void textIsAgainstTheProtocol() throws Exception {
        Socket socket = enqueue("{}");
        Socket second = enqueue("{}");
        client = builder().build();
        client.connect().await();
        next(socket.open).send("[]");
        assertThat(next(errors).code()).isEqualTo(ErrorCode.PROTOCOL);
        next(second.open).send(ByteString.of(new byte[] {1, 2, 3}));
        assertThat(next(errors).code()).isEqualTo(ErrorCode.PROTOCOL);
    }

    @Test
    void aFullQueueStopsReading() throws Exception {
        Socket socket = enqueue("{\"heartbeat\":0.02}");
        Semaphore go = new Semaphore(0);
        client = builder().queue(2).heartbeatTimeout(1, TimeUnit.SECONDS).onMessage(m -> {
            go.acquire();
            messages.add(m);
        }).build();
        client.connect().await();
        WebSocket out = next(socket.open);
        String body = "x".repeat(100_000);
        for (int i = 1; i <= 150; i++) {
            assertThat(out.send(packet(5, 0, i, body))).isTrue();
        }
        // OkHttp's queue of the server does not get empty, since the client does not read. That lasts longer than heartbeatTimeout.
        Awaitility.await().during(2500, TimeUnit.MILLISECONDS).atMost(LIMIT_SECONDS, TimeUnit.SECONDS).until(() -> out.queueSize() > 1_000_000);
        assertThat(client.state()).isEqualTo(State.LIVE);
        go.release(150);
        for (int i = 1; i <= 150; i++) {
            assertThat(next(messages).id()).isEqualTo(i);
        }
        assertThat(states.stream().filter(change -> change.state() == State.WAITING)).isEmpty();
    }

    @Test
    void aSilentServerIsLeft() throws Exception {
        server.enqueue(new MockResponse().withWebSocketUpgrade(new WebSocketListener() {
            @Override
            public void onMessage(WebSocket socket, ByteString bytes) {
                if (bytes.asByteBuffer().getInt(8) == 7) {
                    socket.send(packet(8, 1, 0, "{\"heartbeat\":0.01}"));
                }
            }
        }));
        enqueue("{}");
        client = builder().heartbeatTimeout(50, TimeUnit.MILLISECONDS).build();
        client.connect().await();
        assertThat(await(State.WAITING).reason()).contains("heartbeat");
        await(State.LIVE);
    }

    @Test
    void tlsChecksTheNameOfTheServer() throws Exception {
        HeldCertificate local = new HeldCertificate.Builder().addSubjectAlternativeName("localhost").build();
        HandshakeCertificates serverSide = new HandshakeCertificates.Builder().heldCertificate(local).build();
        HandshakeCertificates clientSide = new HandshakeCertificates.Builder().addTrustedCertificate(local.certificate()).build();
        server.useHttps(serverSide.sslSocketFactory(), false);
        enqueue("{}");
        client = builder("wss://localhost:" + server.getPort()).sslContext(clientSide.sslContext()).build();
        client.connect().await();
        client.close();
        client = builder("wss://127.0.0.1:" + server.getPort()).sslContext(clientSide.sslContext()).build();
        client.connect();
        assertThat(await(State.WAITING).reason()).contains("127.0.0.1");
        client.close();
        client = builder("wss://localhost:" + server.getPort()).build(); // the platform does not trust it
        client.connect();
        assertThat(await(State.WAITING).reason()).contains("connect to wss://localhost");
    }

    @Test
    void closeEndsAConnectionThatDoesNotOpen() throws Exception {
        server.enqueue(new MockResponse().setSocketPolicy(okhttp3.mockwebserver.SocketPolicy.NO_RESPONSE));
        client = builder().build();
        Completion<Void> connected = client.connect();
        server.takeRequest();
        client.close();
        assertThatThrownBy(connected::await).isInstanceOfSatisfying(ImgoException.class, e -> assertThat(e.code()).isEqualTo(ErrorCode.CLOSED));
    }

    @Test
    void takesTimesThatOkHttpRefuses() throws Exception {
        enqueue("{}");
        client = builder().connectTimeout(365, TimeUnit.DAYS).requestTimeout(365, TimeUnit.DAYS).build();
        client.connect().await();
    }

    @Test
    void takesAClientOfTheApplication() throws Exception {
        enqueue("{}");
        OkHttpClient base = new OkHttpClient.Builder()
                .addInterceptor(chain -> chain.proceed(chain.request().newBuilder().header("X-Test", "yes").build())).build();
        client = builder().transport(new OkHttpTransport(base)).build();
        client.connect().await();
        assertThat(server.takeRequest().getHeader("X-Test")).isEqualTo("yes");
        assertThatThrownBy(() -> new OkHttpTransport(null)).hasMessageContaining("base");
    }

    @Test
    void getsWhatWaitedAtARealServer() throws Exception {
        try (ImgoProcess imgo = ImgoProcess.start(folder, "--auth-mode", "none")) {
            client = builder(imgo.ws()).token("ann").device("laptop").store(new FileStore(folder.resolve("ids").toFile())).build();
            client.connect().await();
            push(imgo, "0");
            assertThat(nextBody()).isEqualTo("0");
            client.close();
            push(imgo, "1");
            push(imgo, "2");
            imgo.kill();
            client.connect();
            await(State.WAITING);
            imgo.restart();
            assertThat(nextBody() + nextBody()).isEqualTo("12");
            client.join("news").await();
            client.close();
            assertThat(messages).isEmpty();
        }
    }

    private static void push(ImgoProcess server, String body) throws IOException {
        HttpURLConnection call = (HttpURLConnection) URI.create(server.http() + "/v1/push").toURL().openConnection();
        call.setRequestMethod("POST");
        call.setDoOutput(true);
        call.getOutputStream().write(("{\"user\":\"ann\",\"body\":" + body + "}").getBytes(StandardCharsets.UTF_8));
        assertThat(call.getResponseCode()).isBetween(200, 299);
        call.getInputStream().readAllBytes();
    }
}
