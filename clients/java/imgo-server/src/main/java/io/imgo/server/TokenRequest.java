package io.imgo.server;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.Map;

/** What a new token is to be like. A TokenRequest does not change: each method returns another one. */
public final class TokenRequest {
    private final Map<String, Object> fields;

    private TokenRequest(Map<String, Object> fields) {
        this.fields = fields;
    }

    private TokenRequest with(String name, Object value) {
        Map<String, Object> copy = new LinkedHashMap<>(fields);
        copy.put(name, value);
        return new TokenRequest(copy);
    }

    Map<String, Object> fields() {
        return fields;
    }

    /**
     * Returns a request for a token that never ends.
     *
     * @param user the user
     * @return the request
     */
    public static TokenRequest forUser(String user) {
        return new TokenRequest(Map.of("user", Arguments.notNull("user", user)));
    }

    /**
     * Sets how long the token is valid.
     *
     * @param ttl the time
     * @return a request with this time
     */
    public TokenRequest ttl(Duration ttl) {
        return with("ttl", Push.seconds("ttl", ttl));
    }

    /**
     * Sets the token's text. Without it the server makes one at random.
     *
     * @param token the text
     * @return a request with this text
     */
    public TokenRequest token(String token) {
        return with("token", Arguments.notNull("token", token));
    }

    /**
     * Revokes the user's other tokens.
     *
     * @return a request that does so
     */
    public TokenRequest single() {
        return with("single", true);
    }

    /**
     * Sets the rooms that clients with this token may join where a rule of the server asks for a token.
     *
     * @param rooms rooms and patterns, such as {@code team-*}
     * @return a request with these rooms
     */
    public TokenRequest rooms(Collection<String> rooms) {
        return with("rooms", new ArrayList<>(Arguments.notNull("rooms", rooms)));
    }
}
