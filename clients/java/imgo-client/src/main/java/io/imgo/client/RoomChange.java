package io.imgo.client;

/** The server has put the session into a room, has taken it out, or did not let it in when it connected. */
public final class RoomChange {
    private final String room;
    private final boolean joined;
    private final String code;
    private final String reason;

    RoomChange(String room, boolean joined, String code, String reason) {
        this.room = room;
        this.joined = joined;
        this.code = code;
        this.reason = reason;
    }

    /**
     * Returns the room.
     *
     * @return its name
     */
    public String room() {
        return room;
    }

    /**
     * Reports whether the session is now in the room.
     *
     * @return false if it is out of it
     */
    public boolean isJoined() {
        return joined;
    }

    /**
     * Returns why the session was not let in, for programs.
     *
     * @return a word such as {@code "forbidden"} or {@code "too_many"}; otherwise empty
     */
    public String code() {
        return code;
    }

    /**
     * Returns the reason, for people.
     *
     * @return the reason; it may be empty
     */
    public String reason() {
        return reason;
    }

    @Override
    public String toString() {
        return (joined ? "in room " : "out of room ") + room + (reason.isEmpty() ? "" : ": " + reason);
    }
}
