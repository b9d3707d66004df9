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
    private static final double MAX_EXPIRY_SECONDS = 365.0 * 24 * 3600;
    private static final double MAX_HEARTBEAT_SECONDS = 24 * 3600;
    private static final double MAX_RETRY_MILLIS = 24 * 3600 * 1000.0;
    private static final long MIN_HEARTBEAT_MILLIS = 10;
    private static final long DEFAULT_HEARTBEAT_MILLIS = 60_000;

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

    private static <T> T member(Map<?, ?> object, String key, Class<T> type) {
        Object value = object.get(key);
        if (value != null && !type.isInstance(value)) {
            throw new IllegalArgumentException("\"" + key + "\" is of another kind than it should be");
        }
        return type.cast(value);
    }

    // The following methods read a member. They throw IllegalArgumentException if it is there and of another kind.

    /** Returns a text, or an empty one if there is none. */
    static String text(Map<?, ?> object, String key) {
        String value = member(object, key, String.class);
        return value == null ? "" : value;
    }

    /** Returns a flag, or the default if there is none. */
    static boolean flag(Map<?, ?> object, String key, boolean other) {
        Boolean value = member(object, key, Boolean.class);
        return value == null ? other : value;
    }

    /** Returns a list of texts, which is empty if there is none. */
    static List<String> texts(Map<?, ?> object, String key) {
        List<String> texts = new ArrayList<>();
        for (Object text : list(object, key)) {
            if (!(text instanceof String)) {
                throw new IllegalArgumentException("\"" + key + "\" has an element that is no text");
            }
            texts.add((String) text);
        }
        return Collections.unmodifiableList(texts);
    }

    /** Returns a list, which is empty if there is none. */
    static List<?> list(Map<?, ?> object, String key) {
        List<?> value = member(object, key, List.class);
        return value == null ? Collections.emptyList() : value;
    }

    /** Returns a number between 0 and most; 0 if there is none or it is below. */
    static double number(Map<?, ?> object, String key, double most) {
        Number value = member(object, key, Number.class);
        return value == null ? 0 : Math.min(Math.max(value.doubleValue(), 0), most);
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

    static byte[] ids(long[] ids) {
        ByteBuffer body = ByteBuffer.allocate(8 * ids.length);
        for (long id : ids) {
            body.putLong(id);
        }
        return body.array();
    }

    /** Reads a list of ids. It throws IllegalArgumentException for half an id. */
    static long[] ids(byte[] body) {
        if (body.length % 8 != 0) {
            throw new IllegalArgumentException("a list of ids has " + body.length + " bytes, which is no multiple of 8");
        }
        long[] ids = new long[body.length / 8];
        ByteBuffer.wrap(body).asLongBuffer().get(ids);
        return ids;
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

    /** Returns for how many milliseconds a token is good, or 0 if it does not end. */
    static long expiry(Map<?, ?> reply) {
        double seconds = number(reply, "expires_in", MAX_EXPIRY_SECONDS);
        return seconds > 0 ? Math.max(1, Math.round(seconds * 1000)) : 0;
    }

    static Session session(Map<?, ?> reply) {
        double heartbeat = number(reply, "heartbeat", MAX_HEARTBEAT_SECONDS);
        long heartbeatMillis = heartbeat > 0 ? Math.max(MIN_HEARTBEAT_MILLIS, Math.round(heartbeat * 1000)) : DEFAULT_HEARTBEAT_MILLIS;
        return new Session(text(reply, "session"), text(reply, "user"), heartbeatMillis, (long) number(reply, "pending", Long.MAX_VALUE),
                expiry(reply), texts(reply, "rooms"), (int) number(reply, "max_body", Integer.MAX_VALUE));
    }

    /** Returns the last id of a message that the device has published, or null if there is none. */
    static Long published(Map<?, ?> reply) {
        String id = member(reply, "published", String.class);
        return id == null ? null : Ids.parse(id);
    }

    /** Returns the rooms of the auth packet that the session is not in. */
    static List<RoomChange> refused(Map<?, ?> reply) {
        List<RoomChange> refused = new ArrayList<>();
        for (Object room : list(reply, "refused")) {
            if (!(room instanceof Map)) {
                throw new IllegalArgumentException("\"refused\" has an element that is no object");
            }
            refused.add(roomChange((Map<?, ?>) room));
        }
        return refused;
    }

    static RoomChange roomChange(Map<?, ?> body) {
        String room = text(body, "room");
        if (room.isEmpty()) {
            throw new IllegalArgumentException("\"room\" is missing");
        }
        return new RoomChange(room, flag(body, "joined", false), text(body, "code"), text(body, "reason"));
    }

    /** Returns the error of a call that the server refused. A body that cannot be read gives no word and no reason. */
    static ImgoException denied(String what, byte[] body) {
        try {
            Map<?, ?> refused = object(body);
            return ImgoException.denied(what, text(refused, "code"), text(refused, "reason"));
        } catch (IllegalArgumentException e) {
            return ImgoException.denied(what, "", "");
        }
    }

    /** Returns after what time a call that the server refused may be tried again, in nanoseconds; 0 if the server does not say. */
    static long retryNanos(byte[] body) {
        try {
            return Math.round(number(object(body), "retry_ms", MAX_RETRY_MILLIS) * 1_000_000);
        } catch (IllegalArgumentException e) {
            return 0;
        }
    }
}
