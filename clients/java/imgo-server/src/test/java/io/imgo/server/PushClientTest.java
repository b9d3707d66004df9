package io.imgo.server;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;
import static org.awaitility.Awaitility.await;

import io.imgo.client.internal.Json;
import io.imgo.testing.Certificates;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(60)
class PushClientTest {
    private static final String PUSHED = "{\"id\":\"18446744073709551615\",\"user\":\"123\",\"sessions\":1,\"duplicate\":false}";
    private static final Push PUSH = Push.toUser("123").body(1);
    private static final Push KEYED = PUSH.idempotencyKey("k");

    private final List<AutoCloseable> open = new ArrayList<>();

    @AfterEach
    void closeAll() throws Exception {
        Collections.reverse(open);
        for (AutoCloseable one : open) {
            one.close();
        }
    }

    private <T extends AutoCloseable> T closeLater(T one) {
        open.add(one);
        return one;
    }

    private ScriptedServer server(int status, String answer) throws IOException {
        return closeLater(new ScriptedServer(status, answer));
    }

    private ScriptedServer server(ScriptedServer.Script script) throws IOException {
        return closeLater(new ScriptedServer(script));
    }

    private PushClient client(String... servers) {
        return closeLater(PushClient.builder().servers(servers).apiKey("secret").build());
    }

    private static PushException error(ThrowingCallable call) {
        PushException e = catchThrowableOfType(PushException.class, call);
        assertThat(e).as("the error").isNotNull();
        return e;
    }

