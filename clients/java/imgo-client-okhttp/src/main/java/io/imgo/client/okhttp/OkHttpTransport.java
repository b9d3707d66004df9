package io.imgo.client.okhttp;

import io.imgo.client.spi.Endpoint;
import io.imgo.client.spi.Link;
import io.imgo.client.spi.Transport;
import java.io.IOException;
import java.security.cert.CertificateException;
import java.security.cert.X509Certificate;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.X509TrustManager;
import okhttp3.ConnectionPool;
import okhttp3.Dispatcher;
import okhttp3.OkHttpClient;
import okhttp3.Request;

/**
 * Connects over WebSocket with OkHttp, for addresses with {@code ws://} and {@code wss://}. A client finds this transport by
 * itself if the module is on the class path. One with an {@link OkHttpClient} of the application, for a proxy or interceptors,
 * is given to {@link io.imgo.client.ImgoClientBuilder#transport}.
 *
 * <p>A connection has one thread of the client's thread factory, and shares OkHttp's own writer threads, which OkHttp ends when
 * they were idle for a minute. OkHttp holds a whole message before this transport can judge its size.
 */
public final class OkHttpTransport implements Transport {
    private final OkHttpClient base;

    /** Makes a transport with OkHttp's defaults. */
    public OkHttpTransport() {
        this(new OkHttpClient());
    }

    /**
     * Makes a transport.
     *
     * @param base has the settings. Its timeouts, dispatcher and connection pool are not used, and its TLS is replaced if the imgo
     *     client has an SSL context
     */
    public OkHttpTransport(OkHttpClient base) {
        if (base == null) {
            throw new IllegalArgumentException("base is null: give an OkHttpClient");
        }
        this.base = base;
    }

    @Override
    public boolean supports(String scheme) {
        return scheme.equals("ws") || scheme.equals("wss");
    }

    @Override
    public Link open(Endpoint endpoint) throws IOException {
        ExecutorService threads = new ThreadPoolExecutor(
                0, Integer.MAX_VALUE, 100, TimeUnit.MILLISECONDS, new SynchronousQueue<>(), endpoint.threads());
        OkHttpClient.Builder builder = base.newBuilder()
                .dispatcher(new Dispatcher(threads))
                .connectionPool(new ConnectionPool(0, 1, TimeUnit.SECONDS))
                // OkHttp refuses a longer time.
                .connectTimeout(Math.min(endpoint.timeoutMillis(), Integer.MAX_VALUE), TimeUnit.MILLISECONDS)
                // The client has heartbeats and time limits of its own.
                .readTimeout(0, TimeUnit.MILLISECONDS)
                .writeTimeout(Math.min(Math.max(endpoint.writeTimeoutMillis(), 1), Integer.MAX_VALUE), TimeUnit.MILLISECONDS)
                .callTimeout(0, TimeUnit.MILLISECONDS)
                .pingInterval(0, TimeUnit.MILLISECONDS);
        if (endpoint.sslContext() != null) {
            builder.sslSocketFactory(endpoint.sslContext().getSocketFactory(), new NoTrust());
        }
        Request request = new Request.Builder().url(endpoint.toString()).build();
        OkHttpLink link = new OkHttpLink(threads);
        link.connect(builder.build(), request);
        return link;
    }

    /**
     * OkHttp wants a trust manager beside the socket factory, for certificate pins. The handshake uses the one inside the SSL
     * context. This one trusts nobody, so it cannot weaken anything.
     */
    private static final class NoTrust implements X509TrustManager {
        @Override
        public void checkClientTrusted(X509Certificate[] chain, String authType) throws CertificateException {
            throw new CertificateException("only the SSL context decides about certificates");
        }

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String authType) throws CertificateException {
            throw new CertificateException("only the SSL context decides about certificates");
        }

        @Override
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }
}
