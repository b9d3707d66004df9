package io.imgo.server;

import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/** What became of a push. A push to several users has a result for each of them in {@link #results}. */
public final class PushResult {
    private final long id;
    private final String user;
    private final OptionalInt sessions;
    private final boolean duplicate;
    private final int dropped;
    private final String refused;
    private final List<PushResult> results;

    PushResult(Map<String, Object> answer) {
        id = Answers.id(answer, "id");
        user = Answers.stringOrNull(answer, "user");
        sessions = Answers.optionalCount(answer, "sessions");
        duplicate = Answers.flag(answer, "duplicate");
        dropped = Answers.countOr0(answer, "dropped");
        refused = Answers.stringOrNull(answer, "refused");
        results = answer.get("results") == null ? List.of() : Answers.list(answer, "results", PushResult::new);
    }

    /**
     * Returns the id of the kept message, an unsigned number: {@link Long#toUnsignedString(long)} shows it.
     *
     * @return the id, or 0 if the message is not kept
     */
    public long id() {
        return id;
    }

    /**
     * Returns the user, if the push named one.
     *
     * @return the user
     */
    public Optional<String> user() {
        return Optional.ofNullable(user);
    }

    /**
     * Returns the number of sessions that the push is on its way to. The members of a room are not counted.
     *
     * @return the number, if they were counted
     */
    public OptionalInt sessions() {
        return sessions;
    }

    /**
     * Reports whether the idempotency key was used before. The push then had no effect, and the id is that of the first push.
     *
     * @return whether the push is a repeated one
     */
    public boolean duplicate() {
        return duplicate;
    }

    /**
     * Returns how many waiting messages of the user had to make room for this one.
     *
     * @return the number
     */
    public int dropped() {
        return dropped;
    }

    /**
     * Returns why the message is not kept for this user, though it is for others, such as {@code mailbox_full}.
     *
     * @return the reason, if there is one
     */
    public Optional<String> refused() {
        return Optional.ofNullable(refused);
    }

    /**
     * Returns a result for each user of a push to several users.
     *
     * @return the results, or an empty list
     */
    public List<PushResult> results() {
        return results;
    }

    @Override
    public String toString() {
        return "PushResult[id=" + Long.toUnsignedString(id) + ", user=" + user + ", sessions=" + sessions + ", duplicate=" + duplicate
                + ", dropped=" + dropped + ", refused=" + refused + ", results=" + results + "]";
    }
}
