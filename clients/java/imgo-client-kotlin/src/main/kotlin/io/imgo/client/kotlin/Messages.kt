package io.imgo.client.kotlin

import io.imgo.client.Acknowledgement
import io.imgo.client.AsyncMessageHandler
import io.imgo.client.Message
import java.util.concurrent.atomic.AtomicBoolean
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * The messages of a client as a [Flow]. Give it to the builder, and collect it:
 *
 * ```
 * val messages = Messages()
 * val client = ImgoClient.builder().address("push.example.com:8080").token(token).onMessageAsync(messages).build()
 * client.use {
 *     messages.use {
 *         client.connect().result()
 *         messages.flow.collect { show(it.body()) }
 *     }
 * }
 * ```
 *
 * The messages of one client go into one object. It is closed before the client, which waits for the message that the object has.
 */
public class Messages : AsyncMessageHandler, AutoCloseable {
    private class Delivery(val message: Message, val result: Acknowledgement)

    // The client gives one message at a time, so at most one is in the channel.
    private val deliveries = Channel<Delivery>(Channel.UNLIMITED) {
        it.result.failure(CancellationException("no collector got the message"))
    }
    private val collected = AtomicBoolean()

    /**
     * Emits each message. It is acknowledged when the collector has returned from it, and comes again with the next session if the
     * collector fails or is cancelled. Meanwhile the client holds the next ones back, and stops reading when its queue is full.
     *
     * Nothing may stand between that makes the collector return early: no `buffer`, `conflate`, `flowOn` or `shareIn`. Operators that
     * end the flow, such as `first` and `take`, do so before their last message is acknowledged, so it comes again.
     *
     * The flow does not end by itself; cancel its collector, or [close]. Only one collector at a time is allowed; a
     * second one gets an [IllegalStateException].
     */
    public val flow: Flow<Message> = flow {
        check(collected.compareAndSet(false, true)) { "the messages have a collector already: only one acknowledges them" }
        try {
            while (true) {
                val delivery = deliveries.receive()
                try {
                    emit(delivery.message)
                } catch (e: Throwable) {
                    delivery.result.failure(e)
                    throw e
                }
                delivery.result.success()
            }
        } finally {
            collected.set(false)
        }
    }

    /** Takes a message from the client. Applications do not call it. */
    override fun handle(message: Message, result: Acknowledgement) {
        deliveries.trySend(Delivery(message, result)).getOrThrow()
    }

    /**
     * Ends the collector with a [CancellationException], and takes no further message. One that no collector has got comes again with
     * the next session. Without this, a client that closes waits its closeTimeout for that message.
     */
    override fun close(): Unit = deliveries.cancel()
}
