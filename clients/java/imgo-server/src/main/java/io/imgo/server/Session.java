package io.imgo.server;

import java.time.Instant;
import java.util.List;
import java.util.Map;

/** A session of a user: a connection of one client. */
public final class Session {
    private final String name;
    private final String user;
    private final String device;
    private final String key;
    private final String platform;
    private final String address;
    private final String transport;
    private final String node;
    private final Instant since;
    private final List<String> rooms;

    Session(Map<String, Object> answer) {
        name = Answers.string(answer, "name");
        user = Answers.string(answer, "user");
        device = Answers.string(answer, "device");
        key = Answers.string(answer, "key");
        platform = Answers.string(answer, "platform");
        address = Answers.string(answer, "address");
        transport = Answers.string(answer, "transport");
        node = Answers.string(answer, "node");
        since = Answers.time(answer, "since_ms");
        rooms = Answers.strings(answer, "rooms");
    }

    /**
     * Returns the name that the server gave the session.
     *
     * @return the name
     */
    public String name() {
        return name;
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
     * Returns the device.
     *
     * @return the device, or an empty string if the client named none
     */
    public String device() {
        return device;
    }

    /**
     * Returns the key that the client chose, or else the name.
     *
     * @return the key
     */
    public String key() {
        return key;
    }

    /**
     * Returns the client's platform.
     *
     * @return the platform, or an empty string if the client named none
     */
    public String platform() {
        return platform;
    }

    /**
     * Returns where the client connects from.
     *
     * @return the address
     */
    public String address() {
        return address;
    }

    /**
     * Returns the transport, such as {@code tcp} or {@code ws}.
     *
     * @return the transport
     */
    public String transport() {
        return transport;
    }

    /**
     * Returns the node that holds the connection.
     *
     * @return the name of the node
     */
    public String node() {
        return node;
    }

    /**
     * Returns when the session began.
     *
     * @return the time
     */
    public Instant since() {
        return since;
    }

    /**
     * Returns the rooms that the session is in.
     *
     * @return the rooms
     */
    public List<String> rooms() {
        return rooms;
    }

    @Override
    public String toString() {
        return "Session[name=" + name + ", user=" + user + ", device=" + device + ", address=" + address + ", since=" + since + "]";
    }
}
