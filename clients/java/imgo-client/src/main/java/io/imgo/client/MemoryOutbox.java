package io.imgo.client;

/**
 * Keeps messages in memory: they are lost with the process. Every client without another outbox has one. All methods are safe for
 * concurrent use.
 */
public final class MemoryOutbox implements Outbox {
    private final OutboxState state = new OutboxState();

    /** Makes an empty outbox. */
    public MemoryOutbox() {}

    @Override
    public synchronized OutboxContent load() {
        return state.content();
    }

    @Override
    public synchronized void setBase(long base) {
        state.base = base;
    }

    @Override
    public synchronized void add(OutboxMessage message) {
        state.add(message);
    }

    @Override
    public synchronized void remove(long upTo) {
        state.remove(upTo);
    }
}