    /** Returns an address at which nothing listens. */
    private static String nobody() throws IOException {
        try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return "http://127.0.0.1:" + socket.getLocalPort();
        }
    }

    @Test
    void pushesToEachKindOfTarget() throws IOException {
        ScriptedServer server = server(202, PUSHED);
        PushClient client = client(server.address());
        client.push(Push.toUser("a\"ü").body(Map.of("x", Arrays.asList(1, null))).ttl(Duration.ofMillis(1500)).idempotencyKey("k"));
        client.push(Push.toUsers(List.of("a", "b")).text("hé").op(1000).kept(false));
        client.push(Push.toSessions(List.of("s")).bytes(new byte[] {1, 2}));
        client.push(Push.toSessionsOf("a", List.of("s")).json("{ \"n\": 1.50 }"));
        client.push(Push.toRoom("r").text("lost").body("t"));
        client.push(Push.toAll().body(null));
        client.push(PUSH.ref("order-17").report(Push.Report.SETTLED).deadline(Duration.ofMinutes(2)));
        client.push(PUSH.report(Push.Report.EACH).deadlineOfEachDevice(Duration.ofHours(1)));
        assertThat(server.requests).extracting(r -> r.line).containsOnly("POST /v1/push");
        assertThat(server.requests).extracting(r -> r.key).containsOnly("Bearer secret");
        assertThat(server.requests).extracting(r -> r.body).containsExactly(
                "{\"user\":\"a\\\"ü\",\"body\":{\"x\":[1,null]},\"ttl\":1.500,\"idempotency_key\":\"k\"}",
                "{\"users\":[\"a\",\"b\"],\"body_text\":\"hé\",\"op\":1000,\"kept\":false}",
                "{\"keys\":[\"s\"],\"body_base64\":\"AQI=\"}",
                "{\"user\":\"a\",\"keys\":[\"s\"],\"body\":{ \"n\": 1.50 }}",
                "{\"room\":\"r\",\"body\":\"t\"}",
                "{\"all\":true,\"body\":null}",
                "{\"user\":\"123\",\"body\":1,\"ref\":\"order-17\",\"report\":\"settled\",\"deadline\":120.000}",
                "{\"user\":\"123\",\"body\":1,\"report\":\"each\",\"deadline\":3600.000,\"deadline_if\":\"any\"}");
    }

    @Test
    void readsResults() throws IOException {
        ScriptedServer server = server(202, PUSHED);
        PushClient client = client(server.address());
        PushResult one = client.push(PUSH);
        assertThat(Long.toUnsignedString(one.id())).isEqualTo("18446744073709551615");
        assertThat(one.user()).hasValue("123");
        assertThat(one.sessions()).hasValue(1);
        assertThat(one.duplicate()).isFalse();
        assertThat(one.results()).isEmpty();

        server.then(202, "{\"sessions\":null,\"new\":[{}]}");
        PushResult room = client.push(Push.toRoom("r").body(1));
        assertThat(room.sessions()).isEmpty();
        assertThat(room.id()).isZero();
        assertThat(room.user()).isEmpty();

        server.then(202, "{\"results\":[{\"id\":\"1\",\"user\":\"a\",\"sessions\":0,\"duplicate\":true,\"dropped\":2},"
                + "{\"id\":\"0\",\"user\":\"b\",\"sessions\":0,\"duplicate\":false,\"refused\":\"mailbox_full\"}],\"sessions\":0}");
        List<PushResult> many = client.push(Push.toUsers(List.of("a", "b")).body(1)).results();
        assertThat(many).extracting(PushResult::id).containsExactly(1L, 0L);
        assertThat(many).extracting(PushResult::duplicate).containsExactly(true, false);
        assertThat(many).extracting(PushResult::dropped).containsExactly(2, 0);
        assertThat(many).extracting(PushResult::refused).containsExactly(Optional.empty(), Optional.of("mailbox_full"));
    }

    @Test
    void readsAResultForEachPushOfABatch() throws IOException {
        ScriptedServer server = server(200, "{\"results\":[{\"status\":202,\"id\":\"7\",\"user\":\"a\",\"sessions\":1,\"duplicate\":false},"
                + "{\"status\":400,\"error\":{\"code\":\"invalid\",\"message\":\"user must not be empty\",\"field\":\"user\"}}]}");
        PushClient client = client(server.address());
        List<BatchResult> results = client.pushBatch(List.of(PUSH, Push.toUser("").body(2)));
        assertThat(server.requests.get(0).body)
                .isEqualTo("{\"pushes\":[{\"user\":\"123\",\"body\":1},{\"user\":\"\",\"body\":2}]}");
        assertThat(results.get(0).accepted()).isTrue();
        assertThat(results.get(0).result().id()).isEqualTo(7);
        assertThat(results.get(1).accepted()).isFalse();
        assertThat(results.get(1).error().code()).isEqualTo("invalid");
        assertThat(results.get(1).error().field()).hasValue("user");
        assertThatThrownBy(results.get(1)::result).isSameAs(results.get(1).error());

        assertThat(error(() -> client.pushBatch(List.of(PUSH))).code()).as("a result too many").isEqualTo("protocol");
    }

    @Test
    void makesEveryOtherCall() throws IOException {
        String session = "{\"name\":\"n~1\",\"user\":\"a\",\"device\":\"phone\",\"key\":\"k\",\"global_key\":false,\"platform\":\"web\","
                + "\"address\":\"1.2.3.4:5\",\"transport\":\"ws\",\"generation\":\"v2\",\"node\":\"n\",\"since_ms\":1000,\"rooms\":[\"r\"],"
                + "\"accepts\":[]}";
        ScriptedServer server = server(200, "{\"user\":\"a/b c\",\"online\":true,\"sessions\":[" + session + "],\"devices\":[{\"device\":"
                + "\"phone\",\"online\":true,\"last_seen_ms\":2000,\"pending\":3}],\"pending\":4,\"oldest_id\":\"1\",\"newest_id\":\"2\",\"dropped\":5,"
                + "\"last_seen_ms\":0,\"since_ms\":1000}");
        PushClient client = client(server.address());
        User user = client.user("a/b c");
        assertThat(user.name()).isEqualTo("a/b c");
        assertThat(user.online()).isTrue();
        assertThat(user.pending()).isEqualTo(4);
        assertThat(user.dropped()).isEqualTo(5);
        assertThat(user.lastSeen()).isEmpty();
        assertThat(user.since()).contains(Instant.ofEpochMilli(1000));
        assertThat(user.devices().get(0).online()).isTrue();
        assertThat(user.devices()).extracting(User.Device::name, User.Device::pending, d -> d.lastSeen().orElseThrow())
                .containsExactly(org.assertj.core.groups.Tuple.tuple("phone", 3, Instant.ofEpochMilli(2000)));
        assertThat(user.sessions()).singleElement().satisfies(s -> {
            assertThat(List.of(s.name(), s.user(), s.device(), s.key(), s.platform(), s.address(), s.transport(), s.node()))
                    .containsExactly("n~1", "a", "phone", "k", "web", "1.2.3.4:5", "ws", "n");
            assertThat(s.since()).isEqualTo(Instant.ofEpochMilli(1000));
            assertThat(s.rooms()).containsExactly("r");
        });

        server.then(200, "{\"users\":[{\"user\":\"b\",\"online\":true,\"sessions\":2},{\"user\":\"a\",\"online\":false,\"sessions\":0}]}");
        assertThat(client.sessions(List.of("b", "a"))).containsExactly(Map.entry("b", 2), Map.entry("a", 0));

        server.then(200, "{\"sessions\":2}");
        assertThat(client.kick("a/b c")).isEqualTo(2);
        client.kick("a", Kick.device("phone").reason("signed out").code(3100));
        client.kick("..", Kick.session("n~1"));

        server.then(200, "{\"sessions\":3}");
        assertThat(client.read("a/b c", Read.upTo(-1).and(7, 8).device("phone"))).isEqualTo(3);
        client.read("a", Read.ids(9));

        server.then(201, "{\"token\":\"imgo_x\",\"user\":\"a\",\"expires_ms\":0}");
        Token token = client.newToken("a", Duration.ofHours(1));
        assertThat(token.text()).isEqualTo("imgo_x");
        assertThat(token.expires()).isEmpty();
        assertThat(token.toString()).doesNotContain("imgo_x");
        client.newToken(TokenRequest.forUser("a").token("t").single().rooms(List.of("team-*")));

        server.then(200, "{\"revoked\":1}");
        client.revokeToken("t");
        assertThat(client.revokeTokens("a", false)).isEqualTo(1);

        server.then(200, "{\"room\":\"live://1\",\"user\":\"a&b\",\"member\":true,\"sessions\":1,\"late\":2}");
        Membership membership = client.addToRoom("live://1", "a&b");
        assertThat(List.of(membership.room(), membership.user())).containsExactly("live://1", "a&b");
        assertThat(membership.member()).isTrue();
        assertThat(List.of(membership.sessions(), membership.late())).containsExactly(1, 2);
        client.removeFromRoom("r", "a");

        server.then(200, "{\"user\":\"a\",\"rooms\":[\"r\"],\"limit\":100}");
        assertThat(client.roomsOf("a")).containsExactly("r");

        server.then(200, "{\"room\":\"r\",\"sessions\":9,\"members\":[" + session + "]}");
        Room room = client.room("r");
        assertThat(room.name()).isEqualTo("r");
        assertThat(room.sessions()).isEqualTo(9);
        assertThat(room.members()).extracting(Session::name).containsExactly("n~1");
        client.room("r", 0);

        assertThat(server.requests).extracting(r -> r.line + " " + r.body).containsExactly(
                "GET /v1/user?user=a%2Fb+c ",
                "POST /v1/users/online {\"users\":[\"b\",\"a\"]}",
                "POST /v1/user/kick?user=a%2Fb+c {}",
                "POST /v1/user/kick?user=a {\"device\":\"phone\",\"reason\":\"signed out\",\"code\":3100}",
                "POST /v1/user/kick?user=.. {\"session\":\"n~1\"}",
                "POST /v1/user/read?user=a%2Fb+c {\"up_to\":\"18446744073709551615\",\"ids\":[\"7\",\"8\"],\"device\":\"phone\"}",
                "POST /v1/user/read?user=a {\"ids\":[\"9\"]}",
                "POST /v1/tokens {\"user\":\"a\",\"ttl\":3600.000}",
                "POST /v1/tokens {\"user\":\"a\",\"token\":\"t\",\"single\":true,\"rooms\":[\"team-*\"]}",
                "POST /v1/tokens/revoke {\"token\":\"t\",\"close\":true}",
                "POST /v1/tokens/revoke {\"user\":\"a\",\"close\":false}",
                "PUT /v1/memberships?room=live%3A%2F%2F1&user=a%26b ",
                "DELETE /v1/memberships?room=r&user=a ",
                "GET /v1/memberships?user=a ",
                "GET /v1/room?room=r&limit=100 ",
                "GET /v1/room?room=r&limit=0 ");
    }

    @Test
    void raisesTheErrorOfTheServer() throws IOException {
        ScriptedServer server = server(exchange -> {
            exchange.getResponseHeaders().set("Retry-After", "7");
            ScriptedServer.answering(429, "{\"error\":{\"code\":\"rate_limited\",\"message\":\"slow down\",\"field\":\"x\"}}").answer(exchange);
        });
        PushException e = error(() -> client(server.address()).push(PUSH));
        assertThat(e.code()).isEqualTo("rate_limited");
        assertThat(e.status()).isEqualTo(429);
        assertThat(e.field()).hasValue("x");
        assertThat(e.server()).isEqualTo(server.address());
        assertThat(e.retryAfter()).hasValue(Duration.ofSeconds(7));
        assertThat(e.mayHaveHadEffect()).isFalse();
        assertThat(e).hasMessageContaining("slow down").hasMessageNotContaining("secret");

        server.then(401, "{\"error\":{\"code\":\"unauthorized\",\"message\":\"the API key is wrong\"}}");
        assertThat(error(() -> client(server.address()).push(PUSH))).hasMessageContaining("is the API key right?");
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", "no JSON", "[1]", "null", "{\"id\":1}", "{\"id\":\"x\"}", "{\"id\":\"18446744073709551616\"}", "{\"sessions\":\"1\"}",
        "{\"sessions\":99999999999}", "{\"sessions\":1,\"sessions\":1}", "{\"duplicate\":1}", "{\"results\":{}}", "{\"results\":[1]}",
        "{\"user\":[]}"
    })
    void refusesAnAnswerThatIsNoneOfTheApi(String answer) throws IOException {
        ScriptedServer server = server(202, answer);
        PushException e = error(() -> client(server.address()).push(PUSH));
        assertThat(e.code()).isEqualTo("protocol");
        assertThat(e.mayHaveHadEffect()).isTrue();
        assertThat(server.requests).hasSize(1);
    }

    @Test
    void showsTheBeginningOfAPageThatIsNoAnswer() throws IOException {
        ScriptedServer server = server(502, "<html>Bad Gateway" + "x".repeat(10_000));
        PushException e = error(() -> client(server.address()).push(PUSH));
        assertThat(e.code()).isEqualTo("protocol");
        assertThat(e.status()).isEqualTo(502);
        assertThat(e.getMessage()).contains("Bad Gateway").hasSizeLessThan(500);
    }

    @Test
    void doesNotFollowRedirects() throws IOException {
        ScriptedServer other = server(202, PUSHED);
        ScriptedServer server = server(exchange -> {
            exchange.getResponseHeaders().set("Location", other.address() + "/v1/push");
            exchange.sendResponseHeaders(307, -1);
        });
        assertThat(error(() -> client(server.address()).push(PUSH)).status()).isEqualTo(307);
        assertThat(other.requests).isEmpty();
    }

    @Test
    void goesToAnotherServerIfOneIsNotReached() throws IOException {
        ScriptedServer server = server(202, PUSHED);
        PushClient client = client(nobody(), server.address());
        for (int i = 0; i < 4; i++) {
            client.push(PUSH);
        }
        assertThat(server.requests).hasSize(4);

        PushException e = error(() -> client(nobody(), nobody()).push(PUSH));
        assertThat(e.code()).isEqualTo("lost");
        assertThat(e.mayHaveHadEffect()).isFalse();
    }

    @Test
    void usesTheServersInTurn() throws IOException {
        ScriptedServer one = server(202, PUSHED);
        ScriptedServer two = server(202, PUSHED);
        PushClient client = client(one.address(), two.address());
        for (int i = 0; i < 6; i++) {
            client.push(PUSH);
        }
        assertThat(List.of(one.requests.size(), two.requests.size())).containsExactly(3, 3);
    }

    /** A server that reads a push and closes the connection may have accepted it. */
    @Test
    void repeatsALostPushOnlyWithAnIdempotencyKey() throws IOException {
        ScriptedServer bad = server(exchange -> exchange.close());
        ScriptedServer good = server(202, PUSHED);
        PushException e = error(() -> client(bad.address(), good.address()).push(PUSH));
        assertThat(e.code()).isEqualTo("lost");
        assertThat(e.mayHaveHadEffect()).isTrue();
        assertThat(good.requests).isEmpty();
        assertThat(bad.requests).hasSize(1);

        assertThat(client(bad.address(), good.address()).push(KEYED).id()).isEqualTo(-1);
        assertThat(bad.requests).hasSize(2);
        assertThat(good.requests).singleElement().satisfies(r -> assertThat(r.body).isEqualTo(bad.requests.get(1).body));

        error(() -> client(bad.address(), good.address()).pushBatch(List.of(KEYED, PUSH)));
        assertThat(good.requests).as("a batch with a push that has no key").hasSize(1);
        good.then(200, "{\"results\":[{\"status\":202,\"sessions\":null}]}");
        client(bad.address(), good.address()).pushBatch(List.of(KEYED));
        assertThat(good.requests).as("a batch in which each push has a key").hasSize(2);

        error(() -> client(bad.address(), good.address()).newToken("a", Duration.ofHours(1)));
        error(() -> client(bad.address(), good.address()).kick("a"));
        error(() -> client(bad.address(), good.address()).revokeToken("t"));
        assertThat(good.requests).as("calls that may act twice").hasSize(2);
    }

    @Test
    void repeatsALostCallThatOnlyAsksOrSets() throws IOException {
        ScriptedServer bad = server(exchange -> exchange.close());
        ScriptedServer good = server(200, "{\"user\":\"a\",\"rooms\":[],\"room\":\"r\",\"member\":true,\"sessions\":0,\"late\":0}");
        client(bad.address(), good.address()).addToRoom("r", "a");
        client(bad.address(), good.address()).removeFromRoom("r", "a");
        client(bad.address(), good.address()).roomsOf("a");
        good.then(200, "{\"room\":\"r\",\"sessions\":0,\"members\":[]}");
        client(bad.address(), good.address()).room("r");
        good.then(200, "{\"users\":[]}");
        client(bad.address(), good.address()).sessions(List.of("a"));
        good.then(200, "{\"user\":\"a\",\"sessions\":[],\"devices\":[],\"pending\":0,\"dropped\":0,\"last_seen_ms\":0,\"since_ms\":0}");
        client(bad.address(), good.address()).user("a");
        assertThat(good.requests).hasSize(6);
        // The HTTP client of the JDK repeats a GET once by itself, at the same server.
        assertThat(bad.requests).extracting(r -> r.line).containsAll(good.requests.stream().map(r -> r.line).collect(Collectors.toList()));
    }

    @Test
    void repeatsAPushThatTheServerCouldNotDoOnlyWithAnIdempotencyKey() throws IOException {
        ScriptedServer bad = server(503, "{\"error\":{\"code\":\"unavailable\",\"message\":\"stopping\"}}");
        ScriptedServer good = server(202, PUSHED);
        PushException e = error(() -> client(bad.address(), good.address()).push(PUSH));
        assertThat(e.code()).isEqualTo("unavailable");
        assertThat(e.mayHaveHadEffect()).isTrue();
        assertThat(good.requests).isEmpty();
        client(bad.address(), good.address()).push(KEYED);
        assertThat(good.requests).hasSize(1);

        bad.then(400, "{\"error\":{\"code\":\"invalid\",\"message\":\"ttl\"}}");
        error(() -> client(bad.address(), good.address()).push(KEYED));
        assertThat(good.requests).as("a refused push").hasSize(1);
    }

    @Test
    void triesEachServerOnce() throws IOException {
        ScriptedServer one = server(exchange -> exchange.close());
        ScriptedServer two = server(exchange -> exchange.close());
        error(() -> client(one.address(), two.address()).push(KEYED));
        assertThat(List.of(one.requests.size(), two.requests.size())).containsExactly(1, 1);
    }

    @Test
    void endsWhenNoAnswerComes() throws Exception {
        CountDownLatch end = new CountDownLatch(1);
        ScriptedServer silent = server(exchange -> end.await());
        ScriptedServer halfway = server(exchange -> {
            exchange.sendResponseHeaders(202, 100);
            exchange.getResponseBody().write('{');
            exchange.getResponseBody().flush();
            end.await();
        });
        ScriptedServer good = server(202, PUSHED);
        try {
            for (ScriptedServer server : List.of(silent, halfway)) {
                PushClient client = closeLater(PushClient.builder().server(server.address()).timeout(Duration.ofMillis(300)).build());
                PushException e = error(() -> client.push(PUSH));
                assertThat(e.code()).isEqualTo("timeout");
                assertThat(e.mayHaveHadEffect()).isTrue();
                PushClient two = closeLater(PushClient.builder().servers(server.address(), good.address())
                        .timeout(Duration.ofMillis(1000)).build());
                assertThat(two.push(KEYED).id()).isEqualTo(-1);
            }
        } finally {
            end.countDown();
        }
    }

    @Test
    void trustsOnlyItsCertificates(@TempDir Path folder) throws Exception {
        SSLContext good = Certificates.context(folder, "good", "san=ip:127.0.0.1");
        SSLContext otherHost = Certificates.context(folder, "host", "san=dns:other.example");
        ScriptedServer server = closeLater(ScriptedServer.withTls(good, 202, PUSHED));
        ScriptedServer other = closeLater(ScriptedServer.withTls(otherHost, 202, PUSHED));
        closeLater(PushClient.builder().server(server.address()).sslContext(good).build()).push(PUSH);
        assertThat(server.requests).hasSize(1);

        PushException unknown = error(() -> client(server.address()).push(PUSH));
        assertThat(unknown.code()).isEqualTo("lost");
        assertThat(unknown.mayHaveHadEffect()).isFalse();
        PushClient host = closeLater(PushClient.builder().servers(other.address(), server.address()).sslContext(otherHost).build());
        assertThat(error(() -> host.push(PUSH)).mayHaveHadEffect()).isFalse();
        assertThat(server.requests).hasSize(1);
        assertThat(other.requests).isEmpty();

        ScriptedServer plain = server(202, PUSHED);
        PushException noTls = error(() -> client(plain.address().replace("http:", "https:")).push(PUSH));
        assertThat(noTls.code()).isEqualTo("lost");
        assertThat(plain.requests).isEmpty();
    }

    /** A server that opens connections and never reads. */
    @Test
    void endsWhenAServerDoesNotRead() throws IOException {
        try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            PushClient client = closeLater(PushClient.builder().server("127.0.0.1:" + socket.getLocalPort())
                    .timeout(Duration.ofMillis(300)).build());
            assertThat(error(() -> client.push(Push.toUser("1").text("x".repeat(8 << 20)))).code()).isEqualTo("timeout");
        }
    }

    @Test
    void refusesAnAnswerThatIsTooLarge() throws IOException {
        ScriptedServer endless = server(exchange -> {
            exchange.sendResponseHeaders(202, 0);
            byte[] block = "x".repeat(1000).getBytes(StandardCharsets.UTF_8);
            for (int i = 0; i < 100_000; i++) {
                exchange.getResponseBody().write(block);
            }
        });
        PushClient client = closeLater(PushClient.builder().server(endless.address()).maxAnswer(5000).build());
        PushException e = error(() -> client.push(PUSH));
        assertThat(e.code()).isEqualTo("protocol");
        assertThat(e).hasMessageContaining("5000");

        ScriptedServer exact = server(202, PUSHED);
        closeLater(PushClient.builder().server(exact.address()).maxAnswer(PUSHED.length()).build()).push(PUSH);
        PushClient less = closeLater(PushClient.builder().server(exact.address()).maxAnswer(PUSHED.length() - 1).build());
        assertThat(error(() -> less.push(PUSH)).code()).isEqualTo("protocol");
    }

    @Test
    void endsOpenCallsWhenItIsClosed() throws Exception {
        CountDownLatch arrived = new CountDownLatch(1);
        CountDownLatch end = new CountDownLatch(1);
        ScriptedServer silent = server(exchange -> {
            arrived.countDown();
            end.await();
        });
        PushClient client = PushClient.builder().servers(silent.address(), silent.address() + "/other").build();
        CompletableFuture<PushException> call = CompletableFuture.supplyAsync(() -> error(() -> client.push(KEYED)));
        assertThat(arrived.await(30, TimeUnit.SECONDS)).isTrue();
        client.close();
        assertThat(call.get(5, TimeUnit.SECONDS).code()).isEqualTo("closed");
        end.countDown();
        PushException e = error(() -> client.push(PUSH));
        assertThat(e.code()).isEqualTo("closed");
        assertThat(e.mayHaveHadEffect()).isFalse();
        assertThat(silent.requests).hasSize(1);
        client.close();
    }

    @Test
    void leavesNoThread() throws IOException {
        ScriptedServer server = server(202, PUSHED);
        for (int i = 0; i < 5; i++) {
            try (PushClient client = PushClient.builder().server(server.address()).build()) {
                client.push(PUSH);
            }
        }
        await().atMost(Duration.ofSeconds(30)).untilAsserted(() -> {
            System.gc(); // before Java 21 the thread of an HttpClient ends when the client is collected
            assertThat(Thread.getAllStackTraces().keySet().stream().map(Thread::getName)
                    .filter(name -> name.startsWith("imgo push") || name.startsWith("HttpClient")).collect(Collectors.toList())).isEmpty();
        });
    }

    @Test
    void endsWhenItsThreadIsInterrupted() throws IOException {
        CountDownLatch end = new CountDownLatch(1);
        Thread caller = Thread.currentThread();
        ScriptedServer silent = server(exchange -> {
            caller.interrupt();
            end.await();
        });
        PushException e = error(() -> client(silent.address(), silent.address() + "/other").push(KEYED));
        assertThat(Thread.interrupted()).isTrue();
        end.countDown();
        assertThat(e.code()).isEqualTo("interrupted");
        assertThat(silent.requests).hasSize(1);
    }

    @Test
    void isSafeForManyThreads() throws Exception {
        ScriptedServer server = server(exchange -> ScriptedServer.answering(202, PUSHED).answer(exchange));
        PushClient client = client(server.address());
        List<CompletableFuture<PushResult>> calls = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            int n = i;
            calls.add(CompletableFuture.supplyAsync(() -> client.push(Push.toUser("u" + n).body(n))));
        }
        for (CompletableFuture<PushResult> call : calls) {
            assertThat(call.get(30, TimeUnit.SECONDS).sessions()).isEqualTo(OptionalInt.of(1));
        }
        assertThat(server.requests).extracting(r -> Json.parse(r.body)).doesNotHaveDuplicates().hasSize(50);
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "ftp://x", "http://", "http:// x", "http://u:p@x", "http://x?y", "http://x#y"})
    void refusesAnAddressThatIsNone(String address) {
        assertThatThrownBy(() -> PushClient.builder().server(address)).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("server");
    }

    @Test
    void refusesWrongOptionsAndArguments() throws IOException {
        PushClient client = client(nobody());
        Map<String, ThrowingCallable> calls = Map.ofEntries(
                Map.entry("server", () -> PushClient.builder().build()),
                Map.entry("apiKey", () -> PushClient.builder().apiKey("a\nb")),
                Map.entry("timeout", () -> PushClient.builder().timeout(Duration.ZERO)),
                Map.entry("connectTimeout", () -> PushClient.builder().connectTimeout(Duration.ofDays(100_000))),
                Map.entry("maxAnswer", () -> PushClient.builder().maxAnswer(0)),
                Map.entry("push", () -> client.push(null)),
                Map.entry("pushes[1]", () -> client.pushBatch(Arrays.asList(PUSH, null))),
                Map.entry("user", () -> client.user(null)),
                Map.entry("read", () -> client.read("u", null)),
                Map.entry("room", () -> client.addToRoom(null, "u")),
                Map.entry("ttl", () -> Push.toUser("u").ttl(Duration.ofNanos(1))),
                Map.entry("has no JSON", () -> Push.toUser("u").body(new Object())),
                Map.entry("no JSON", () -> Push.toUser("u").json("1},{")));
        calls.forEach((name, call) -> assertThatThrownBy(call).as(name).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining(name));
    }
}
