package io.imgo.client.spi;

import java.io.IOException;

/**
 * Opens connections for addresses of some schemes. A transport has no state that two clients share. {@link
 * java.util.ServiceLoader} finds the ones on the class path.
 */
public interface Transport {
    /**
     * Reports whether the transport opens connections for a scheme.
     *
     * @param scheme {@code "tcp"}, {@code "tls"}, {@code "ws"} or {@code "wss"}
     * @return true if it does
     */
    boolean supports(String scheme);

    /**
     * Begins a connection. The client calls it on a helper thread, which it interrupts when it gives up. It may block until
     * the connection is there, but the link need not be open yet.
     *
     * @param endpoint where to connect, and within which limits
     * @return the link. The caller closes it
     * @throws IOException if there is no connection
     */
    Link open(Endpoint endpoint) throws IOException;
}
