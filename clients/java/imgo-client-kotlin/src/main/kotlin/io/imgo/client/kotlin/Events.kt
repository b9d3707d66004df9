package io.imgo.client.kotlin

import io.imgo.client.ClientListener
import io.imgo.client.Dismiss
import io.imgo.client.ImgoException
import io.imgo.client.Published
import io.imgo.client.RoomChange
import io.imgo.client.StateChange
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.flow.asSharedFlow

/**
 * The events of a client as flows. Give it to the builder as the listener, and collect what you need:
 *
 * ```
 * val events = Events()
 * val client = ImgoClient.builder().address("push.example.com:8080").token(token).device("phone").listener(events)
 *     .onMessageAsync(messages).build()
 * launch { events.dismissals.collect { dismiss -> notifications.removeIf { dismiss.covers(it.id) } } }
 * ```
 *
 * The flows are hot: a collector gets the events that come while it collects. A collector may be [capacity] events behind. If one is
 * further behind, an event is dropped for all collectors of its flow, and the log hook of the client tells.
 *
 * @param capacity how many events of each flow may wait for a collector
 */
public class Events(capacity: Int = 1024) : ClientListener {
    private val mutableStates = MutableSharedFlow<StateChange>(extraBufferCapacity = capacity)
    private val mutableRooms = MutableSharedFlow<RoomChange>(extraBufferCapacity = capacity)
    private val mutablePublished = MutableSharedFlow<Published>(extraBufferCapacity = capacity)
    private val mutableDismissals = MutableSharedFlow<Dismiss>(extraBufferCapacity = capacity)
    private val mutableErrors = MutableSharedFlow<ImgoException>(extraBufferCapacity = capacity)

    /** Changes of the client's state. */
    public val states: SharedFlow<StateChange> = mutableStates.asSharedFlow()

    /** Changes of the session's rooms by the server. */
    public val rooms: SharedFlow<RoomChange> = mutableRooms.asSharedFlow()

    /** Published messages that have left the outbox. */
    public val published: SharedFlow<Published> = mutablePublished.asSharedFlow()

    /** Messages that the user has read elsewhere. */
    public val dismissals: SharedFlow<Dismiss> = mutableDismissals.asSharedFlow()

    /** Errors that no call is there to return. */
    public val errors: SharedFlow<ImgoException> = mutableErrors.asSharedFlow()

    override fun onState(change: StateChange): Unit = mutableStates.tell(change)

    override fun onRoom(change: RoomChange): Unit = mutableRooms.tell(change)

    override fun onPublished(published: Published): Unit = mutablePublished.tell(published)

    override fun onDismiss(dismiss: Dismiss): Unit = mutableDismissals.tell(dismiss)

    override fun onError(error: ImgoException): Unit = mutableErrors.tell(error)

    /** Emits an event. The client logs the exception. */
    private fun <T> MutableSharedFlow<T>.tell(event: T): Unit =
        check(tryEmit(event)) { "a collector is more than its capacity of events behind: the event is dropped" }
}
