package io.imgo.client;

import java.io.IOException;

/**
 * Remembers the ids of handled messages across restarts. A store belongs to one client at a time. The client calls it on a
 * thread of its own, one call at a time. {@link FileStore} is one.
 */
public interface Store {
    /**
     * Returns the saved ids. The client calls it once, before it first connects.
     *
     * @return the ids, oldest first; as many as the client remembers are enough
     * @throws IOException if the ids cannot be read. The client tells by {@link ErrorCode#STORAGE} and tries again
     */
    long[] load() throws IOException;

    /**
     * Saves ids. They are durable when it returns. The client acknowledges them only then. A call that takes longer than
     * requestTimeout is interrupted.
     *
     * @param ids the ids, oldest first
     * @throws IOException if the ids may not be durable. The client tells by {@link ErrorCode#STORAGE} and tries again with
     *     these and newer ids, so an id may come twice
     */
    void add(long[] ids) throws IOException;
}
