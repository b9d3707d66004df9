package io.imgo.client.kotlin

import io.imgo.client.ErrorCode
import io.imgo.client.ImgoClient
import io.imgo.client.ImgoException
import io.imgo.client.LogHook
import io.imgo.client.State
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import org.assertj.core.api.Assertions.assertThat
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.Timeout

@Timeout(120)
class EventsTest {
    private val server = Server()
    private val lines = LinkedBlockingQueue<String>()

    @AfterEach
    fun stop() = server.close()

    private fun client(events: Events): ImgoClient = ImgoClient.builder().address(server.address).token("t").device("phone")
        .listener(events).onMessageAsync(Messages()).log { level, line -> if (level == LogHook.Level.WARN) lines.add(line) }.build()

    private fun test(body: suspend CoroutineScope.() -> Unit) = runBlocking { withTimeout(LIMIT) { body() } }

    private suspend fun <T> io(work: () -> T): T = withContext(Dispatchers.IO) { work() }

    /** Begins to collect before it returns. */
    private fun <T> CoroutineScope.collecting(flow: Flow<T>, count: Int) =
        async(start = CoroutineStart.UNDISPATCHED) { flow.take(count).toList() }

    @Test
    fun `publishes and reads`() = test {
        val events = Events()
        client(events).use { client ->
            val live = async(start = CoroutineStart.UNDISPATCHED) { events.states.first { it.state() == State.LIVE } }
            val published = collecting(events.published, 2)
            val dismissed = collecting(events.dismissals, 1)
            val number = client.publish("a".toByteArray()).result()
            assertThat(number).isEqualTo(1L)
            val connected = async { client.connect().result() }
            io { server.auth() }
            connected.await()
            live.await()
            assertThat(client.publish(1000, "b".toByteArray()).result()).isEqualTo(2L)
            val (seq, body) = io { server.expect(4) }
            assertThat(String(body)).isEqualTo("a")
            io { server.write(4, seq, 0, "reply") }
            io { server.write(28, server.expect(1000).first, 0, """{"op":1000,"code":"unsupported","reason":"no rule"}""") }
            val (first, second) = published.await()
            assertThat(first.number()).isEqualTo(1)
            assertThat(String(first.body())).isEqualTo("reply")
            assertThat(second.error().serverCode()).isEqualTo("unsupported")

            val read = async { client.read(longArrayOf(7), 0).result() }
            io { server.write(25, server.expect(24).first, 0, "") }
            read.await()
            io { server.write(26, 0, 9, "") }
            assertThat(dismissed.await().single().covers(9)).isTrue()
            val refused = async { runCatching { client.read(longArrayOf(), 8).result() } }
            io { server.write(28, server.expect(24).first, 0, """{"op":24,"code":"unavailable"}""") }
            assertThat(refused.await().exceptionOrNull())
                .isInstanceOfSatisfying(ImgoException::class.java) { assertThat(it.code()).isEqualTo(ErrorCode.DENIED) }
        }
    }

    /** A collector that is too far behind loses events, which the log tells, and the client goes on. */
    @Test
    fun `a slow collector is told`() = test {
        val events = Events(capacity = 1)
        client(events).use { client ->
            val connected = async { client.connect().result() }
            io { server.auth() }
            connected.await()
            val slow = launch(start = CoroutineStart.UNDISPATCHED) { events.dismissals.collect { awaitCancellation() } }
            io { repeat(5) { server.write(26, 0, it + 1L, "") } }
            assertThat(io { lines.poll(LIMIT, TimeUnit.MILLISECONDS) }).contains("listener failed").contains("dropped")
            assertThat(client.state()).isEqualTo(State.LIVE)
            slow.cancelAndJoin()
        }
    }
}
