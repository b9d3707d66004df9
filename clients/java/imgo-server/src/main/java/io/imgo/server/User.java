package io.imgo.server;

import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** A user: sessions, devices and waiting messages. */
public final class User {
    private final String name;
    private final List<Session> sessions;
    private final List<Device> devices;
    private final int pending;
    private final int dropped;
    private final Instant since;
    private final Instant lastSeen;

    User(Map<String, Object> answer) {
        name = Answers.string(answer, "user");
        sessions = Answers.list(answer, "sessions", Session::new);
        devices = Answers.list(answer, "devices", Device::new);
        pending = Answers.count(answer, "pending");
        dropped = Answers.count(answer, "dropped");
        since = Answers.time(answer, "since_ms");
        lastSeen = Answers.time(answer, "last_seen_ms");
    }

    static Map<String, Integer> sessionsOf(Map<String, Object> answer) {
        Map<String, Integer> all = new LinkedHashMap<>();
        for (Map.Entry<String, Integer> user : Answers.list(answer, "users",
                one -> Map.entry(Answers.string(one, "user"), Answers.count(one, "sessions")))) {
            all.put(user.getKey(), user.getValue());
        }
        return all;
    }

    /**
     * Returns the id of the user.
     *
     * @return the id
     */
    public String name() {
        return name;
    }

    /**
     * Reports whether the user has a session.
     *
     * @return whether the user is online
     */
    public boolean online() {
        return !sessions.isEmpty();
    }

    /**
     * Returns the sessions.
     *
     * @return the sessions
     */
    public List<Session> sessions() {
        return sessions;
    }

    /**
     * Returns the devices that the user's mailbox knows.
     *
     * @return the devices
     */
    public List<Device> devices() {
        return devices;
    }

    /**
     * Returns the number of kept messages that some device has yet to acknowledge.
     *
     * @return the number
     */
    public int pending() {
        return pending;
    }

    /**
     * Returns the number of messages that the limits on the mailbox have dropped.
     *
     * @return the number
     */
    public int dropped() {
        return dropped;
    }

    /**
     * Returns when the user came online, or went offline.
     *
     * @return the time, if it is known
     */
    public Optional<Instant> since() {
        return Optional.ofNullable(since);
    }

    /**
     * Returns when the user was seen last.
     *
     * @return the time, if the user was ever seen
     */
    public Optional<Instant> lastSeen() {
        return Optional.ofNullable(lastSeen);
    }

    @Override
    public String toString() {
        return "User[name=" + name + ", sessions=" + sessions + ", devices=" + devices + ", pending=" + pending + "]";
    }

    /** A device of a user. */
    public static final class Device {
        private final String name;
        private final boolean online;
        private final Instant lastSeen;
        private final int pending;

        Device(Map<String, Object> answer) {
            name = Answers.string(answer, "device");
            online = Answers.flag(answer, "online");
            lastSeen = Answers.time(answer, "last_seen_ms");
            pending = Answers.count(answer, "pending");
        }

        /**
         * Returns the name.
         *
         * @return the name, or an empty string for the device of all sessions that named none
         */
        public String name() {
            return name;
        }

        /**
         * Reports whether the device has a session.
         *
         * @return whether the device is online
         */
        public boolean online() {
            return online;
        }

        /**
         * Returns when the device was seen last.
         *
         * @return the time, if it was ever seen
         */
        public Optional<Instant> lastSeen() {
            return Optional.ofNullable(lastSeen);
        }

        /**
         * Returns the number of messages that the device has yet to acknowledge.
         *
         * @return the number
         */
        public int pending() {
            return pending;
        }

        @Override
        public String toString() {
            return "Device[name=" + name + ", pending=" + pending + "]";
        }
    }
}
