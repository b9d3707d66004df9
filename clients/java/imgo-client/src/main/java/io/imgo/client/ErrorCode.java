package io.imgo.client;

import java.util.Locale;

/** What went wrong, for programs. The specification of the client libraries has the same words. */
public enum ErrorCode {
    /** An argument or an option is wrong. The text names it. */
    INVALID,
    /** This program lacks what the option needs, such as a transport for WebSocket. */
    UNSUPPORTED,
    /** The client was closed before the call was complete. */
    CLOSED,
    /** The server refused the client for good. {@link ImgoException#closeCode} has its code. */
    REFUSED,
    /** The server refused this call. {@link ImgoException#serverCode} has its word. */
    DENIED,
    /** The call needs a live session. */
    NOT_LIVE,
    /** The connection was lost before the reply. The effect of the call is unknown. */
    LOST,
    /** The reply did not come in time. The effect of the call is unknown. */
    TIMEOUT,
    /** Too many calls are open, or the outbox is full. */
    TOO_MANY,
    /** The token source failed. */
    TOKEN,
    /** The message handler failed. */
    HANDLER,
    /** The server broke the protocol. */
    PROTOCOL,
    /** The store or the outbox failed. */
    STORAGE;

    /**
     * Returns the word of the specification.
     *
     * @return for example {@code "not_live"}
     */
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }
}
