package io.imgo.server;

import io.imgo.client.internal.Json;
import java.math.BigDecimal;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;

/**
 * A message and its target. A Push does not change: each method returns another one.
 *
 * <p>It needs exactly one body: {@link #body}, {@link #json}, {@link #text} or {@link #bytes}; the last one counts. The
 * server checks everything else and answers with an error that names the field.
 */
public final class Push {
    private final Map<String, Object> fields;

    private Push(Map<String, Object> fields) {
        this.fields = fields;
    }

    private static Push to(String name, Object target) {
        Map<String, Object> fields = new LinkedHashMap<>();
        fields.put(name, target);
        return new Push(fields);
    }

    private Push with(String name, Object value) {
        Map<String, Object> copy = new LinkedHashMap<>(fields);
        copy.put(name, value);
        return new Push(copy);
    }

    private Push withBody(String name, Object value) {
        Map<String, Object> copy = new LinkedHashMap<>(fields);
        copy.keySet().removeAll(Arrays.asList("body", "body_text", "body_base64"));
        copy.put(name, value);
        return new Push(copy);
    }

    Map<String, Object> fields() {
        return fields;
    }

    boolean hasIdempotencyKey() {
        return fields.containsKey("idempotency_key");
    }

    /**
     * Returns a push to one user. The message waits until each device of the user has acknowledged it.
     *
     * @param user the user
     * @return the push, without a body
     */
    public static Push toUser(String user) {
        return to("user", Arguments.notNull("user", user));
    }

    /**
     * Returns a push to many users, up to 100,000.
     *
     * @param users the users
     * @return the push, without a body
     */
    public static Push toUsers(Collection<String> users) {
        return to("users", new ArrayList<>(Arguments.notNull("users", users)));
    }

    /**
     * Returns a push to sessions, by their names. Such a message is never kept.
     *
     * @param names the names that the server gave the sessions; {@link User} has them
     * @return the push, without a body
     */
    public static Push toSessions(Collection<String> names) {
        return to("keys", new ArrayList<>(Arguments.notNull("names", names)));
    }

    /**
     * Returns a push to sessions of one user, by their names or the keys that their clients chose. Such a message is never
     * kept.
     *
     * @param user the user
     * @param keys names or keys of sessions
     * @return the push, without a body
     */
    public static Push toSessionsOf(String user, Collection<String> keys) {
        return toUser(user).with("keys", new ArrayList<>(Arguments.notNull("keys", keys)));
    }

    /**
     * Returns a push to the members of a room. Such a message is never kept.
     *
     * @param room the room
     * @return the push, without a body
     */
    public static Push toRoom(String room) {
        return to("room", Arguments.notNull("room", room));
    }

    /**
     * Returns a push to everyone who is connected. Such a message is never kept.
     *
     * @return the push, without a body
     */
    public static Push toAll() {
        return to("all", true);
    }

    /**
     * Sets a JSON body from a value: a map, a list, a string, a number, a boolean or null.
     *
     * @param value the value; later changes of it have no effect
     * @return a push with this body
     * @throws IllegalArgumentException if the value has no JSON
     */
    public Push body(Object value) {
        return withBody("body", new Json.Raw(Json.write(value)));
    }

    /**
     * Sets a JSON body from a text, such as another JSON library writes. Clients get exactly this text.
     *
     * @param json the JSON
     * @return a push with this body
     * @throws IllegalArgumentException if the text is not JSON
     */
    public Push json(String json) {
        return withBody("body", new Json.Raw(Arguments.notNull("json", json)));
    }

    /**
     * Sets a body of text. Clients get its bytes in UTF-8.
     *
     * @param text the text
     * @return a push with this body
     */
    public Push text(String text) {
        return withBody("body_text", Arguments.notNull("text", text));
    }

    /**
     * Sets a body of bytes.
     *
     * @param bytes the bytes
     * @return a push with this body
     */
    public Push bytes(byte[] bytes) {
        return withBody("body_base64", Base64.getEncoder().encodeToString(Arguments.notNull("bytes", bytes)));
    }

    /**
     * Sets the operation that clients get.
     *
     * @param op 5, which is the default, or a number from 1000 on, which only sessions that accept it get
     * @return a push with this operation
     */
    public Push op(int op) {
        return with("op", op);
    }

    /**
     * Sets whether the message waits for users who are away. That is the default for users, and impossible for other targets.
     *
     * @param kept false for a message that only users who are online get
     * @return a push with this choice
     */
    public Push kept(boolean kept) {
        return with("kept", kept);
    }

    /**
     * Sets how long a kept message waits.
     *
     * @param ttl the time; the server's default and maximum are 7 days
     * @return a push with this time
     */
    public Push ttl(Duration ttl) {
        return with("ttl", seconds("ttl", ttl));
    }

    /**
     * Sets a key that makes repeated pushes count once within the server's kept.idempotency_ttl (24 hours by default). The client
     * then repeats the push at another server if the first one fails.
     *
     * @param key the key, such as {@code order-17-paid}
     * @return a push with this key
     */
    public Push idempotencyKey(String key) {
        return with("idempotency_key", Arguments.notNull("key", key));
    }

    /**
     * Sets your own name of the message. Events and lists of waiting messages have it. Kept messages only.
     *
     * @param ref the name, such as {@code order-17}
     * @return a push with this name
     */
    public Push ref(String ref) {
        return with("ref", Arguments.notNull("ref", ref));
    }

    /**
     * Sets which events tell what becomes of the message. The default is a setting of the server. Kept messages only.
     *
     * @param report the events
     * @return a push with this choice
     */
    public Push report(Report report) {
        return with("report", Arguments.notNull("report", report).name().toLowerCase(Locale.ROOT));
    }

    /**
     * Sets when an event reports the message as undelivered, if no device has it by then. Kept messages only.
     *
     * @param deadline the time after the push, at most its ttl
     * @return a push with this deadline
     */
    public Push deadline(Duration deadline) {
        return with("deadline", seconds("deadline", deadline));
    }

    /**
     * Sets when an event reports the message as undelivered, if a device lacks it then. Kept messages only.
     *
     * @param deadline the time after the push, at most its ttl
     * @return a push with this deadline
     */
    public Push deadlineOfEachDevice(Duration deadline) {
        return deadline(deadline).with("deadline_if", "any");
    }

    /** Which events tell what becomes of a message. */
    public enum Report {
        /** None. */
        NONE,
        /** One when the message has come to its end. */
        SETTLED,
        /** One for each device, too. */
        EACH
    }

    static BigDecimal seconds(String name, Duration duration) {
        return BigDecimal.valueOf(Arguments.positive(name, duration).toMillis(), 3);
    }
}
