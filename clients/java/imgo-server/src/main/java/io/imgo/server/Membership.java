package io.imgo.server;

import java.util.Map;

/** Whether a user is in a room, after a change. */
public final class Membership {
    private final String room;
    private final String user;
    private final boolean member;
    private final int sessions;
    private final int late;

    Membership(Map<String, Object> answer) {
        room = Answers.string(answer, "room");
        user = Answers.string(answer, "user");
        member = Answers.bool(answer, "member");
        sessions = Answers.count(answer, "sessions");
        late = Answers.count(answer, "late");
    }

    /**
     * Returns the room.
     *
     * @return the room
     */
    public String room() {
        return room;
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
     * Reports whether the user is in the room now.
     *
     * @return whether the user is a member
     */
    public boolean member() {
        return member;
    }

    /**
     * Returns how many of the user's sessions have followed.
     *
     * @return the number
     */
    public int sessions() {
        return sessions;
    }

    /**
     * Returns how many of the user's sessions have not followed yet, since their node did not answer. They are told again.
     *
     * @return the number
     */
    public int late() {
        return late;
    }

    @Override
    public String toString() {
        return "Membership[room=" + room + ", user=" + user + ", member=" + member + ", sessions=" + sessions + ", late=" + late + "]";
    }
}
