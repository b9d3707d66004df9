package io.imgo.client;

import io.imgo.client.spi.Endpoint;
import io.imgo.client.spi.Link;
import io.imgo.client.spi.Transport;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.channels.SocketChannel;
import java.security.NoSuchAlgorithmException;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;

/** Connects over TCP, and TLS over it. */
final class SocketTransport implements Transport {
    @Override
    public boolean supports(String scheme) {
        return scheme.equals("tcp") || scheme.equals("tls");
    }

    @Override
    public Link open(Endpoint endpoint) throws IOException {
        long until = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(endpoint.timeoutMillis());
        InetAddress[] addresses = InetAddress.getAllByName(endpoint.host());
        IOException failure = null;
        for (int i = 0; i < addresses.length; i++) {
            // Each address gets an even part of the time that is left.
            long left = TimeUnit.NANOSECONDS.toMillis(until - System.nanoTime()) / (addresses.length - i);
            if (left <= 0) {
                break;
            }
            SocketChannel channel = SocketChannel.open();
            try {
                channel.socket().setTcpNoDelay(true);
                channel.socket().connect(new InetSocketAddress(addresses[i], endpoint.port()), (int) Math.min(left, Integer.MAX_VALUE));
                channel.configureBlocking(false);
                return new SocketLink(channel, endpoint.maxBody(), endpoint.scheme().equals("tls") ? tls(endpoint) : null);
            } catch (IOException | RuntimeException e) {
                channel.close();
                if (e instanceof RuntimeException) {
                    throw e;
                }
                failure = (IOException) e;
            }
        }
        throw failure != null ? failure : new IOException("no time is left");
    }

    private static Tls tls(Endpoint endpoint) throws IOException {
        SSLContext context = endpoint.sslContext();
        try {
            return new Tls(context == null ? SSLContext.getDefault() : context, endpoint.host(), endpoint.port());
        } catch (NoSuchAlgorithmException e) {
            throw new IOException("this platform has no TLS", e);
        }
    }
}
