package io.imgo.client;

import io.imgo.client.internal.Json;
import java.io.ByteArrayOutputStream;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.URL;
import java.net.URLConnection;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;

/** Asks the HTTP API for the best nodes. */
final class Discovery implements Callable<List<String>>, Closeable {
    /** The bound of a request. The client's own address needs no discovery. */
    static final long TIMEOUT = TimeUnit.SECONDS.toNanos(3);

    private static final int MAX_ANSWER = 64 << 10;

    private final String url;
    private final SSLContext sslContext;
    private final long until;
    private volatile HttpURLConnection open; // while it asks

    Discovery(String url, SSLContext sslContext, long until) {
        this.url = url;
        this.sslContext = sslContext;
        this.until = until;
    }

    /** Checks the option and adds the path and the transport. */
    static String url(String discover, Address address) {
        URI uri;
        try {
            uri = new URI(discover);
        } catch (URISyntaxException e) {
            uri = null;
        }
        boolean secure = uri != null && "https".equalsIgnoreCase(uri.getScheme());
        if (uri == null || uri.getHost() == null || (!secure && !"http".equalsIgnoreCase(uri.getScheme()))) {
            throw new ImgoException(ErrorCode.INVALID,
                    "discover \"" + discover + "\" is no address: write http:// or https:// and the host of the API");
        }
        if (address.secure() && !secure) {
            throw new ImgoException(ErrorCode.INVALID, "discover \"" + discover
                    + "\" must be https://, since address has TLS: the token would go to whoever changes the answer");
        }
        String path = uri.getRawPath() == null || uri.getRawPath().isEmpty() || uri.getRawPath().equals("/")
                ? "/v1/nodes/best" : uri.getRawPath();
        String query = uri.getRawQuery() == null ? "" : uri.getRawQuery() + "&";
        return uri.getScheme() + "://" + uri.getRawAuthority() + path + "?" + query + "transport=" + address.transport();
    }

    @Override
    public List<String> call() throws IOException {
        URLConnection connection = new URL(url).openConnection();
        if (!(connection instanceof HttpURLConnection)) {
            throw new IOException("no HTTP");
        }
        HttpURLConnection http = (HttpURLConnection) connection;
        open = http;
        try {
            if (http instanceof HttpsURLConnection && sslContext != null) {
                ((HttpsURLConnection) http).setSSLSocketFactory(sslContext.getSocketFactory());
            }
            http.setConnectTimeout(left());
            http.setReadTimeout(left());
            http.setUseCaches(false);
            http.setInstanceFollowRedirects(false);
            http.setRequestProperty("Connection", "close"); // the next request may be hours away
            if (http.getResponseCode() != HttpURLConnection.HTTP_OK) {
                throw new IOException("the answer is " + http.getResponseCode());
            }
            try (InputStream body = http.getInputStream()) {
                return addresses(Json.parse(read(http, body)));
            }
        } catch (IllegalArgumentException e) { // no JSON
            throw new IOException("the answer cannot be read: " + e.getMessage(), e);
        } finally {
            open = null;
            http.disconnect();
        }
    }

    /** Ends the call on another thread. */
    @Override
    public void close() {
        HttpURLConnection http = open;
        if (http != null) {
            http.disconnect();
        }
    }

    private byte[] read(HttpURLConnection http, InputStream body) throws IOException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        byte[] part = new byte[4096];
        while (true) {
            http.setReadTimeout(left());
            int count = body.read(part);
            if (count < 0) {
                return all.toByteArray();
            }
            all.write(part, 0, count);
            if (all.size() > MAX_ANSWER) {
                throw new IOException("the answer is longer than " + MAX_ANSWER + " bytes");
            }
        }
    }

    /** Returns the milliseconds that are left. */
    private int left() throws IOException {
        long left = TimeUnit.NANOSECONDS.toMillis(until - Clock.now());
        if (left <= 0) {
            throw new IOException("no time is left");
        }
        return (int) Math.min(left, Integer.MAX_VALUE);
    }

    private static List<String> addresses(Object answer) {
        List<String> addresses = new ArrayList<>();
        Object list = answer instanceof Map ? ((Map<?, ?>) answer).get("addresses") : null;
        if (list instanceof List) {
            for (Object address : (List<?>) list) {
                if (address instanceof String) {
                    addresses.add((String) address);
                }
            }
        }
        return addresses;
    }
}
