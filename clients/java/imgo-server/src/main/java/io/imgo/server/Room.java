package io.imgo.server;

import java.util.List;
import java.util.Map;

/** A room and some of its members. */
public final class Room {
    private final String name;
    private final int sessions;
    private final List<Session> members;

    Room(Map<String, Object> answer) {
        name = Answers.string(answer, "room");
        sessions = Answers.count(answer, "sessions");
        members = Answers.list(answer, "members", Session::new);
    }

    /**
     * Returns the name.
     *
     * @return the name
     */
    public String name() {
        return name;
    }

    /**
     * Returns the number of sessions in the room, listed or not.
     *
     * @return the number
     */
    public int sessions() {
        return sessions;
    }

    /**
     * Returns the listed members.
     *
     * @return sessions in the room
     */
    public List<Session> members() {
        return members;
    }

    @Override
    public String toString() {
        return "Room[name=" + name + ", sessions=" + sessions + "]";
    }
}
