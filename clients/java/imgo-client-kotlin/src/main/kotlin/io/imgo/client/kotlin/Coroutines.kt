package io.imgo.client.kotlin

import io.imgo.client.Completion
import io.imgo.client.ImgoClientBuilder
import io.imgo.client.ImgoException
import io.imgo.client.Message
import kotlin.coroutines.resumeWithException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.launch
import kotlinx.coroutines.suspendCancellableCoroutine

/**
 * Waits for the end of a call without blocking a thread, as in `client.connect().result()`. To cancel the wait does not end the call.
 *
 * @return the result; null if the call has none
 * @throws ImgoException if the call failed
 */
public suspend fun <T> Completion<T>.result(): T? = suspendCancellableCoroutine { waiting ->
    whenDone { value, error ->
        if (error == null) {
            waiting.resume(value) { _, _, _ -> }
        } else {
            waiting.resumeWithException(error)
        }
    }
}

/**
 * Sets a handler that suspends. It runs in [scope] for one message at a time. Its return acknowledges the message. If it throws, or if the
 * scope is cancelled, the message comes again with the next session; the scope is not cancelled by that.
 *
 * @param scope where the handler runs, in a coroutine for each message
 * @param handler handles a message
 * @return this builder
 */
public fun ImgoClientBuilder.onMessage(scope: CoroutineScope, handler: suspend (Message) -> Unit): ImgoClientBuilder =
    onMessageAsync { message, result ->
        scope.launch {
            try {
                handler(message)
                result.success()
            } catch (e: CancellationException) {
                result.failure(e)
                throw e
            } catch (e: Throwable) {
                result.failure(e)
            }
        }.invokeOnCompletion { cause ->
            // A scope that is cancelled already does not even begin. Otherwise the result is there, and this one does not count.
            result.failure(cause)
        }
    }
