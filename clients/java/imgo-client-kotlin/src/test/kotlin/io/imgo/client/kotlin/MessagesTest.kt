package io.imgo.client.kotlin

import io.imgo.client.ClientListener
import io.imgo.client.ErrorCode
import io.imgo.client.ImgoClient
import io.imgo.client.ImgoClientBuilder
import io.imgo.client.ImgoException
import io.imgo.client.Message
import java.io.DataInputStream
import java.io.IOException
import java.net.InetAddress
import java.net.ServerSocket
import java.nio.ByteBuffer
import java.util.concurrent.TimeUnit
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.async
import kotlinx.coroutines.cancel
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import org.assertj.core.api.Assertions.assertThat
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.Timeout

internal const val LIMIT = 30_000L

/** One session of a server that does what the test says. */
internal class Server : AutoCloseable {
    private val listener = ServerSocket(0, 1, InetAddress.getByName("127.0.0.1")).apply { soTimeout = LIMIT.toInt() }
    private val accepted = lazy { listener.accept().apply { soTimeout = LIMIT.toInt() } }
    private val socket by accepted
    private val input by lazy { DataInputStream(socket.getInputStream()) }
    val address = "127.0.0.1:${listener.localPort}"

    fun write(op: Int, seq: Int, id: Long, body: String) {
        val packet = ByteBuffer.allocate(24 + body.length)
        packet.putInt(24 + body.length).putShort(24).putShort(2).putInt(op).putInt(seq).putLong(id).put(body.toByteArray())
        socket.getOutputStream().write(packet.array())
    }

    /** Waits for a packet and returns its sequence and body. */
    fun expect(op: Int): Pair<Int, ByteArray> {
        val header = ByteArray(16).also(input::readFully)
        val packet = ByteBuffer.wrap(ByteArray(ByteBuffer.wrap(header).getInt() - 16).also(input::readFully))
        if (ByteBuffer.wrap(header).getShort(4) == 24.toShort()) packet.getLong() // the id
        val body = ByteArray(packet.remaining()).also(packet::get)
        assertThat(ByteBuffer.wrap(header).getInt(8)).isEqualTo(op)
        return Pair(ByteBuffer.wrap(header).getInt(12), body)
    }

    fun auth() = write(8, expect(7).first, 0, "{}")

    fun ack(): Long {
        val (seq, body) = expect(18)
        if (seq != 0) write(19, seq, 0, "")
        assertThat(body).hasSize(8)
        return ByteBuffer.wrap(body).getLong()
    }

    override fun close() {
        if (accepted.isInitialized()) socket.close()
        listener.close()
    }
}

@Timeout(120)
class MessagesTest {
    private val server = Server()
    private val errors = Channel<ImgoException>(Channel.UNLIMITED)

    @AfterEach
    fun stop() = server.close()

    private fun builder(): ImgoClientBuilder = ImgoClient.builder().address(server.address).token("t").ackDelay(0, TimeUnit.MILLISECONDS)
        .listener(object : ClientListener {
            override fun onError(error: ImgoException) {
                errors.trySend(error)
            }
        })

    private suspend fun <T> io(work: () -> T): T = withContext(Dispatchers.IO) { work() }

    private fun test(body: suspend CoroutineScope.() -> Unit) = runBlocking { withTimeout(LIMIT) { body() } }

    @Test
    fun `the return of the collector acknowledges`() = test {
        val messages = Messages()
        builder().onMessageAsync(messages).build().use { client ->
            val connected = async { client.connect().result() }
            io { server.auth() }
            connected.await()
            io { server.write(5, 0, 1, "a"); server.write(5, 0, 2, "b") }
            val began = Channel<Message>(Channel.UNLIMITED)
            val go = Channel<Unit>(Channel.UNLIMITED)
            val collector = launch {
                messages.flow.collect {
                    began.send(it)
                    go.receive()
                }
            }
            assertThat(began.receive().id()).isEqualTo(1)
            assertThat(began.tryReceive().isFailure).isTrue()
            go.send(Unit)
            assertThat(io { server.ack() }).isEqualTo(1)
            assertThat(began.receive().id()).isEqualTo(2)
            collector.cancelAndJoin()
            assertThat(errors.receive().code()).isEqualTo(ErrorCode.HANDLER)
            // A new collector goes on where the last one ended.
            io { server.write(5, 0, 3, "c") }
            val next = launch { messages.flow.collect { began.send(it) } }
            assertThat(began.receive().id()).isEqualTo(3)
            assertThat(io { server.ack() }).isEqualTo(3)
            next.cancelAndJoin()
        }
    }

