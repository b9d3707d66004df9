package io.imgo.server;

import java.net.URI;
import java.net.URISyntaxException;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.net.ssl.SSLContext;

/**
 * Calls the HTTP API of imgo from a backend. A PushClient is safe for concurrent use; one is enough for a program.
 *
 * <p>Calls go to the servers in turn. A call is repeated at another server if the first one cannot have received it. If the first
 * one did not answer or is unavailable, a call is repeated only if it cannot act twice: a push with an idempotency key, or a call
 * that only asks or sets. A server that did not answer is avoided for a second if there are others. Each method throws {@link
 * PushException} if the call fails.
 */
public final class PushClient implements AutoCloseable {
    private final Transport transport;

    private PushClient(Builder options) {
        transport = new Transport(options);
    }

    /**
     * Returns a builder. It needs at least one server.
     *
     * @return the builder
     */
    public static Builder builder() {
        return new Builder();
    }

    /** Options of a {@link PushClient}. */
    public static final class Builder {
        final Set<String> servers = new LinkedHashSet<>();
        String apiKey;
        Duration timeout = Duration.ofSeconds(10);
        Duration connectTimeout = Duration.ofSeconds(5);
        int maxAnswer = 4 << 20;
        SSLContext sslContext;

        private Builder() {}

        /**
         * Adds a server.
         *
         * @param address such as {@code https://imgo.example:7172}; without a scheme it is http
         * @return this builder
         * @throws IllegalArgumentException if the address is none
         */
        public Builder server(String address) {
            String text = Arguments.notNull("server", address);
            text = text.contains("://") ? text : "http://" + text;
            try {
                URI uri = new URI(text);
                boolean web = "http".equals(uri.getScheme()) || "https".equals(uri.getScheme());
                if (!web || uri.getHost() == null || uri.getQuery() != null || uri.getFragment() != null
                        || uri.getUserInfo() != null) {
                    throw new URISyntaxException(text, "no such address");
                }
            } catch (URISyntaxException e) {
                throw new IllegalArgumentException("server \"" + address + "\" is no address of the API: write http://host:port", e);
            }
            servers.add(text.replaceAll("/+$", ""));
            return this;
        }

        /**
         * Adds servers.
         *
         * @param addresses as for {@link #server}
         * @return this builder
         * @throws IllegalArgumentException if one is no address
         */
        public Builder servers(String... addresses) {
            Arrays.asList(addresses).forEach(this::server);
            return this;
        }

        /**
         * Sets the API key. Without one, none is sent.
         *
         * @param key the key
         * @return this builder
         * @throws IllegalArgumentException if a header cannot carry the key
         */
        public Builder apiKey(String key) {
            if (!Arguments.notNull("apiKey", key).matches("[!-~]+")) {
                throw new IllegalArgumentException("apiKey must have only visible ASCII characters");
            }
            apiKey = key;
            return this;
        }

        /**
         * Sets the time limit of one call at one server. The default is 10 s. A call that is repeated may take this time at each
         * server.
         *
         * @param timeout the limit
         * @return this builder
         */
        public Builder timeout(Duration timeout) {
            this.timeout = Arguments.positive("timeout", timeout);
            return this;
        }

        /**
         * Sets the time limit for opening a connection. The default is 5 s.
         *
         * @param timeout the limit
         * @return this builder
         */
        public Builder connectTimeout(Duration timeout) {
            connectTimeout = Arguments.positive("connectTimeout", timeout);
            return this;
        }

        /**
         * Sets the largest accepted answer. The default is 4 MiB.
         *
         * @param bytes the largest number of bytes
         * @return this builder
         */
        public Builder maxAnswer(int bytes) {
            if (bytes < 1) {
                throw new IllegalArgumentException("maxAnswer is " + bytes + ": it must be at least 1");
            }
            maxAnswer = bytes;
            return this;
        }

        /**
         * Sets the certificates that are trusted for https. The default is that of the JDK.
         *
         * @param context the context
         * @return this builder
         */
        public Builder sslContext(SSLContext context) {
            sslContext = Arguments.notNull("sslContext", context);
            return this;
        }

        /**
         * Returns a client with these options. It does not connect yet.
         *
         * @return the client
         * @throws IllegalArgumentException if there is no server
         */
        public PushClient build() {
            if (servers.isEmpty()) {
                throw new IllegalArgumentException("server is missing: give at least one address of the API");
            }
            return new PushClient(this);
        }
    }

    /**
     * Pushes a message.
     *
     * @param push the message and its target
     * @return what became of it
     */
    public PushResult push(Push push) {
        Map<String, Object> body = Arguments.notNull("push", push).fields();
        return transport.call("POST", "/v1/push", body, push.hasIdempotencyKey(), PushResult::new);
    }

    /**
     * Pushes up to 1,000 messages in one call. Each one is accepted or refused on its own. Pushes with a user, session or room
     * in common keep their order. The call is repeated at another server only if every push has an idempotency key.
     *
     * @param pushes the messages
     * @return a result for each push, in the same order
     */
    public List<BatchResult> pushBatch(Collection<Push> pushes) {
        List<Object> all = new ArrayList<>();
        boolean repeatable = true;
        for (Push push : Arguments.notNull("pushes", pushes)) {
            all.add(Arguments.notNull("pushes[" + all.size() + "]", push).fields());
            repeatable &= push.hasIdempotencyKey();
        }
        return transport.call("POST", "/v1/push/batch", Map.of("pushes", all), repeatable,
                answer -> BatchResult.list(answer, all.size()));
    }

