package io.imgo.client.spi;

import java.io.IOException;

/** The server has closed the connection with a code of the protocol. */
public final class LinkClosedException extends IOException {
    private static final long serialVersionUID = 1L;

    private final int code;
    private final String reason;

    /**
     * Makes the exception.
     *
     * @param code the close code, 3000 or above
     * @param reason the server's reason, for people
     */
    public LinkClosedException(int code, String reason) {
        super("the server closed the connection: " + reason + " (" + code + ")");
        this.code = code;
        this.reason = reason;
    }

    /**
     * Returns the close code.
     *
     * @return the code
     */
    public int code() {
        return code;
    }

    /**
     * Returns the server's reason.
     *
     * @return the reason; it may be empty
     */
    public String reason() {
        return reason;
    }
}
