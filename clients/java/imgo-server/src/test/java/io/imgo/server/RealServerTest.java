package io.imgo.server;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;
import static org.awaitility.Awaitility.await;

import com.sun.net.httpserver.HttpServer;
import io.imgo.client.internal.Json;
import io.imgo.testing.ImgoProcess;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The push client and a real server. */
@Timeout(120)
class RealServerTest {
    private static final String SECRET = "whsec_V2hhdCBuYW1lcyBhIHNlY3JldCBpcyBub25lLg==";

    @TempDir
    Path folder;

    /** A client that speaks the protocol's JSON frames, and keeps what it gets. */
    private static final class Listener implements WebSocket.Listener {
        final BlockingQueue<Map<?, ?>> frames = new LinkedBlockingQueue<>();
        private final StringBuilder text = new StringBuilder();

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
            text.append(part);
            if (last) {
                for (Object frame : (List<?>) Json.parse(text.toString())) {
                    frames.add((Map<?, ?>) frame);
                }
                text.setLength(0);
            }
            return WebSocket.Listener.super.onText(socket, part, last);
        }

        Map<?, ?> next(long op) throws InterruptedException {
            Map<?, ?> frame = frames.poll(30, TimeUnit.SECONDS);
            assertThat(frame).isNotNull();
            assertThat(frame.get("op")).as("the operation of %s", frame).isEqualTo(op);
            return frame;
        }
    }

    private static WebSocket connect(ImgoProcess server, Listener listener, Map<String, Object> auth) throws Exception {
        WebSocket socket = HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(URI.create(server.ws()), listener)
                .get(30, TimeUnit.SECONDS);
        Map<String, Object> frame = new LinkedHashMap<>(Map.of("ver", 2, "op", 7, "seq", 1, "body", auth));
        socket.sendText(Json.write(frame), true).get(30, TimeUnit.SECONDS);
        listener.next(8);
        return socket;
    }

    @Test
    void doesEverything() throws Exception {
        try (ImgoProcess server = ImgoProcess.start(folder);
                PushClient client = PushClient.builder().server(server.http()).build()) {
            Token token = client.newToken("a/ü", Duration.ofHours(1));
            assertThat(token.expires().orElseThrow()).isBetween(Instant.now().plusSeconds(3000), Instant.now().plusSeconds(4000));

            PushResult away = client.push(Push.toUser("a/ü").body(Map.of("n", 1)).ttl(Duration.ofMinutes(5)).idempotencyKey("one"));
            assertThat(away.id()).isNotZero();
            assertThat(away.sessions()).hasValue(0);
            PushResult again = client.push(Push.toUser("a/ü").body(Map.of("n", 1)).ttl(Duration.ofMinutes(5)).idempotencyKey("one"));
            client.push(Push.toUser("reported").body(1).ref("order-17").report(Push.Report.EACH)
                    .deadlineOfEachDevice(Duration.ofMinutes(1)));
            assertThat(again.duplicate()).isTrue();
            assertThat(again.id()).isEqualTo(away.id());
            assertThat(client.user("a/ü").pending()).isEqualTo(1);

            Listener listener = new Listener();
            WebSocket socket = connect(server, listener, Map.of("token", token.text(), "device", "phone", "platform", "test", "ack", true));
            assertThat(listener.next(5).get("body")).isEqualTo(Map.of("n", 1L));

            User user = client.user("a/ü");
            assertThat(user.online()).isTrue();
            assertThat(user.devices()).extracting(User.Device::name).contains("phone");
            Session session = user.sessions().get(0);
            assertThat(List.of(session.device(), session.platform(), session.transport())).containsExactly("phone", "test", "ws");
            assertThat(client.sessions(List.of("b", "a/ü"))).containsExactly(Map.entry("b", 0), Map.entry("a/ü", 1));

            Membership membership = client.addToRoom("live://1 & 2", "a/ü");
            assertThat(membership.member()).isTrue();
            assertThat(membership.sessions()).isEqualTo(1);
            listener.next(29);
            assertThat(client.roomsOf("a/ü")).containsExactly("live://1 & 2");
            Room room = client.room("live://1 & 2");
            assertThat(room.sessions()).isEqualTo(1);
            assertThat(room.members()).extracting(Session::name).containsExactly(session.name());
            assertThat(client.room("live://1 & 2", 0).members()).isEmpty();

            client.push(Push.toRoom("live://1 & 2").text("to the room"));
            assertThat(listener.next(5).get("body")).isEqualTo("to the room");
            client.push(Push.toSessions(List.of(session.name())).bytes("to the session".getBytes(StandardCharsets.UTF_8)));
            assertThat(listener.next(5).get("body")).isEqualTo("to the session");
            client.push(Push.toAll().json("[1, 2]"));
            assertThat(listener.next(5).get("body")).isEqualTo(List.of(1L, 2L));
            PushResult many = client.push(Push.toUsers(List.of("a/ü", "b")).body("both"));
            assertThat(many.results()).hasSize(2);
            listener.next(5);
            assertThat(client.removeFromRoom("live://1 & 2", "a/ü").member()).isFalse();
            listener.next(29);

            List<BatchResult> batch = client.pushBatch(List.of(Push.toUser("a/ü").body(1), Push.toUser("").body(2)));
            assertThat(batch).extracting(BatchResult::accepted).containsExactly(true, false);
            assertThat(batch.get(1).error().code()).isEqualTo("invalid");
            assertThat(batch.get(1).error().field()).hasValue("user");
            listener.next(5);

            PushResult seen = client.push(Push.toUser("a/ü").body("seen"));
            listener.next(5);
            assertThat(client.read("a/ü", Read.ids(seen.id()))).isEqualTo(1);
            assertThat(listener.next(26).get("body")).isEqualTo(List.of(Long.toUnsignedString(seen.id())));
            client.read("a/ü", Read.upTo(seen.id()).device("phone"));
            listener.next(26);
            assertThat(client.user("a/ü").pending()).isZero();

            PushException e = catchThrowableOfType(PushException.class, () -> client.push(Push.toUser("x").body("x".repeat(100_000))));
            assertThat(e.code()).isEqualTo("too_large");
            assertThat(e.status()).isEqualTo(413);

            assertThat(client.kick("a/ü", Kick.device("laptop"))).isZero();
            assertThat(client.kick("a/ü", Kick.session(session.name()).reason("bye").code(3100))).isEqualTo(1);
            Map<?, ?> bye = listener.next(6);
            assertThat(bye.toString()).contains("3100").contains("bye");
            await().atMost(Duration.ofSeconds(30)).until(() -> !client.user("a/ü").online());
            assertThat(client.kick("a/ü")).isZero();
            socket.abort();

            client.revokeToken(token.text());
            client.revokeToken(token.text()); // may be repeated
            PushException unknown = catchThrowableOfType(PushException.class, () -> client.revokeToken(token.text() + "x"));
            assertThat(unknown.code()).isEqualTo("not_found");
            client.newToken(TokenRequest.forUser("a/ü").token("chosen").single().rooms(List.of("team-*")));
            assertThat(client.revokeTokens("a/ü", true)).isEqualTo(1);
        }
    }

    @Test
    void sendsItsApiKeyAndGoesToTheServerThatLives() throws Exception {
        String key = "d1a3f0b28c6e4795a1c0e2f4b6d80973";
        try (ImgoProcess server = ImgoProcess.start(folder, "--http-api-keys", "backend:" + key + ":0:push");
                PushClient wrong = PushClient.builder().server(server.http()).apiKey("wrong").build();
                PushClient client = PushClient.builder().server(server.http()).apiKey(key).build()) {
            PushException e = catchThrowableOfType(PushException.class, () -> wrong.push(Push.toUser("1").body(1)));
            assertThat(List.of(e.status(), e.code())).containsExactly(401, "unauthorized");
            PushException scope = catchThrowableOfType(PushException.class, () -> client.user("1"));
            assertThat(List.of(scope.status(), scope.code())).containsExactly(403, "forbidden");
            assertThat(scope).hasMessageContaining("read");

            long first = client.push(Push.toUser("1").body(1).idempotencyKey("k")).id();
            server.kill();
            PushException lost = catchThrowableOfType(PushException.class, () -> client.push(Push.toUser("1").body(1)));
            assertThat(lost.code()).isEqualTo("lost");
            server.restart();
            PushResult again = client.push(Push.toUser("1").body(1).idempotencyKey("k"));
            assertThat(again.id()).isEqualTo(first);
            assertThat(again.duplicate()).isTrue();
        }
    }

    /** The server signs what the verifier accepts. */
    @Test
    void verifiesWebhooksOfTheServer() throws Exception {
        WebhookVerifier verifier = new WebhookVerifier("whsec_T3RoZXIgc2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZQ==", SECRET);
        BlockingQueue<Object> calls = new LinkedBlockingQueue<>();
        HttpServer backend = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        backend.createContext("/", exchange -> {
            byte[] body = exchange.getRequestBody().readAllBytes();
            try {
                verifier.verify(exchange.getRequestHeaders()::getFirst, body);
                calls.add(Json.parse(body));
                byte[] answer = "{\"user\":\"7\"}".getBytes(StandardCharsets.UTF_8);
                exchange.sendResponseHeaders(200, answer.length);
                exchange.getResponseBody().write(answer);
            } catch (WebhookException e) {
                calls.add(e);
                exchange.sendResponseHeaders(401, -1);
            } finally {
                exchange.close();
            }
        });
        backend.start();
        String url = "http://127.0.0.1:" + backend.getAddress().getPort() + "/";
        try (ImgoProcess server = ImgoProcess.start(folder, "--auth-mode", "webhook", "--auth-webhook-url", url,
                        "--auth-webhook-secrets", SECRET);
                PushClient client = PushClient.builder().server(server.http()).build()) {
            WebSocket socket = connect(server, new Listener(), Map.of("device", "phone", "who", "me"));
            Object call = calls.poll(30, TimeUnit.SECONDS);
            assertThat(call).isInstanceOf(Map.class);
            assertThat(((Map<?, ?>) call).get("type")).isEqualTo("connect");
            assertThat(client.user("7").sessions()).extracting(Session::device).containsExactly("phone");
            socket.abort();
        } finally {
            backend.stop(0);
        }
    }
}
