import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.imgo.server.Push;
import io.imgo.server.PushClient;
import io.imgo.server.PushException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.Executors;

/**
 * A backend without a framework: a log-in gives a token, and a push sends a text to a user.
 *
 * <pre>
 * java -cp 'dist/*' examples/java/Backend.java http://127.0.0.1:7172 9000
 * curl -d 123 127.0.0.1:9000/login
 * curl -d hello 127.0.0.1:9000/push/123
 * </pre>
 */
class Backend {
    interface Handler {
        String answer(String rest, String body);
    }

    public static void main(String[] args) throws IOException {
        PushClient imgo = PushClient.builder().server(args[0]).build();
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1])), 0);
        // A real backend checks a password here, and who may push to whom below.
        serve(server, "/login", (rest, body) -> imgo.newToken(body, Duration.ofHours(24)).text());
        serve(server, "/push/", (user, body) -> "message " + imgo.push(Push.toUser(user).text(body)).id() + "\n");
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
        System.out.println("backend on http://127.0.0.1:" + server.getAddress().getPort());
    }

    static void serve(HttpServer server, String path, Handler handler) {
        server.createContext(path, exchange -> {
            try {
                String body = new String(exchange.getRequestBody().readNBytes(64 << 10), StandardCharsets.UTF_8);
                answer(exchange, 200, handler.answer(exchange.getRequestURI().getPath().substring(path.length()), body));
            } catch (PushException e) {
                // A wrong request is the caller's fault; anything else is a reason to try again.
                answer(exchange, e.status() >= 400 && e.status() < 500 ? 400 : 503, e.code() + "\n");
            } finally {
                exchange.close();
            }
        });
    }

    static void answer(HttpExchange exchange, int status, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
    }
}
