package io.imgo.client;

/**
 * Gets the events of a client. The client calls it on its own thread, one event at a time, in order. The methods must return
 * soon: heartbeats and acknowledgements wait for them. They may call any method of the client, but not wait for a call.
 * An exception of a method goes to the log hook and has no other effect.
 */
public interface ClientListener {
    /**
     * The state has changed.
     *
     * @param change the new state
     */
    default void onState(StateChange change) {}

    /**
     * The server has changed the rooms of the session.
     *
     * @param change the room
     */
    default void onRoom(RoomChange change) {}

    /**
     * A published message has left the outbox: the server has it, or has refused it for good.
     *
     * @param published the message
     */
    default void onPublished(Published published) {}

    /**
     * The user has read messages elsewhere. The application takes them from the screen.
     *
     * @param dismiss the messages
     */
    default void onDismiss(Dismiss dismiss) {}

    /**
     * Something failed that no call is there to return: {@link ErrorCode#TOKEN}, {@link ErrorCode#HANDLER}, {@link
     * ErrorCode#PROTOCOL} or {@link ErrorCode#STORAGE}. The client goes on by itself.
     *
     * @param error the error
     */
    default void onError(ImgoException error) {}
}
