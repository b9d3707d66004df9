package io.imgo.client.spi;

import java.util.concurrent.ThreadFactory;
import javax.net.ssl.SSLContext;

/** Where to connect, and within which limits. */
public final class Endpoint {
    private final String scheme;
    private final String host;
    private final int port;
    private final String path;
    private final SSLContext sslContext;
    private final long timeoutMillis;
    private final long writeTimeoutMillis;
    private final int maxBody;
    private final ThreadFactory threads;

    /**
     * Makes an endpoint.
     *
     * @param scheme {@code "tcp"}, {@code "tls"}, {@code "ws"} or {@code "wss"}
     * @param host a name, or an IP address without brackets
     * @param port from 1 to 65535
     * @param path for a WebSocket, the path and query; otherwise empty
     * @param sslContext for TLS; null for the default of the platform
     * @param timeoutMillis the time for connection and handshake, in milliseconds
     * @param writeTimeoutMillis the time within which the network must take some bytes, in milliseconds
     * @param maxBody the largest body of a packet to accept, in bytes
     * @param threads makes the threads that the transport needs
     */
    public Endpoint(
            String scheme, String host, int port, String path, SSLContext sslContext, long timeoutMillis,
            long writeTimeoutMillis, int maxBody, ThreadFactory threads) {
        this.scheme = scheme;
        this.host = host;
        this.port = port;
        this.path = path;
        this.sslContext = sslContext;
        this.timeoutMillis = timeoutMillis;
        this.writeTimeoutMillis = writeTimeoutMillis;
        this.maxBody = maxBody;
        this.threads = threads;
    }

    /**
     * Returns the scheme.
     *
     * @return {@code "tcp"}, {@code "tls"}, {@code "ws"} or {@code "wss"}
     */
    public String scheme() {
        return scheme;
    }

    /**
     * Returns the host.
     *
     * @return a name, or an IP address without brackets
     */
    public String host() {
        return host;
    }

    /**
     * Returns the port.
     *
     * @return from 1 to 65535
     */
    public int port() {
        return port;
    }

    /**
     * Returns the path and query of a WebSocket.
     *
     * @return for example {@code "/sub"}
     */
    public String path() {
        return path;
    }

    /**
     * Returns the TLS context.
     *
     * @return the context; null for the default of the platform
     */
    public SSLContext sslContext() {
        return sslContext;
    }

    /**
     * Returns the time for connection and handshake.
     *
     * @return the time in milliseconds
     */
    public long timeoutMillis() {
        return timeoutMillis;
    }

    /**
     * Returns the time within which the network must take some bytes. See {@link Link#boundsWrites}.
     *
     * @return the time in milliseconds
     */
    public long writeTimeoutMillis() {
        return writeTimeoutMillis;
    }

    /**
     * Returns the largest body of a packet to accept.
     *
     * @return the number of bytes
     */
    public int maxBody() {
        return maxBody;
    }

    /**
     * Returns what makes threads.
     *
     * @return the application's thread factory, or the client's
     */
    public ThreadFactory threads() {
        return threads;
    }

    @Override
    public String toString() {
        return scheme + "://" + (host.indexOf(':') >= 0 ? "[" + host + "]" : host) + ":" + port + path;
    }
}
