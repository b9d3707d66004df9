package io.imgo.client;

/** A message that was pushed to the user. */
public final class Message {
    private final long id;
    private final int op;
    private final byte[] body;

    Message(long id, int op, byte[] body) {
        this.id = id;
        this.op = op;
        this.body = body;
    }

    /**
     * Returns the id. It is unique among the kept messages of the user, and grows. It is an unsigned number: compare it by
     * {@link #compareIds}, print it by {@link #idText}.
     *
     * @return the id, or 0 if the message is not kept
     */
    public long id() {
        return id;
    }

    /**
     * Returns the id as decimal text.
     *
     * @return the unsigned id
     */
    public String idText() {
        return Ids.text(id);
    }

    /**
     * Returns the operation.
     *
     * @return 5, or the operation of 1000 and above that the push named
     */
    public int op() {
        return op;
    }

    /**
     * Returns the body, byte for byte as it was pushed. The array belongs to the receiver.
     *
     * @return the body; it is empty if the push had none
     */
    public byte[] body() {
        return body;
    }

    /**
     * Reports whether the message stays in the mailbox until it is acknowledged.
     *
     * @return true if the message has an id
     */
    public boolean isKept() {
        return id != 0;
    }

    /**
     * Compares two ids as unsigned numbers.
     *
     * @param a an id
     * @param b an id
     * @return a negative number if a is the smaller one, 0 if they are equal, otherwise a positive number
     */
    public static int compareIds(long a, long b) {
        return Ids.compare(a, b);
    }

    @Override
    public String toString() {
        return "message " + idText() + " (op " + op + ", " + body.length + " bytes)";
    }
}
