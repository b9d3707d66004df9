package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.imgo.client.internal.Json;
import io.imgo.client.spi.PacketException;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

/** The vectors that the server and every client library are tested with. */
class VectorsTest {
    private static final Path VECTORS = Path.of("..", "..", "vectors");

    @SuppressWarnings("unchecked")
    private static List<Map<String, Object>> cases(String file, String list) throws IOException {
        Map<String, Object> lists = (Map<String, Object>) Json.parse(Files.readAllBytes(VECTORS.resolve(file + ".json")));
        List<Map<String, Object>> cases = (List<Map<String, Object>>) lists.get(list);
        assertThat(cases).as("%s of %s", list, file).isNotEmpty();
        return cases;
    }

    static byte[] bytes(Object hex) {
        String text = (String) hex;
        byte[] bytes = new byte[text.length() / 2];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(text.substring(2 * i, 2 * i + 2), 16);
        }
        return bytes;
    }

    private static int number(Map<?, ?> of, String key) {
        return ((Number) of.get(key)).intValue();
    }

    private static void assertPacket(Packet packet, Map<?, ?> want, Object name) {
        assertThat(packet.op).as("%s", name).isEqualTo(number(want, "op"));
        assertThat(packet.seq).as("%s", name).isEqualTo(number(want, "seq"));
        assertThat(Ids.text(packet.id)).as("%s", name).isEqualTo(want.get("id"));
        assertThat(packet.body).as("%s", name).isEqualTo(bytes(want.get("body")));
    }

    @Test
    void decodesPacketsOfServers() throws IOException {
        for (Map<String, Object> c : cases("frames", "server")) {
            ByteBuffer in = ByteBuffer.wrap(bytes(c.get("hex")));
            assertPacket(Packet.decode(in, 1 << 20), (Map<?, ?>) c.get("packet"), c.get("name"));
            assertThat(in.hasRemaining()).isFalse();
        }
    }

    @Test
    void encodesPacketsOfClients() throws IOException {
        for (Map<String, Object> c : cases("frames", "client")) {
            Map<?, ?> packet = (Map<?, ?>) c.get("packet");
            ByteBuffer encoded = Packet.encode(number(packet, "op"), number(packet, "seq"), bytes(packet.get("body")));
            assertThat(encoded).as("%s", c.get("name")).isEqualTo(ByteBuffer.wrap(bytes(c.get("hex"))));
        }
    }

    @Test
    void findsTheFaultOfAHeader() throws IOException {
        for (Map<String, Object> c : cases("frames", "broken")) {
            Throwable error = catchThrowable(() -> Packet.length(ByteBuffer.wrap(bytes(c.get("hex"))), number(c, "max_body")));
            assertFault(error, c.get("error"), c.get("name"));
        }
    }

    private static void assertFault(Throwable error, Object want, Object name) {
        if ("incomplete".equals(want)) {
            assertThat(error).as("%s", name).isInstanceOf(EOFException.class);
            return;
        }
        assertThat(error).as("%s", name).isInstanceOf(PacketException.class);
        String text = "bad_header".equals(want) ? "has a header of|answers in HTTP" : "bad_length".equals(want) ? "less than its header" : "maxBody";
        assertThat(error.getMessage()).as("%s", name).containsPattern(text);
    }

    @Test
    void readsStreamsInAnyPieces() throws Exception {
        for (Map<String, Object> c : cases("frames", "streams")) {
            List<Packet> packets = new ArrayList<>();
            Throwable end;
            try (ServerSocket server = new ServerSocket(0); Selector selector = Selector.open();
                    SocketChannel channel = SocketChannel.open(server.getLocalSocketAddress()); Socket peer = server.accept()) {
                peer.setTcpNoDelay(true);
                channel.configureBlocking(false);
                SocketLink link = new SocketLink(channel, 1000, null);
                link.begin(selector);
                OutputStream out = peer.getOutputStream();
                for (Object read : (List<?>) c.get("reads")) {
                    out.write(bytes(read));
                    out.flush();
                    selector.select(TimeUnit.SECONDS.toMillis(10));
                    if (drain(link, packets) != null) {
                        break;
                    }
                }
                peer.shutdownOutput();
                end = drain(link, packets);
                while (end == null) {
                    assertThat(selector.select(TimeUnit.SECONDS.toMillis(10))).as("the end arrives").isPositive();
                    end = drain(link, packets);
                }
                link.close();
            }
            List<?> want = (List<?>) c.get("packets");
            assertThat(packets).as("%s", c.get("name")).hasSameSizeAs(want);
            for (int i = 0; i < packets.size(); i++) {
                assertPacket(packets.get(i), (Map<?, ?>) want.get(i), c.get("name"));
            }
            Object error = c.get("error");
            assertFault(end, error == null || error.equals("") ? "incomplete" : error, c.get("name"));
        }
    }

    /** Takes what has arrived. It returns the error that ended the link, or null. */
    private static IOException drain(SocketLink link, List<Packet> packets) {
        try {
            for (ByteBuffer bytes = link.receive(); bytes != null; bytes = link.receive()) {
                packets.add(Packet.decode(bytes, 1000));
            }
            return null;
        } catch (IOException e) {
            return e;
        }
    }

    @Test
    @SuppressWarnings("unchecked")
    void writesAuthBodies() throws IOException {
        for (Map<String, Object> c : cases("auth", "auth")) {
            Map<String, Object> given = (Map<String, Object>) c.get("options");
            ImgoClientBuilder builder = ImgoClient.builder().address("h:1").onMessage(m -> {}).token((String) given.get("token"));
            if (given.containsKey("device")) {
                builder.device((String) given.get("device"));
            }
            if (given.containsKey("platform")) {
                builder.platform((String) given.get("platform"));
            }
            builder.rooms(((List<String>) given.getOrDefault("rooms", List.of())).toArray(new String[0]));
            builder.accepts(((List<Long>) given.getOrDefault("accepts", List.of())).stream().mapToInt(Long::intValue).toArray());
            ImgoClient client = builder.build();
            byte[] body = Bodies.auth(client.options(), (String) given.get("token"), client.roomsForAuth());
            assertThat(Json.parse(body)).as("%s", c.get("name")).isEqualTo(c.get("body"));
        }
        for (Map<String, Object> c : cases("auth", "new_token")) {
            assertThat(Json.parse(Bodies.newToken((String) c.get("token")))).isEqualTo(c.get("body"));
        }
    }

    @Test
    void readsAuthReplies() throws IOException {
        for (Map<String, Object> c : cases("auth_replies", "replies")) {
            Map<?, ?> reply = Bodies.object(Bodies.bytes((String) c.get("body")));
            Session session = Bodies.session(reply);
            String name = (String) c.get("name");
            assertThat(session.id()).as(name).isEqualTo(c.get("session"));
            assertThat(session.user()).as(name).isEqualTo(c.get("user"));
            assertThat(session.heartbeatMillis()).as(name).isEqualTo(c.get("heartbeat_ms"));
            assertThat(session.pending()).as(name).isEqualTo(c.get("pending"));
            assertThat(session.expiresInMillis()).as(name).isEqualTo(c.get("expires_in_ms"));
            assertThat(session.rooms()).as(name).isEqualTo(c.get("rooms"));
            assertThat(session.maxBody()).as(name).isEqualTo(number(c, "max_body"));
            List<?> refused = (List<?>) c.get("refused");
            assertThat(Bodies.refused(reply)).as(name).hasSameSizeAs(refused);
            for (int i = 0; i < refused.size(); i++) {
                assertRoom(Bodies.refused(reply).get(i), (Map<?, ?>) refused.get(i), name);
            }
        }
        for (Map<String, Object> c : cases("auth_replies", "replies")) {
            Long published = Bodies.published(Bodies.object(Bodies.bytes((String) c.get("body"))));
            assertThat(published == null ? null : Ids.text(published)).as("%s", c.get("name")).isEqualTo(c.get("published"));
        }
        for (Map<String, Object> c : cases("auth_replies", "broken_published")) {
            assertThatThrownBy(() -> Bodies.published(Bodies.object(Bodies.bytes((String) c.get("body"))))).as("%s", c.get("name"))
                    .isInstanceOf(IllegalArgumentException.class);
        }
        for (Map<String, Object> c : cases("auth_replies", "broken")) {
            assertThatThrownBy(() -> Bodies.session(Bodies.object(Bodies.bytes((String) c.get("body"))))).as("%s", c.get("name"))
                    .isInstanceOf(IllegalArgumentException.class);
        }
    }

    private static void assertRoom(RoomChange change, Map<?, ?> want, String name) {
        assertThat(change.room()).as(name).isEqualTo(want.get("room"));
        assertThat(change.isJoined()).as(name).isEqualTo(Boolean.TRUE.equals(want.get("joined")));
        assertThat(change.code()).as(name).isEqualTo(want.get("code"));
        assertThat(change.reason()).as(name).isEqualTo(want.get("reason"));
    }

    @Test
    void readsWhyTheServerCloses() throws IOException {
        for (Map<String, Object> c : cases("close", "disconnect")) {
            SessionEnd end = SessionEnd.parse(Bodies.bytes((String) c.get("body")));
            assertThat(end.code).as("%s", c.get("name")).isEqualTo(number(c, "code"));
            assertThat(end.reason).as("%s", c.get("name")).isEqualTo(c.get("reason"));
            assertThat(end.reconnect).as("%s", c.get("name")).isEqualTo(c.get("reconnect"));
            assertThat(end.addresses).as("%s", c.get("name")).isEqualTo(c.get("addresses"));
        }
        for (Map<String, Object> c : cases("close", "websocket_close")) {
            assertThat(SessionEnd.closed(number(c, "code"), "").reconnect).as("%s", c.get("code")).isEqualTo(c.get("reconnect"));
        }
    }

    @Test
    void readsRooms() throws IOException {
        for (Map<String, Object> c : cases("rooms", "refused")) {
            ImgoException error = Bodies.denied("join", Bodies.bytes((String) c.get("body")));
            assertThat(error.code()).isEqualTo(ErrorCode.DENIED);
            assertThat(error.serverCode()).as("%s", c.get("name")).isEqualTo(c.get("server_code"));
            assertThat(error.getMessage()).as("%s", c.get("name")).contains((String) c.get("reason"));
        }
        for (Map<String, Object> c : cases("rooms", "changed")) {
            assertRoom(Bodies.roomChange(Bodies.object(Bodies.bytes((String) c.get("body")))), c, (String) c.get("name"));
        }
        for (Map<String, Object> c : cases("rooms", "broken_change")) {
            assertThatThrownBy(() -> Bodies.roomChange(Bodies.object(Bodies.bytes((String) c.get("body"))))).as("%s", c.get("name"))
                    .isInstanceOf(IllegalArgumentException.class);
        }
    }

    @Test
    void writesAcknowledgements() throws IOException {
        for (Map<String, Object> c : cases("acks", "acks")) {
            List<Long> ids = new ArrayList<>();
            for (Object id : (List<?>) c.get("ids")) {
                ids.add(Ids.parse((String) id));
            }
            assertThat(Bodies.acks(ids)).as("%s", c.get("name")).isEqualTo(bytes(c.get("hex")));
        }
    }

    private static long[] ids(Object texts) {
        return ((List<?>) texts).stream().mapToLong(id -> Ids.parse((String) id)).toArray();
    }

    private static byte[] packet(ByteBuffer encoded) {
        byte[] packet = new byte[encoded.remaining()];
        encoded.get(packet);
        return packet;
    }

    @Test
    void publishes() throws IOException {
        for (Map<String, Object> c : cases("publish", "sent")) {
            ByteBuffer sent = Packet.encode(number(c, "op"), number(c, "seq"), Ids.parse((String) c.get("id")), bytes(c.get("body")));
            assertThat(packet(sent)).as("%s", c.get("name")).isEqualTo(bytes(c.get("hex")));
        }
        for (Map<String, Object> c : cases("publish", "refused")) {
            byte[] body = Bodies.bytes((String) c.get("body"));
            ImgoException denied = Bodies.denied("publish", body);
            long retry = Bodies.retryNanos(body);
            assertThat(denied.serverCode()).as("%s", c.get("name")).isEqualTo(c.get("server_code"));
            assertThat(retry == 0 ? null : TimeUnit.NANOSECONDS.toMillis(retry)).as("%s", c.get("name")).isEqualTo(c.get("retry_ms"));
            assertThat(Publisher.isTriedAgain(denied, retry)).as("%s", c.get("name")).isEqualTo(c.get("again"));
        }
    }

    @Test
    void readsAndDismisses() throws IOException {
        for (Map<String, Object> c : cases("read", "read")) {
            ByteBuffer read = Packet.encode(Protocol.OP_READ, number(c, "seq"), Ids.parse((String) c.get("up_to")), Bodies.ids(ids(c.get("ids"))));
            assertThat(packet(read)).as("%s", c.get("name")).isEqualTo(bytes(c.get("hex")));
        }
        for (Map<String, Object> c : cases("read", "dismiss")) {
            Packet dismiss = Packet.decode(ByteBuffer.wrap(bytes(c.get("hex"))), 1000);
            assertThat(dismiss.op).isEqualTo(Protocol.OP_DISMISS);
            assertThat(Ids.text(dismiss.id)).as("%s", c.get("name")).isEqualTo(c.get("up_to"));
            assertThat(Bodies.ids(dismiss.body)).as("%s", c.get("name")).isEqualTo(ids(c.get("ids")));
        }
        for (Map<String, Object> c : cases("read", "broken_dismiss")) {
            Packet broken = Packet.decode(ByteBuffer.wrap(bytes(c.get("hex"))), 1000);
            assertThatThrownBy(() -> Bodies.ids(broken.body)).as("%s", c.get("name")).isInstanceOf(IllegalArgumentException.class);
        }
    }

    @Test
    void doublesTheBackoff() throws IOException {
        for (Map<String, Object> c : cases("backoff", "spans")) {
            long min = number(c, "min_ms");
            long max = number(c, "max_ms");
            List<Long> spans = new ArrayList<>();
            for (int i = 0; i < ((List<?>) c.get("spans_ms")).size(); i++) {
                spans.add(Engine.span(min, max, i));
            }
            assertThat(spans).isEqualTo(c.get("spans_ms"));
            assertThat(Engine.span(min, max, 1000)).isEqualTo(number(c, "span_of_attempt_1000_ms"));
        }
    }

    @Test
    void readsAddresses() throws IOException {
        for (Map<String, Object> c : cases("addresses", "own")) {
            Address address = Address.parse((String) c.get("address"));
            assertThat(address).hasToString((String) c.get("url"));
            assertThat(address.scheme).isEqualTo(c.get("scheme"));
            assertThat(address.host).isEqualTo(c.get("host"));
            assertThat(address.port).isEqualTo(number(c, "port"));
            assertThat(address.path).isEqualTo(c.get("path"));
            assertThat(address.secure()).isEqualTo(c.get("tls"));
        }
        for (Map<String, Object> c : cases("addresses", "invalid")) {
            assertThatThrownBy(() -> Address.parse((String) c.get("address"))).as("%s", c.get("address"))
                    .isInstanceOfSatisfying(ImgoException.class, e -> assertThat(e.code()).isEqualTo(ErrorCode.INVALID))
                    .hasMessageContaining("address");
        }
        for (Map<String, Object> c : cases("addresses", "others")) {
            Address other = Address.parse((String) c.get("own")).other((String) c.get("other"));
            assertThat(other == null ? null : other.toString()).as("%s", c).isEqualTo(c.get("url"));
        }
        for (Map<String, Object> c : cases("addresses", "routes")) {
            Route route = new Route(Address.parse((String) c.get("own")));
            List<String> given = new ArrayList<>();
            for (Object address : (List<?>) c.get("addresses")) {
                given.add((String) address);
            }
            route.begin(given);
            List<String> tries = new ArrayList<>();
            while (!route.isEmpty()) {
                tries.add(route.next().toString());
            }
            assertThat(tries).as("%s", c.get("name")).isEqualTo(c.get("tries"));
        }
    }

    @Test
    void checksNames() throws IOException {
        for (Map<String, Object> c : cases("names", "valid")) {
            Names.check("room", (String) c.get("text"));
        }
        for (Map<String, Object> c : cases("names", "invalid")) {
            assertThatThrownBy(() -> Names.check("room", (String) c.get("text"))).hasMessageContaining("room");
        }
    }
}
