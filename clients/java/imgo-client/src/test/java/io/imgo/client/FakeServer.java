package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import io.imgo.client.internal.Json;
import java.io.Closeable;
import java.io.DataInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import javax.net.ServerSocketFactory;

/** A server that does what the test says, on the thread of the test. Each wait has a bound. */
final class FakeServer implements Closeable {
    static final int LIMIT_MILLIS = 30_000;
    static final String REPLY = "{\"session\":\"s\",\"user\":\"u\",\"heartbeat\":60,\"pending\":0}";

    private final ServerSocket listener;
    private final List<Connection> connections = new ArrayList<>();

    FakeServer() throws IOException {
        this(ServerSocketFactory.getDefault());
    }

    FakeServer(ServerSocketFactory sockets) throws IOException {
        listener = sockets.createServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
        listener.setSoTimeout(LIMIT_MILLIS);
    }

    int port() {
        return listener.getLocalPort();
    }

    String address() {
        return "127.0.0.1:" + port();
    }

    /** Waits for the next connection. */
    Connection accept() throws IOException {
        Connection connection = new Connection(listener.accept());
        connections.add(connection);
        return connection;
    }

    /** Waits for the next connection and accepts its client. */
    Connection session() throws IOException {
        Connection connection = accept();
        connection.auth(REPLY);
        return connection;
    }

    /** Connects a client, which has to succeed, and returns its connection. */
    Connection connect(ImgoClient client) throws Exception {
        Completion<Void> connected = client.connect();
        Connection connection = session();
        connected.await();
        return connection;
    }

    @Override
    public void close() throws IOException {
        listener.close();
        for (Connection connection : connections) {
            connection.close();
        }
    }

    static final class Connection implements Closeable {
        final Socket socket;
        private final DataInputStream in;
        Map<?, ?> auth;

        Connection(Socket socket) throws IOException {
            this.socket = socket;
            socket.setSoTimeout(LIMIT_MILLIS);
            socket.setTcpNoDelay(true);
            in = new DataInputStream(socket.getInputStream());
        }

        /** Waits for the next packet of the client. */
        Packet read() throws IOException {
            byte[] header = new byte[16];
            in.readFully(header);
            int length = ByteBuffer.wrap(header).getInt();
            byte[] packet = new byte[length];
            System.arraycopy(header, 0, packet, 0, 16);
            in.readFully(packet, 16, length - 16);
            return Packet.decode(ByteBuffer.wrap(packet), 1 << 24);
        }

        /** Waits for a packet with the operation. Heartbeats before it are answered. */
        Packet expect(int op) throws IOException {
            while (true) {
                Packet packet = read();
                if (packet.op == op) {
                    return packet;
                }
                assertThat(packet.op).as("operation").isEqualTo(Protocol.OP_HEARTBEAT);
                write(3, packet.seq, 0, "");
            }
        }

        void auth(String reply) throws IOException {
            Packet packet = expect(Protocol.OP_AUTH);
            auth = (Map<?, ?>) Json.parse(packet.body);
            write(Protocol.OP_AUTH_REPLY, packet.seq, 0, reply);
        }

        void write(int op, int seq, long id, String body) throws IOException {
            write(packet(op, seq, id, body.getBytes(StandardCharsets.UTF_8)));
        }

        void write(byte[] bytes) throws IOException {
            socket.getOutputStream().write(bytes);
            socket.getOutputStream().flush();
        }

        void push(long id, String body) throws IOException {
            write(Protocol.OP_MESSAGE, 0, id, body);
        }

        /** Waits for acknowledgements and returns the ids of one packet. */
        List<Long> acks() throws IOException {
            Packet packet = expect(Protocol.OP_ACK);
            ByteBuffer body = ByteBuffer.wrap(packet.body);
            List<Long> ids = new ArrayList<>();
            while (body.hasRemaining()) {
                ids.add(body.getLong());
            }
            if (packet.seq != 0) {
                write(19, packet.seq, 0, "");
            }
            return ids;
        }

        /** Waits for the end of the connection. */
        void expectEnd() throws IOException {
            try {
                assertThat(in.read()).as("byte after the last one").isEqualTo(-1);
            } catch (java.net.SocketException e) {
                // A reset ends it as well.
            }
        }

        @Override
        public void close() throws IOException {
            socket.close();
        }
    }

    static byte[] packet(int op, int seq, long id, byte[] body) {
        ByteBuffer packet = ByteBuffer.allocate(24 + body.length);
        packet.putInt(24 + body.length).putShort((short) 24).putShort((short) 2).putInt(op).putInt(seq).putLong(id).put(body);
        return packet.array();
    }
}
