package example;

import io.imgo.server.Push;
import io.imgo.server.PushClient;
import io.imgo.server.PushException;
import io.imgo.server.PushResult;
import java.time.Duration;
import java.util.Map;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;

/** A backend with Spring Boot: a log-in gives a token, and an order is pushed to its customer. */
@SpringBootApplication
public class Application {
    public static void main(String[] args) {
        SpringApplication.run(Application.class, args);
    }

    @Bean // Spring calls close
    PushClient imgo(@Value("${imgo.servers}") String[] servers, @Value("${imgo.api-key}") String key) {
        PushClient.Builder builder = PushClient.builder().servers(servers).timeout(Duration.ofSeconds(5));
        return (key.isEmpty() ? builder : builder.apiKey(key)).build();
    }

    record Login(String user) {}

    record Order(String user, String number, String state) {}

    @RestController
    record Controller(PushClient imgo) {
        @PostMapping("/login") // a real backend checks a password first
        Map<String, String> login(@RequestBody Login login) {
            return Map.of("token", imgo.newToken(login.user(), Duration.ofHours(24)).text());
        }

        @PostMapping("/orders")
        Map<String, String> order(@RequestBody Order order) {
            PushResult result = imgo.push(Push.toUser(order.user())
                    .body(Map.of("order", order.number(), "state", order.state()))
                    .idempotencyKey("order-" + order.number() + "-" + order.state()));
            return Map.of("message", Long.toUnsignedString(result.id()));
        }

        @ExceptionHandler
        ResponseEntity<Map<String, String>> failed(PushException e) {
            int status = e.status() >= 400 && e.status() < 500 ? 400 : 503;
            return ResponseEntity.status(status).body(Map.of("error", e.code()));
        }
    }
}
