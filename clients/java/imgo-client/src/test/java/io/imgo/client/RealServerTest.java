package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import io.imgo.testing.ImgoProcess;
import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The client against a real server. */
@Timeout(300)
class RealServerTest {
    @TempDir
    Path folder;

    private final Recorder recorder = new Recorder();

    private ImgoClient client(ImgoProcess server) {
        return ImgoClient.builder().address(server.tcp()).token("ann").device("laptop").listener(recorder).onMessage(recorder)
                .threadFactory(recorder).minBackoff(20, TimeUnit.MILLISECONDS).maxBackoff(200, TimeUnit.MILLISECONDS)
                .store(new FileStore(folder.resolve("ids").toFile())).build();
    }

    private static void push(ImgoProcess server, String body) throws IOException {
        HttpURLConnection call = (HttpURLConnection) URI.create(server.http() + "/v1/push").toURL().openConnection();
        call.setRequestMethod("POST");
        call.setDoOutput(true);
        call.getOutputStream().write(("{\"user\":\"ann\",\"body\":" + body + "}").getBytes(StandardCharsets.UTF_8));
        assertThat(call.getResponseCode()).isBetween(200, 299);
        call.getInputStream().readAllBytes();
    }

    /** Kept messages that were pushed while the client was away arrive in order and once, through a kill of the server. */
    @Test
    void getsWhatWaitedThroughAKill() throws Exception {
        try (ImgoProcess server = ImgoProcess.start(folder, "--auth-mode", "none"); ImgoClient client = client(server)) {
            client.connect().await();
            assertThat(client.session().user()).isEqualTo("ann");
            push(server, "0");
            assertThat(recorder.nextBody()).isEqualTo("0");
            client.close();
            for (int i = 1; i <= 3; i++) {
                push(server, Integer.toString(i));
            }
            server.kill();
            client.connect();
            recorder.await(State.WAITING);
            server.restart();
            List<String> bodies = new ArrayList<>();
            for (int i = 1; i <= 3; i++) {
                bodies.add(recorder.nextBody());
            }
            assertThat(bodies).containsExactly("1", "2", "3");
            for (int i = 4; i < 10; i++) {
                push(server, Integer.toString(i));
                assertThat(recorder.nextBody()).isEqualTo(Integer.toString(i));
                server.kill();
                server.restart();
            }
            recorder.await(State.LIVE);
        }
        assertThat(recorder.messages).isEmpty();
        assertThat(recorder.aliveThreads()).isZero();
    }

    @Test
    void joinsRoomsAndIsRefused() throws Exception {
        try (ImgoProcess server = ImgoProcess.start(folder, "--auth-mode", "none"); ImgoClient client = client(server)) {
            client.connect().await();
            client.join("news").await();
            client.leave("news").await();
            assertThat(org.assertj.core.api.Assertions.catchThrowableOfType(ImgoException.class, () -> client.send(new byte[] {1}).await()))
                    .returns(ErrorCode.DENIED, ImgoException::code).returns("unsupported", ImgoException::serverCode);
        }
    }

    /** What one device has read goes away on another one, and waits for none of them any more. */
    @Test
    void readsOnOneDeviceAndDismissesOnAnother() throws Exception {
        Recorder other = new Recorder();
        try (ImgoProcess server = ImgoProcess.start(folder, "--auth-mode", "none"); ImgoClient client = client(server);
                ImgoClient tablet = ImgoClient.builder().address(server.tcp()).token("ann").device("tablet").listener(other)
                        .onMessage(message -> {
                            other.handle(message);
                            throw new IOException("not acknowledged by the tablet itself");
                        }).build()) {
            client.connect().await();
            tablet.connect().await();
            push(server, "1");
            push(server, "2");
            Message first = Recorder.next(recorder.messages);
            Message second = Recorder.next(recorder.messages);
            assertThat(Recorder.next(other.messages).id()).isEqualTo(first.id());
            assertThat(Recorder.next(other.messages).id()).isEqualTo(second.id());
            client.read(new long[] {first.id()}, 0).await();
            Dismiss dismiss = Recorder.next(other.dismissed);
            assertThat(dismiss.covers(first.id())).isTrue();
            assertThat(dismiss.covers(second.id())).isFalse();
            client.read(new long[0], second.id()).await();
            assertThat(Recorder.next(other.dismissed).covers(second.id())).isTrue();
            assertThat(recorder.dismissed).as("the session that has read").isEmpty();
            tablet.close();
            tablet.connect().await();
            assertThat(tablet.session().pending()).as("messages that wait for the tablet").isZero();
        }
    }

    /** No rule takes the operation, so the server refuses the message for good. */
    @Test
    void aPublishedMessageThatNobodyTakesIsTold() throws Exception {
        try (ImgoProcess server = ImgoProcess.start(folder, "--auth-mode", "none"); ImgoClient client = client(server)) {
            long number = client.publish(new byte[] {1}).await();
            client.connect().await();
            Published published = Recorder.next(recorder.published);
            assertThat(published.number()).isEqualTo(number);
            assertThat(published.error()).returns(ErrorCode.DENIED, ImgoException::code).returns("unsupported", ImgoException::serverCode);
        }
    }
}
