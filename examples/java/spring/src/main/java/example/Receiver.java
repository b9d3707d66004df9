package example;

import io.imgo.server.WebhookException;
import io.imgo.server.WebhookVerifier;
import java.io.InputStream;
import java.util.LinkedHashSet;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.http.HttpHeaders;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RestController;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/** Gets the events of a hook, and prints each of them once. It is there if HOOK_SECRET is set. */
@RestController
@ConditionalOnProperty("HOOK_SECRET")
class Receiver {
    private final LinkedHashSet<String> seen = new LinkedHashSet<>(); // a real backend stores the ids with what it does

    @PostMapping("/events")
    ResponseEntity<String> receive(@RequestHeader HttpHeaders headers, InputStream body,
            @Value("${HOOK_SECRET}") String secret) throws Exception {
        byte[] bytes = body.readNBytes(1 << 20); // the signature does not fit a part of a body
        try {
            String id = new WebhookVerifier(secret).verify(headers::getFirst, bytes);
            JsonNode event = JsonMapper.shared().readTree(bytes); // its subject is the user
            synchronized (seen) {
                if (seen.add(id)) System.out.println(String.join(" ", event.at("/type").asString(),
                        event.at("/data/ref").asString(), event.at("/subject").asString()));
                if (seen.size() > 1000) seen.remove(seen.iterator().next()); // the oldest
            }
            return ResponseEntity.noContent().build();
        } catch (WebhookException e) {
            return ResponseEntity.status(401).body(e.getMessage());
        }
    }
}
