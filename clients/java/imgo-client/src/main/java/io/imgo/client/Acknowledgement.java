package io.imgo.client;

/** Takes the result of an {@link AsyncMessageHandler} for one message. The first call counts. Any thread may call. */
public interface Acknowledgement {
    /** The message was handled. The client acknowledges it. */
    void success();

    /**
     * The message was not handled. It stays in the mailbox and comes again with the next session.
     *
     * @param cause why; null if there is nothing to say
     */
    void failure(Throwable cause);
}
