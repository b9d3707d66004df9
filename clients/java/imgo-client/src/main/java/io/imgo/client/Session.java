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
    private final int maxBody;

    Session(String id, String user, long heartbeatMillis, long pending, long expiresInMillis, List<String> rooms, int maxBody) {
        this.id = id;
        this.user = user;
        this.heartbeatMillis = heartbeatMillis;
        this.pending = pending;
        this.expiresInMillis = expiresInMillis;
        this.rooms = rooms;
        this.maxBody = maxBody;
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

    /** Returns the largest body that the server takes, in bytes; 0 if it does not tell. */
    int maxBody() {
        return maxBody;
    }

    /** Returns how many ids one packet of acknowledgements may have. */
    int ackBatch() {
        return maxBody == 0 ? Protocol.ACK_BATCH : Math.max(1, Math.min(Protocol.ACK_BATCH, maxBody / 8));
    }

    /** Returns what is wrong with a body that is too large for the server, or null. */
    String tooLarge(byte[] body) {
        return maxBody == 0 || body.length <= maxBody ? null
                : "the body has " + body.length + " bytes, and the server takes at most " + maxBody;
    }

    @Override
    public String toString() {
        return "session " + id + " of user " + user;
    }
}
