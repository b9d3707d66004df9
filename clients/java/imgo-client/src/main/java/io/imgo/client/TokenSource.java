package io.imgo.client;

/** Gives a token before each connection, and before the token of a live session ends. */
public interface TokenSource {
    /**
     * Returns a token. It runs on a thread of its own, at most once at a time, and may block. After {@link
     * ImgoClientBuilder#connectTimeout} the thread is interrupted and the call counts as failed.
     *
     * @return the token; it must not be empty
     * @throws Exception if there is no token. The client tries again with backoff
     */
    String token() throws Exception;
}
