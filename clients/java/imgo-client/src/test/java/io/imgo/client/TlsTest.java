package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import io.imgo.testing.Certificates;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import javax.net.ServerSocketFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** TLS against the platform's own server sockets. */
@Timeout(120)
class TlsTest {
    @TempDir
    static Path folder;

    private static SSLContext local; // its certificate is for 127.0.0.1 and localhost
    private static SSLContext other; // its certificate is for another host

    private final Recorder recorder = new Recorder();

    @BeforeAll
    static void makeKeys() throws Exception {
        local = Certificates.context(folder, "local", "san=dns:localhost,ip:127.0.0.1");
        other = Certificates.context(folder, "other", "san=dns:other.example");
    }

    private static ServerSocketFactory sockets(SSLContext context, String... protocols) {
        ServerSocketFactory factory = context.getServerSocketFactory();
        return new ServerSocketFactory() {
            @Override
            public ServerSocket createServerSocket(int port, int backlog, InetAddress address) throws IOException {
                SSLServerSocket socket = (SSLServerSocket) factory.createServerSocket(port, backlog, address);
                if (protocols.length > 0) {
                    socket.setEnabledProtocols(protocols);
                }
                return socket;
            }

            @Override
            public ServerSocket createServerSocket(int port) {
                throw new UnsupportedOperationException();
            }

            @Override
            public ServerSocket createServerSocket(int port, int backlog) {
                throw new UnsupportedOperationException();
            }
        };
    }

    private ImgoClientBuilder builder(FakeServer server) {
        return ImgoClient.builder().address("tls://" + server.address()).token("t").listener(recorder).onMessage(recorder)
                .threadFactory(recorder).minBackoff(10, TimeUnit.MILLISECONDS).maxBackoff(20, TimeUnit.MILLISECONDS).sslContext(local);
    }

    @ParameterizedTest
    @ValueSource(strings = {"TLSv1.2", "TLSv1.3"})
    void carriesMessagesBothWays(String protocol) throws Exception {
        try (FakeServer server = new FakeServer(sockets(local, protocol)); ImgoClient client = builder(server).build()) {
            Completion<Void> connected = client.connect();
            FakeServer.Connection connection = server.session();
            connected.await();
            assertThat(((SSLSocket) connection.socket).getSession().getProtocol()).isEqualTo(protocol);
            byte[] body = new byte[3_000_000]; // many records
            for (int i = 0; i < body.length; i++) {
                body[i] = (byte) (i * 31 >> 3);
            }
            connection.write(FakeServer.packet(Protocol.OP_MESSAGE, 0, 1, body));
            assertThat(Recorder.next(recorder.messages).body()).isEqualTo(body);
            assertThat(connection.acks()).containsExactly(1L);
            Completion<byte[]> sent = client.send(body);
            Packet packet = connection.expect(Protocol.OP_SEND);
            assertThat(packet.body).isEqualTo(body);
            connection.write(Protocol.OP_SEND, packet.seq, 0, "ok");
            assertThat(sent.await()).hasSize(2);
            if (protocol.equals("TLSv1.2")) {
                ((SSLSocket) connection.socket).startHandshake(); // a renegotiation
            }
            for (int i = 2; i < 200; i++) {
                connection.push(i, "x".repeat(i * 100));
                assertThat(Recorder.next(recorder.messages).id()).isEqualTo(i);
            }
            connection.close(); // says that nothing follows
            recorder.await(State.WAITING);
        }
        assertThat(recorder.aliveThreads()).isZero();
    }

    @Test
    void refusesAServerOfAnotherName() throws Exception {
        try (FakeServer server = new FakeServer(sockets(other)); ImgoClient client = builder(server).sslContext(other).build()) {
            client.connect();
            assertHandshakeFails(server);
            assertThat(recorder.await(State.WAITING).reason()).containsIgnoringCase("127.0.0.1");
        }
    }

    @Test
    void refusesACertificateThatIsNotTrusted() throws Exception {
        try (FakeServer server = new FakeServer(sockets(other)); ImgoClient client = builder(server).build()) {
            client.connect();
            assertHandshakeFails(server);
            assertThat(recorder.await(State.WAITING).reason()).contains("connect to tls://");
        }
    }

    /** The token never reaches the server. */
    private static void assertHandshakeFails(FakeServer server) throws IOException {
        try (FakeServer.Connection connection = server.accept()) {
            connection.expect(Protocol.OP_AUTH);
            throw new AssertionError("the client sent its token");
        } catch (IOException expected) {
            assertThat(expected).isNotInstanceOf(java.net.SocketTimeoutException.class);
        }
    }

    @Test
    void aServerWithoutTlsIsNoServer() throws Exception {
        try (FakeServer server = new FakeServer(); ImgoClient client = builder(server).connectTimeout(5, TimeUnit.SECONDS).build()) {
            client.connect();
            FakeServer.Connection connection = server.accept();
            connection.write("HTTP/1.1 400 Bad Request\r\n\r\n".getBytes(java.nio.charset.StandardCharsets.US_ASCII));
            assertThat(recorder.await(State.WAITING).reason()).contains("connect to tls://");
            server.accept().close();
            assertThat(recorder.await(State.WAITING).reason()).contains("connect to tls://");
        }
    }

    @Test
    void aServerThatDoesNotAnswerTheHandshakeIsLeft() throws Exception {
        try (FakeServer server = new FakeServer(); ImgoClient client = builder(server).connectTimeout(100, TimeUnit.MILLISECONDS).build()) {
            client.connect();
            server.accept();
            assertThat(recorder.await(State.WAITING).reason()).contains("connectTimeout");
        }
    }
}
