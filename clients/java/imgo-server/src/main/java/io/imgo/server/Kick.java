package io.imgo.server;

import java.util.LinkedHashMap;
import java.util.Map;

/** Which sessions to close, and what their clients are told. A Kick does not change: each method returns another one. */
public final class Kick {
    private final Map<String, Object> fields;

    private Kick(Map<String, Object> fields) {
        this.fields = fields;
    }

    private Kick with(String name, Object value) {
        Map<String, Object> copy = new LinkedHashMap<>(fields);
        copy.put(name, value);
        return new Kick(copy);
    }

    Map<String, Object> fields() {
        return fields;
    }

    /**
     * Returns a kick of all sessions.
     *
     * @return the kick
     */
    public static Kick all() {
        return new Kick(Map.of());
    }

    /**
     * Returns a kick of the sessions of a device.
     *
     * @param device the device
     * @return the kick
     */
    public static Kick device(String device) {
        return all().with("device", Arguments.notNull("device", device));
    }

    /**
     * Returns a kick of one session.
     *
     * @param session its name or key
     * @return the kick
     */
    public static Kick session(String session) {
        return all().with("session", Arguments.notNull("session", session));
    }

    /**
     * Sets what the client is told.
     *
     * @param reason up to 123 bytes
     * @return a kick with this reason
     */
    public Kick reason(String reason) {
        return with("reason", Arguments.notNull("reason", reason));
    }

    /**
     * Sets the close code. With 3000 to 3499 the client reconnects.
     *
     * @param code 3000 to 4999; the default is 3506
     * @return a kick with this code
     */
    public Kick code(int code) {
        return with("code", code);
    }
}
