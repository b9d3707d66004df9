package io.imgo.client;

/** A message of {@link ImgoClient#publish} has left the outbox: the server has it, or has refused it for good. */
public final class Published {
    private final long number;
    private final byte[] body;
    private final ImgoException error;

    Published(long number, byte[] body, ImgoException error) {
        this.number = number;
        this.body = body;
        this.error = error;
    }

    /**
     * Returns the number of the message.
     *
     * @return what publish has returned
     */
    public long number() {
        return number;
    }

    /**
     * Returns the body of the reply.
     *
     * @return the body; it is empty if the reply was lost and a later session told that the message has arrived, and for a
     *     message that was refused
     */
    public byte[] body() {
        return body;
    }

    /**
     * Returns why the message was refused.
     *
     * @return {@link ErrorCode#DENIED}; null if the message has arrived
     */
    public ImgoException error() {
        return error;
    }

    @Override
    public String toString() {
        return "published message " + number + (error == null ? " has arrived" : ": " + error.getMessage());
    }
}
