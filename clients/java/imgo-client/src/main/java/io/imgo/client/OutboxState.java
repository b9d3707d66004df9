package io.imgo.client;

import java.util.ArrayDeque;
import java.util.Deque;

/** The content of an outbox while it changes. Its owner guards it. */
final class OutboxState {
    Long base; // null if it was not set
    long last; // the number of the last message that was added
    final Deque<OutboxMessage> messages = new ArrayDeque<>();

    void set(OutboxContent content) {
        clear();
        base = content.base();
        last = content.last();
        for (OutboxMessage message : content.messages()) {
            add(message);
        }
    }

    void clear() {
        base = null;
        last = 0;
        messages.clear();
    }

    /** Adds a message. It replaces what an earlier call with its number has left. */
    void add(OutboxMessage message) {
        while (!messages.isEmpty() && messages.peekLast().number() >= message.number()) {
            messages.pollLast();
        }
        messages.add(message);
        last = Math.max(last, message.number());
    }

    void remove(long upTo) {
        while (!messages.isEmpty() && messages.peek().number() <= upTo) {
            messages.poll();
        }
        last = Math.max(last, upTo);
    }

    OutboxContent content() {
        return new OutboxContent(base, last, messages);
    }
}
