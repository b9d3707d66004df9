package io.imgo.client;

import java.net.URI;
import java.net.URISyntaxException;
import java.util.Locale;

/** An address that clients connect to. */
final class Address {
    private static final String EXAMPLES = ": write host:port, tls://host:port or ws://host:port/sub";

    final String scheme;
    final String host; // without brackets
    final int port;
    final String path; // of a WebSocket, with its query; otherwise empty

    private Address(String scheme, String host, int port, String path) {
        this.scheme = scheme;
        this.host = host;
        this.port = port;
        this.path = path;
    }

    /** Reads host:port, or a URL of scheme tcp, tls, ws or wss. It throws an error that names the option. */
    static Address parse(String text) {
        if (text == null) {
            throw new ImgoException(ErrorCode.INVALID, "address is missing" + EXAMPLES);
        }
        String why = "is no address";
        try {
            URI uri = new URI(text.contains("://") ? text : "tcp://" + text);
            String scheme = uri.getScheme().toLowerCase(Locale.ROOT);
            boolean webSocket = scheme.equals("ws") || scheme.equals("wss");
            String path = uri.getRawPath() == null ? "" : uri.getRawPath();
            String query = uri.getRawQuery() == null ? "" : "?" + uri.getRawQuery();
            int port = uri.getPort();
            if (port < 0 && webSocket) {
                port = scheme.equals("ws") ? 80 : 443;
            }
            if (!webSocket && !scheme.equals("tcp") && !scheme.equals("tls")) {
                why = "has an unknown scheme";
            } else if (uri.getHost() == null || uri.getHost().isEmpty()) {
                why = "has no host";
            } else if (uri.getRawUserInfo() != null || uri.getRawFragment() != null) {
                why = "has more than a host, a port and a path";
            } else if (port < 1 || port > 65535) {
                why = "has no port from 1 to 65535";
            } else if (!webSocket && !(path + query).isEmpty()) {
                why = "has a path, which only a WebSocket has";
            } else {
                String host = uri.getHost();
                if (host.startsWith("[")) {
                    host = host.substring(1, host.length() - 1);
                }
                if (webSocket && (path.isEmpty() || path.equals("/"))) {
                    path = "/sub";
                }
                return new Address(scheme, host, port, path + query);
            }
        } catch (URISyntaxException e) {
            // why says it
        }
        throw new ImgoException(ErrorCode.INVALID, "address \"" + text + "\" " + why + EXAMPLES);
    }

    boolean webSocket() {
        return scheme.startsWith("ws");
    }

    boolean secure() {
        return scheme.equals("tls") || scheme.equals("wss");
    }

    /** Returns "tcp" or "ws", whether or not the connection is encrypted. */
    String transport() {
        return webSocket() ? "ws" : "tcp";
    }

    /**
     * Returns another address that a server names. A missing scheme or path is taken from this one. It returns null if the
     * address cannot be used. If this address has TLS, one without TLS cannot: the token would be sent in the clear.
     */
    Address other(String text) {
        boolean hasScheme = text.contains("://");
        Address other;
        try {
            other = parse(hasScheme ? text : scheme + "://" + text);
        } catch (ImgoException e) {
            return null;
        }
        if (other.webSocket() != webSocket() || (secure() && !other.secure())) {
            return null;
        }
        String rest = hasScheme ? text.substring(text.indexOf("://") + 3) : text;
        if (webSocket() && (rest.indexOf('/') < 0 || rest.indexOf('/') == rest.length() - 1) && rest.indexOf('?') < 0) {
            return new Address(other.scheme, other.host, other.port, path);
        }
        return other;
    }

    @Override
    public String toString() {
        return scheme + "://" + (host.indexOf(':') >= 0 ? "[" + host + "]" : host) + ":" + port + path;
    }
}
