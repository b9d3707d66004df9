package io.imgo.client;

/**
 * Handles messages without keeping a thread. {@link Stages#handler} makes one from a function that returns a {@code
 * CompletionStage}.
 */
public interface AsyncMessageHandler {
    /**
     * Begins to handle one message. The next message comes only after one of the two methods of {@code result} was called.
     *
     * @param message the message
     * @param result takes the result, on any thread
     * @throws Exception if the message was not handled, as with {@link Acknowledgement#failure}
     */
    void handle(Message message, Acknowledgement result) throws Exception;
}
