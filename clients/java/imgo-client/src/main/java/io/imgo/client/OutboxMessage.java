package io.imgo.client;

/** A message in an {@link Outbox}. */
public final class OutboxMessage {
    private final long number;
    private final int op;
    private final byte[] body;

    /**
     * Makes a message.
     *
     * @param number 1 for the first message of an outbox, and one more for each further one
     * @param op 4, or an operation from 1000 on
     * @param body the body; nobody may change it any more
     */
    public OutboxMessage(long number, int op, byte[] body) {
        this.number = number;
        this.op = op;
        this.body = body;
    }

    /**
     * Returns the number of the message in its outbox.
     *
     * @return 1 or more
     */
    public long number() {
        return number;
    }

    /**
     * Returns the operation.
     *
     * @return 4, or an operation from 1000 on
     */
    public int op() {
        return op;
    }

    /**
     * Returns the body.
     *
     * @return the body; it must not be changed
     */
    public byte[] body() {
        return body;
    }

    @Override
    public String toString() {
        return "published message " + number + " (op " + op + ", " + body.length + " bytes)";
    }
}
