package io.imgo.client;

import io.imgo.client.internal.Json;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The JSON bodies of packets. */
final class Bodies {
    private Bodies() {}

    /** Reads an object; an empty body is an empty one. It throws IllegalArgumentException for anything else. */
    static Map<?, ?> object(byte[] body) {
        if (body.length == 0) {
            return Collections.emptyMap();
        }
        Object value = Json.parse(body);
        if (!(value instanceof Map)) {
            throw new IllegalArgumentException("the body is no JSON object");
        }
        return (Map<?, ?>) value;
    }

    static String text(Map<?, ?> object, String key) {
        Object value = object.get(key);
        return value instanceof String ? (String) value : "";
    }

    static List<String> texts(Map<?, ?> object, String key) {
        List<String> texts = new ArrayList<>();
        Object value = object.get(key);
        if (value instanceof List) {
            for (Object text : (List<?>) value) {
                if (text instanceof String) {
                    texts.add((String) text);
                }
            }
        }
        return Collections.unmodifiableList(texts);
    }

    /** Returns a number within bounds, or the default if there is none or it is not within them. */
    static double number(Map<?, ?> object, String key, double other, double least, double most) {
        Object value = object.get(key);
        if (!(value instanceof Number)) {
            return other;
        }
        double number = ((Number) value).doubleValue();
        return number >= least && number <= most ? number : other;
    }

    static byte[] auth(Options options, String token, Collection<String> rooms) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("token", token);
        if (options.device != null) {
            body.put("device", options.device);
        }
        if (options.platform != null) {
            body.put("platform", options.platform);
        }
        body.put("ack", true);
        if (!rooms.isEmpty()) {
            body.put("rooms", rooms);
        }
        if (!options.accepts.isEmpty()) {
            body.put("accepts", options.accepts);
        }
        return bytes(Json.write(body));
    }

    static byte[] newToken(String token) {
        return bytes(Json.write(Collections.singletonMap("token", token)));
    }

    static byte[] acks(List<Long> ids) {
        ByteBuffer body = ByteBuffer.allocate(8 * ids.size());
        for (Long id : ids) {
            body.putLong(id);
        }
        return body.array();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static final double MAX_EXPIRY_SECONDS = 365.0 * 24 * 3600;

    /** Returns for how many milliseconds a token is good, or 0 if it does not end. */
    static long expiry(Map<?, ?> reply) {
        Object value = reply.get("expires_in");
        double seconds = value instanceof Number ? ((Number) value).doubleValue() : 0;
        return seconds > 0 ? Math.max(1, (long) (Math.min(seconds, MAX_EXPIRY_SECONDS) * 1000)) : 0;
    }

    static Session session(Map<?, ?> reply) {
        double heartbeat = number(reply, "heartbeat", 0, 0, 24 * 3600);
        return new Session(text(reply, "session"), text(reply, "user"), heartbeat > 0 ? Math.max(10, (long) (heartbeat * 1000)) : 60_000,
                (long) number(reply, "pending", 0, 0, Long.MAX_VALUE), expiry(reply), texts(reply, "rooms"));
    }

    static RoomChange roomChange(Map<?, ?> body) {
        return new RoomChange(text(body, "room"), Boolean.TRUE.equals(body.get("joined")), text(body, "code"), text(body, "reason"));
    }
}
