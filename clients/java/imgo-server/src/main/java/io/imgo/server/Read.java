package io.imgo.server;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Which messages a user has read. A Read does not change: each method returns another one. */
public final class Read {
    private final Map<String, Object> fields;

    private Read(Map<String, Object> fields) {
        this.fields = fields;
    }

    private Read with(String name, Object value) {
        Map<String, Object> copy = new LinkedHashMap<>(fields);
        copy.put(name, value);
        return new Read(copy);
    }

    Map<String, Object> fields() {
        return fields;
    }

    /**
     * Returns a read of all messages up to an id.
     *
     * @param id the unsigned id of a message
     * @return the read
     */
    public static Read upTo(long id) {
        return new Read(Map.of()).with("up_to", Long.toUnsignedString(id));
    }

    /**
     * Returns a read of single messages.
     *
     * @param ids the unsigned ids of messages, at most 500
     * @return the read
     */
    public static Read ids(long... ids) {
        return new Read(Map.of()).and(ids);
    }

    /**
     * Adds single messages.
     *
     * @param ids the unsigned ids of messages, at most 500
     * @return a read of these messages, too
     */
    public Read and(long... ids) {
        List<String> texts = new ArrayList<>();
        for (long id : Arguments.notNull("ids", ids)) {
            texts.add(Long.toUnsignedString(id));
        }
        return with("ids", texts);
    }

    /**
     * Sets the device on which the user has read the messages. The event tells it.
     *
     * @param device the device
     * @return a read on this device
     */
    public Read device(String device) {
        return with("device", Arguments.notNull("device", device));
    }
}
