package io.imgo.client;

import java.util.Locale;

/** The states of a client. */
public enum State {
    /** Made, not started. */
    IDLE,
    /** Under way to the server: token, address, socket, auth packet, auth reply. */
    CONNECTING,
    /** The server has accepted the client. */
    LIVE,
    /** Between two attempts. */
    WAITING,
    /** Closed by the application, or refused for good. */
    CLOSED;

    /**
     * Returns the word of the specification.
     *
     * @return for example {@code "live"}
     */
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }
}
