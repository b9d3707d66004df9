package io.imgo.client.spi;

import java.io.IOException;

/** The server has sent what is no packet, or one over a limit of the client. */
public final class PacketException extends IOException {
    private static final long serialVersionUID = 1L;

    /**
     * Makes the exception.
     *
     * @param message what is wrong
     */
    public PacketException(String message) {
        super(message);
    }
}