    /**
     * Returns a user's sessions, devices and waiting messages. A user that the server does not know is offline.
     *
     * @param user the user
     * @return the user
     */
    public User user(String user) {
        return transport.call("GET", "/v1/user?user=" + query("user", user), null, true, User::new);
    }

    /**
     * Returns the number of sessions of each of up to 100,000 users. A user without sessions is offline.
     *
     * @param users the users
     * @return the number of sessions by user, in the order of the call
     */
    public Map<String, Integer> sessions(Collection<String> users) {
        Map<String, Object> body = Map.of("users", new ArrayList<>(Arguments.notNull("users", users)));
        return transport.call("POST", "/v1/users/online", body, true, User::sessionsOf);
    }

    /**
     * Tells that a user has read messages. All devices have acknowledged them then, and the user's clients take them from the
     * screen.
     *
     * @param user the user
     * @param read which messages
     * @return the number of sessions that are told
     */
    public int read(String user, Read read) {
        Map<String, Object> body = Arguments.notNull("read", read).fields();
        return transport.call("POST", "/v1/user/read?user=" + query("user", user), body, true, a -> Answers.count(a, "sessions"));
    }

    /**
     * Closes all sessions of a user. Their clients do not reconnect by themselves. Kept messages stay.
     *
     * @param user the user
     * @return the number of sessions that are being closed
     */
    public int kick(String user) {
        return kick(user, Kick.all());
    }

    /**
     * Closes sessions of a user. Kept messages stay.
     *
     * @param user the user
     * @param kick which sessions, and what their clients are told
     * @return the number of sessions that are being closed
     */
    public int kick(String user, Kick kick) {
        // Not with the user in the path: it may be ".", which is no element of a path.
        String path = "/v1/user/kick?user=" + query("user", user);
        return transport.call("POST", path, Arguments.notNull("kick", kick).fields(), false, a -> Answers.count(a, "sessions"));
    }

    /**
     * Makes a token for the clients of a user.
     *
     * @param user the user
     * @param ttl how long the token is valid
     * @return the token
     */
    public Token newToken(String user, Duration ttl) {
        return newToken(TokenRequest.forUser(user).ttl(ttl));
    }

    /**
     * Makes a token for the clients of a user.
     *
     * @param request the user, and what the token is to be like
     * @return the token
     */
    public Token newToken(TokenRequest request) {
        return transport.call("POST", "/v1/tokens", Arguments.notNull("request", request).fields(), false, Token::new);
    }

    /**
     * Revokes a token and closes the sessions of its user.
     *
     * @param token the token
     */
    public void revokeToken(String token) {
        revokeToken(token, true);
    }

    /**
     * Revokes a token.
     *
     * @param token the token
     * @param closeSessions whether the sessions of its user are closed, too
     */
    public void revokeToken(String token, boolean closeSessions) {
        revoke("token", token, closeSessions);
    }

    /**
     * Revokes all tokens of a user that the server has made.
     *
     * @param user the user
     * @param closeSessions whether the user's sessions are closed, too
     * @return the number of revoked tokens
     */
    public int revokeTokens(String user, boolean closeSessions) {
        return revoke("user", user, closeSessions);
    }

    private int revoke(String name, String value, boolean closeSessions) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put(name, Arguments.notNull(name, value));
        body.put("close", closeSessions);
        return transport.call("POST", "/v1/tokens/revoke", body, false, answer -> Answers.count(answer, "revoked"));
    }

    /**
     * Puts a user into a room: all sessions of now, and each later one from its start.
     *
     * @param room the room
     * @param user the user
     * @return the membership
     */
    public Membership addToRoom(String room, String user) {
        return transport.call("PUT", membership(room, user), null, true, Membership::new);
    }

    /**
     * Takes a user out of a room, also the sessions that have joined it by themselves.
     *
     * @param room the room
     * @param user the user
     * @return the membership
     */
    public Membership removeFromRoom(String room, String user) {
        return transport.call("DELETE", membership(room, user), null, true, Membership::new);
    }

    private static String membership(String room, String user) {
        return "/v1/memberships?room=" + query("room", room) + "&user=" + query("user", user);
    }

    /**
     * Returns the rooms that {@link #addToRoom} has put a user into.
     *
     * @param user the user
     * @return the rooms
     */
    public List<String> roomsOf(String user) {
        return transport.call("GET", "/v1/memberships?user=" + query("user", user), null, true, a -> Answers.strings(a, "rooms"));
    }

    /**
     * Returns a room with up to 100 of its members.
     *
     * @param room the room
     * @return the room
     */
    public Room room(String room) {
        return room(room, 100);
    }

    /**
     * Returns a room and some of its members.
     *
     * @param room the room
     * @param limit the largest number of members to list, up to 10,000; 0 only counts them
     * @return the room
     */
    public Room room(String room, int limit) {
        return transport.call("GET", "/v1/room?room=" + query("room", room) + "&limit=" + limit, null, true, Room::new);
    }

    private static String query(String name, String value) {
        return URLEncoder.encode(Arguments.notNull(name, value), StandardCharsets.UTF_8);
    }

    /** Ends open calls with {@link PushException#CLOSED} and closes the connections. */
    @Override
    public void close() {
        transport.close();
    }
}