    @Test
    fun `a collector that fails does not acknowledge`() = test {
        val messages = Messages()
        builder().onMessageAsync(messages).build().use { client ->
            val connected = async { client.connect().result() }
            io { server.auth() }
            connected.await()
            io { server.write(5, 0, 1, "a"); server.write(5, 0, 2, "b") }
            val failure = runCatching { messages.flow.collect { throw IOException("no") } }.exceptionOrNull()
            assertThat(failure).isInstanceOf(IOException::class.java).hasMessage("no")
            assertThat(errors.receive()).hasMessageContaining("message 1").hasMessageContaining("no")
            // What ends the flow counts as a failure as well.
            assertThat(messages.flow.first().id()).isEqualTo(2)
            assertThat(errors.receive()).hasMessageContaining("message 2")
        }
    }

    @Test
    fun `a message that nobody collects does not hold up the close`() = test {
        val messages = Messages()
        builder().onMessageAsync(messages).closeTimeout(1, TimeUnit.DAYS).build().use { client ->
            messages.use {
                val connected = async { client.connect().result() }
                io { server.auth() }
                connected.await()
                io { server.write(5, 0, 1, "a"); server.write(5, 0, 2, "b") }
                runCatching { messages.flow.collect { throw IOException("no") } }
                assertThat(errors.receive()).hasMessageContaining("message 1")
            }
            assertThat(errors.receive()).hasMessageContaining("message 2")
            assertThat(runCatching { messages.flow.first() }.exceptionOrNull()).isInstanceOf(CancellationException::class.java)
            client.closeAsync().result()
        }
    }

    @Test
    fun `a second collector is refused`() = test {
        val messages = Messages()
        val first = launch(start = CoroutineStart.UNDISPATCHED) { messages.flow.collect {} }
        assertThat(runCatching { messages.flow.collect {} }.exceptionOrNull()).isInstanceOf(IllegalStateException::class.java)
        first.cancelAndJoin()
    }

    @Test
    fun `a handler may suspend and fail`() = test {
        val scope = CoroutineScope(Dispatchers.Default + SupervisorJob())
        builder().onMessage(scope) {
            delay(1)
            if (it.id() == 1L) throw IOException("no")
        }.build().use { client ->
            val connected = async { client.connect().result() }
            io { server.auth() }
            connected.await()
            io { server.write(5, 0, 1, "a"); server.write(5, 0, 2, "b") }
            assertThat(errors.receive()).hasMessageContaining("message 1")
            assertThat(io { server.ack() }).isEqualTo(2)
            assertThat(scope.isActive).isTrue()
            scope.cancel()
            io { server.write(5, 0, 3, "c") }
            assertThat(errors.receive()).hasMessageContaining("message 3")
        }
    }

    @Test
    fun `calls fail with their error and may be cancelled`() = test {
        builder().onMessageAsync(Messages()).build().use { client ->
            val waiting = launch { client.connect().result() }
            io { server.expect(7) }
            waiting.cancelAndJoin()
            assertThat(runCatching { client.send(ByteArray(0)).result() }.exceptionOrNull())
                .isInstanceOfSatisfying(ImgoException::class.java) { assertThat(it.code()).isEqualTo(ErrorCode.NOT_LIVE) }
            assertThat(client.closeAsync().result()).isNull()
        }
        assertThat(coroutineContext[Job]!!.children.count()).isZero()
    }
}
