package io.imgo.client;

/** Handles messages. Its return acknowledges the message. */
public interface MessageHandler {
    /**
     * Handles one message. The client calls it for one message at a time, in the order of the connection, on its handler
     * thread or in the executor of {@link ImgoClientBuilder#executor}. It may block: the client then reads no more than its
     * queue holds, and the server keeps the rest.
     *
     * @param message the message
     * @throws Exception if the message was not handled. It then stays in the mailbox and comes again with the next session
     */
    void handle(Message message) throws Exception;
}
