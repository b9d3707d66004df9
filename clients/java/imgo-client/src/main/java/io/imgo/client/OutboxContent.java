package io.imgo.client;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;

/** What an {@link Outbox} has. */
public final class OutboxContent {
    private final Long base;
    private final long last;
    private final List<OutboxMessage> messages;

    /**
     * Makes a content.
     *
     * @param base the base of the ids, an unsigned number; null if it was not set
     * @param last the number of the last message that was added, also if it was removed; 0 if there was none
     * @param messages those that were not removed, oldest first; they are copied
     */
    public OutboxContent(Long base, long last, Collection<OutboxMessage> messages) {
        this.base = base;
        this.last = last;
        this.messages = Collections.unmodifiableList(new ArrayList<>(messages));
    }

    /**
     * Returns the base of the ids.
     *
     * @return an unsigned number; null if it was not set
     */
    public Long base() {
        return base;
    }

    /**
     * Returns the number of the last message that was added, also if it was removed.
     *
     * @return the number; 0 if there was none
     */
    public long last() {
        return last;
    }

    /**
     * Returns the messages that were not removed.
     *
     * @return the messages, oldest first; the list cannot be changed
     */
    public List<OutboxMessage> messages() {
        return messages;
    }
}
