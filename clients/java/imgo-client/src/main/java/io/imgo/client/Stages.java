package io.imgo.client;

import io.imgo.client.internal.NewerAndroid;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Joins the client to {@link CompletionStage} and {@link CompletableFuture}. Android has these classes from API level 24 on,
 * so the rest of the library does without them.
 */
@NewerAndroid
public final class Stages {
    private Stages() {}

    /** A message handler that returns a stage. */
    @NewerAndroid
    public interface Handler {
        /**
         * Begins to handle one message. The next message comes only after the stage has ended. The end of the stage without
         * an exception acknowledges the message.
         *
         * @param message the message
         * @return the stage; null if the message is handled already
         * @throws Exception if the message was not handled
         */
        CompletionStage<?> handle(Message message) throws Exception;
    }

    /**
     * Makes a handler for {@link ImgoClientBuilder#onMessageAsync}.
     *
     * @param handler returns a stage for each message
     * @return the handler
     */
    public static AsyncMessageHandler handler(Handler handler) {
        if (handler == null) {
            throw new ImgoException(ErrorCode.INVALID, "handler is null: give the function that handles a message");
        }
        return (message, result) -> {
            CompletionStage<?> stage = handler.handle(message);
            if (stage == null) {
                result.success();
                return;
            }
            stage.whenComplete((value, error) -> {
                if (error == null) {
                    result.success();
                } else {
                    result.failure(error);
                }
            });
        };
    }

    /**
     * Returns a future that ends as the call ends. Its exception is an {@link ImgoException}. To cancel it does not end the
     * call.
     *
     * @param call a call of the client
     * @param <T> the type of the result
     * @return the future
     */
    public static <T> CompletableFuture<T> future(Completion<T> call) {
        CompletableFuture<T> future = new CompletableFuture<>();
        call.whenDone((value, error) -> {
            if (error == null) {
                future.complete(value);
            } else {
                future.completeExceptionally(error);
            }
        });
        return future;
    }
}
