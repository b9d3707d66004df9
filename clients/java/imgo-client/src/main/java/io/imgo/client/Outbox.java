package io.imgo.client;

import java.io.IOException;

/**
 * Keeps the messages of {@link ImgoClient#publish} until the server has them. An outbox belongs to one device, and to one client
 * at a time. It must not be older than what the client has sent: leave it out of back-ups. The client makes one call at a time.
 * What a method has done is durable when it returns. A method that throws has done its work completely or not at all. {@link FileOutbox} and {@link MemoryOutbox} are outboxes.
 */
public interface Outbox {
    /**
     * Returns what the outbox has. The client calls it before its first message, and before it connects.
     *
     * @return base, last number and messages
     * @throws IOException if they cannot be read. The client tells by {@link ErrorCode#STORAGE} and tries again
     */
    OutboxContent load() throws IOException;

    /**
     * Saves the base of the ids, in place of an earlier one. The client calls it before it sends the first message, and if the
     * server has more than this outbox says. The base only grows.
     *
     * @param base an unsigned number: a message is sent with the id base + number
     * @throws IOException if it may not be durable. The client tells by {@link ErrorCode#STORAGE} and tries again
     */
    void setBase(long base) throws IOException;

    /**
     * Adds a message.
     *
     * @param message the message; its number is one above the last one. After a call that failed, the next message has the same
     *     number, and replaces whatever the failed call has left
     * @throws IOException if it may not be durable. The call of the application fails with {@link ErrorCode#STORAGE}
     */
    void add(OutboxMessage message) throws IOException;

    /**
     * Removes messages. The last number stays known.
     *
     * @param upTo the number of the newest one to remove
     * @throws IOException if they may still be there. The client tells by {@link ErrorCode#STORAGE} and tries again
     */
    void remove(long upTo) throws IOException;
}
