package io.imgo.server;

import io.imgo.client.internal.Json;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.ConnectException;
import java.net.NoRouteToHostException;
import java.net.URI;
import java.net.UnknownHostException;
import java.net.http.HttpClient;
import java.net.http.HttpConnectTimeoutException;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.UnresolvedAddressException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Flow;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.function.Function;
import javax.net.ssl.SSLHandshakeException;

/** Calls servers over HTTP. It is safe for concurrent use. */
final class Transport {
    /** A server that did not answer is avoided for this time, if there are others. */
    private static final long AVOID_NANOS = TimeUnit.SECONDS.toNanos(1);

    private static final AtomicInteger THREADS = new AtomicInteger();

    private final List<String> servers;
    private final String apiKey;
    private final Duration timeout;
    private final int maxAnswer;
    private final ExecutorService executor;
    private final AtomicInteger turn = new AtomicInteger();
    /** For each server, the System.nanoTime() at which it failed last. */
    private final AtomicLongArray failed;
    private final Set<CompletableFuture<?>> open = ConcurrentHashMap.newKeySet();
    /** Null after close. The threads of a client end when nothing refers to it. */
    private volatile HttpClient http;

    Transport(PushClient.Builder options) {
        servers = List.copyOf(options.servers);
        apiKey = options.apiKey;
        timeout = options.timeout;
        maxAnswer = options.maxAnswer;
        failed = new AtomicLongArray(servers.size());
        for (int i = 0; i < servers.size(); i++) {
            failed.set(i, System.nanoTime() - AVOID_NANOS);
        }
        executor = Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task, "imgo push " + THREADS.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        });
        Duration connect = options.connectTimeout.compareTo(timeout) < 0 ? options.connectTimeout : timeout;
        HttpClient.Builder builder = HttpClient.newBuilder().executor(executor).connectTimeout(connect)
                .followRedirects(HttpClient.Redirect.NEVER);
        if (options.sslContext != null) {
            builder.sslContext(options.sslContext);
        }
        http = builder.build();
    }

    /**
     * Calls one server after another until one answers. body may be null. repeatable says that the call may be made again though
     * a server may have received it.
     *
     * @return the result of the answer
     */
    <T> T call(String method, String path, Object body, boolean repeatable, Function<Map<String, Object>, T> convert) {
        byte[] content = body == null ? null : Json.write(body).getBytes(StandardCharsets.UTF_8);
        int server = choose(Math.floorMod(turn.getAndIncrement(), servers.size()));
        for (int attempt = 1; ; attempt++) {
            try {
                return once(servers.get(server), method, path, content, convert);
            } catch (PushException e) {
                if (e.status() == 0) {
                    failed.set(server, System.nanoTime());
                }
                boolean again = !e.wasSent() || repeatable && e.isTransient();
                if (!again || attempt == servers.size() || http == null || PushException.INTERRUPTED.equals(e.code())) {
                    throw e;
                }
            }
            server = choose((server + 1) % servers.size());
        }
    }

    /** Returns the first server from an index on that is not avoided, or the one at the index if all are. */
    private int choose(int from) {
        long now = System.nanoTime();
        for (int i = 0; i < servers.size(); i++) {
            int at = (from + i) % servers.size();
            if (now - failed.get(at) >= AVOID_NANOS) {
                return at;
            }
        }
        return from;
    }

    private <T> T once(String server, String method, String path, byte[] content, Function<Map<String, Object>, T> convert) {
        HttpClient client = http;
        if (client == null) {
            throw closed(server, false);
        }
        String attempt = method + " " + server + path;
        Limited[] body = new Limited[1];
        CompletableFuture<HttpResponse<byte[]>> answer =
                client.sendAsync(request(server, method, path, content), info -> body[0] = new Limited(maxAnswer));
        open.add(answer);
        try {
            if (http == null) {
                answer.cancel(true); // close may have looked before
            }
            return Answers.read(server, answer.get(timeout.toMillis(), TimeUnit.MILLISECONDS), convert);
        } catch (CancellationException e) {
            throw closed(server, true);
        } catch (TimeoutException e) {
            throw late(attempt, server, e);
        } catch (ExecutionException e) {
            throw http == null ? closed(server, true) : failure(attempt, server, e.getCause());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw PushException.noAnswer(PushException.INTERRUPTED, attempt + ": the thread was interrupted", server, true, e);
        } finally {
            open.remove(answer);
            answer.cancel(true);
            if (body[0] != null) {
                body[0].cancel();
            }
        }
    }

    private static PushException closed(String server, boolean sent) {
        return PushException.noAnswer(PushException.CLOSED, "the client is closed", server, sent, null);
    }

    private HttpRequest request(String server, String method, String path, byte[] content) {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(server + path)).timeout(timeout)
                .header("Accept", "application/json");
        // Over plain HTTP the client would otherwise ask each server for HTTP/2 first.
        if (server.startsWith("http:")) {
            request.version(HttpClient.Version.HTTP_1_1);
        }
        if (apiKey != null) {
            request.header("Authorization", "Bearer " + apiKey);
        }
        if (content == null) {
            return request.method(method, HttpRequest.BodyPublishers.noBody()).build();
        }
        return request.header("Content-Type", "application/json").method(method, HttpRequest.BodyPublishers.ofByteArray(content)).build();
    }

    private PushException late(String attempt, String server, Throwable cause) {
        return PushException.noAnswer(PushException.TIMEOUT, attempt + ": no complete answer within " + timeout, server, true, cause);
    }

    private PushException failure(String attempt, String server, Throwable cause) {
        while (cause instanceof CompletionException && cause.getCause() != null) {
            cause = cause.getCause();
        }
        if (cause instanceof TooLargeException) {
            String text = attempt + ": the answer is larger than " + maxAnswer + " bytes (maxAnswer)";
            return PushException.noAnswer(PushException.PROTOCOL, text, server, true, null);
        }
        if (cause instanceof HttpTimeoutException && !(cause instanceof HttpConnectTimeoutException)) {
            return late(attempt, server, cause);
        }
        String text = cause.getMessage() == null ? cause.getClass().getSimpleName() : cause.getMessage();
        return PushException.noAnswer(PushException.LOST, attempt + ": " + text, server, !notSent(cause), cause);
    }

    /** Reports whether the connection could not be opened, so that no server has received the request. */
    private static boolean notSent(Throwable cause) {
        return cause instanceof ConnectException || cause instanceof HttpConnectTimeoutException
                || cause instanceof UnresolvedAddressException || cause instanceof UnknownHostException
                || cause instanceof NoRouteToHostException || cause instanceof SSLHandshakeException;
    }

    void close() {
        HttpClient client = http;
        http = null;
        open.forEach(call -> call.cancel(true));
        if (client instanceof AutoCloseable) { // from Java 21 on
            try {
                ((AutoCloseable) client).close();
            } catch (Exception e) {
                throw new IllegalStateException("close the HTTP client", e);
            }
        }
        executor.shutdown();
    }

    private static final class TooLargeException extends IOException {
        private static final long serialVersionUID = 1L;
    }

    /** Reads an answer up to a limit. */
    private static final class Limited implements HttpResponse.BodySubscriber<byte[]> {
        private final int limit;
        private final ByteArrayOutputStream read = new ByteArrayOutputStream();
        private final CompletableFuture<byte[]> body = new CompletableFuture<>();
        private volatile Flow.Subscription subscription;

        Limited(int limit) {
            this.limit = limit;
        }

        @Override
        public CompletionStage<byte[]> getBody() {
            return body;
        }

        @Override
        public void onSubscribe(Flow.Subscription given) {
            subscription = given;
            given.request(Long.MAX_VALUE);
        }

        @Override
        public void onNext(List<ByteBuffer> buffers) {
            for (ByteBuffer buffer : buffers) {
                if (buffer.remaining() > limit - read.size()) {
                    cancel();
                    body.completeExceptionally(new TooLargeException());
                    return;
                }
                byte[] bytes = new byte[buffer.remaining()];
                buffer.get(bytes);
                read.write(bytes, 0, bytes.length);
            }
        }

        @Override
        public void onError(Throwable cause) {
            body.completeExceptionally(cause);
        }

        @Override
        public void onComplete() {
            body.complete(read.toByteArray());
        }

        /** Ends the connection. */
        void cancel() {
            Flow.Subscription given = subscription;
            if (given != null) {
                given.cancel();
            }
        }
    }
}
