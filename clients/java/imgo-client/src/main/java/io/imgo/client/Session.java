package io.imgo.client;

import java.util.List;

/** A connection that the server has accepted. */
public final class Session {
    private final String id;
    private final String user;
    private final long heartbeatMillis;
    private final long pending;
    private final long expiresInMillis;
    private final List<String> rooms;

    Session(String id, String user, long heartbeatMillis, long pending, long expiresInMillis, List<String> rooms) {
        this.id = id;
        this.user = user;
        this.heartbeatMillis = heartbeatMillis;
        this.pending = pending;
        this.expiresInMillis = expiresInMillis;
        this.rooms = rooms;
    }

    /**
     * Returns the name of the session at the server.
     *
     * @return the name
     */
    public String id() {
        return id;
    }

    /**
     * Returns the user of the token.
     *
     * @return the user's id
     */
    public String user() {
        return user;
    }

    /**
     * Returns the time between two heartbeats.
     *
     * @return the time in milliseconds
     */
    public long heartbeatMillis() {
        return heartbeatMillis;
    }

    /**
     * Returns the number of kept messages that followed the auth reply.
     *
     * @return the number
     */
    public long pending() {
        return pending;
    }

    /**
     * Returns the time for which the token was still good.
     *
     * @return the time in milliseconds; 0 if the token does not end
     */
    public long expiresInMillis() {
        return expiresInMillis;
    }

    /**
     * Returns the rooms into which the backend has put the user. Rooms that the client has joined are not among them.
     *
     * @return the rooms; the list cannot be changed
     */
    public List<String> rooms() {
        return rooms;
    }

    @Override
    public String toString() {
        return "session " + id + " of user " + user;
    }
}
