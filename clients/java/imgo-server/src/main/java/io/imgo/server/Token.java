package io.imgo.server;

import java.time.Instant;
import java.util.Map;
import java.util.Optional;

/** A token that clients of a user connect with. Only the answer that made it has its text. */
public final class Token {
    private final String text;
    private final String user;
    private final Instant expires;

    Token(Map<String, Object> answer) {
        text = Answers.string(answer, "token");
        user = Answers.string(answer, "user");
        expires = Answers.time(answer, "expires_ms");
    }

    /**
     * Returns the text, which is a secret of the client.
     *
     * @return the token
     */
    public String text() {
        return text;
    }

    /**
     * Returns the user.
     *
     * @return the user
     */
    public String user() {
        return user;
    }

    /**
     * Returns when the token ends.
     *
     * @return the time, if it ends
     */
    public Optional<Instant> expires() {
        return Optional.ofNullable(expires);
    }

    /** Returns the user and the end, without the secret. */
    @Override
    public String toString() {
        return "Token[user=" + user + ", expires=" + expires + "]";
    }
}
