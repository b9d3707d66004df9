package io.imgo.client;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** An address that clients connect to. */
final class Address {
    private static final String EXAMPLES = ": write host:port, tls://host:port or ws://host:port/sub";
    private static final List<String> SCHEMES = Arrays.asList("tcp", "tls", "ws", "wss");
    /** A scheme, a host (an IPv6 address in brackets or a name), a port, and a path with a query. Names may have "_". */
    private static final Pattern URL = Pattern.compile(
            "(?:([A-Za-z]+)://)?(?:\\[([0-9A-Fa-f:.]+(?:%[\\w.-]+)?)\\]|([^\\s:/?#\\[\\]@\\\\]+))(?::(\\d{1,5}))?([/?][!-\"$-~]*)?");

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
        if (text == null || text.isEmpty()) {
            throw new ImgoException(ErrorCode.INVALID, "address is missing" + EXAMPLES);
        }
        Matcher parts = URL.matcher(text);
        if (!parts.matches()) {
            throw invalid(text, "is no address");
        }
        String scheme = parts.group(1) == null ? "tcp" : parts.group(1).toLowerCase(Locale.ROOT);
        if (!SCHEMES.contains(scheme)) {
            throw invalid(text, "has an unknown scheme");
        }
        boolean webSocket = scheme.startsWith("ws");
        String host = parts.group(2) != null ? parts.group(2) : parts.group(3);
        String path = parts.group(5) == null ? "" : parts.group(5);
        int port = parts.group(4) != null ? Integer.parseInt(parts.group(4)) : !webSocket ? 0 : scheme.equals("ws") ? 80 : 443;
        if (port < 1 || port > 65535) {
            throw invalid(text, "has no port from 1 to 65535");
        }
        if (!webSocket && !path.isEmpty()) {
            throw invalid(text, "has a path, which only a WebSocket has");
        }
        if (webSocket && (path.isEmpty() || path.startsWith("?"))) {
            path = "/" + path;
        }
        return new Address(scheme, host, port, webSocket && path.equals("/") ? "/sub" : path);
    }

    private static ImgoException invalid(String text, String why) {
        return new ImgoException(ErrorCode.INVALID, "address \"" + text + "\" " + why + EXAMPLES);
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
        boolean usual = (scheme.equals("ws") && port == 80) || (scheme.equals("wss") && port == 443);
        return scheme + "://" + (host.indexOf(':') >= 0 ? "[" + host + "]" : host) + (usual ? "" : ":" + port) + path;
    }
}
