package io.imgo.server;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import javax.net.ssl.SSLContext;

/** An HTTP server that answers as a test says, and remembers what it was asked. */
final class ScriptedServer implements AutoCloseable {
    interface Script {
        void answer(HttpExchange exchange) throws IOException, InterruptedException;
    }

    static final class Request {
        final String line;
        final String body;
        final String key;

        Request(HttpExchange exchange) throws IOException {
            line = exchange.getRequestMethod() + " " + exchange.getRequestURI();
            body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
            key = exchange.getRequestHeaders().getFirst("Authorization");
        }
    }

    final List<Request> requests = new CopyOnWriteArrayList<>();
    private final HttpServer server;
    private final ExecutorService executor = Executors.newCachedThreadPool();
    private volatile Script script;

    ScriptedServer(Script script) throws IOException {
        this(script, HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0));
    }

    /** Returns a server that speaks TLS with the key of a context. */
    static ScriptedServer withTls(SSLContext context, int status, String answer) throws IOException {
        HttpsServer server = HttpsServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.setHttpsConfigurator(new HttpsConfigurator(context));
        return new ScriptedServer(answering(status, answer), server);
    }

    private ScriptedServer(Script script, HttpServer server) {
        this.script = script;
        this.server = server;
        server.setExecutor(executor);
        server.createContext("/", exchange -> {
            try {
                requests.add(new Request(exchange));
                this.script.answer(exchange);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            } finally {
                exchange.close();
            }
        });
        server.start();
    }

    ScriptedServer(int status, String answer) throws IOException {
        this(answering(status, answer));
    }

    static Script answering(int status, String answer) {
        return exchange -> {
            byte[] bytes = answer.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(status, bytes.length == 0 ? -1 : bytes.length);
            exchange.getResponseBody().write(bytes);
        };
    }

    void then(int status, String answer) {
        script = answering(status, answer);
    }

    String address() {
        return (server instanceof HttpsServer ? "https" : "http") + "://127.0.0.1:" + server.getAddress().getPort();
    }

    @Override
    public void close() {
        executor.shutdownNow();
        server.stop(0);
    }
}
