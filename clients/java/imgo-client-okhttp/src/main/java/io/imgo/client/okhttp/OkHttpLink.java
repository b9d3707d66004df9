package io.imgo.client.okhttp;

import io.imgo.client.spi.Link;
import io.imgo.client.spi.LinkClosedException;
import io.imgo.client.spi.PacketException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.Selector;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.ExecutorService;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.WebSocket;
import okhttp3.WebSocketListener;
import okio.ByteString;

/**
 * A WebSocket. OkHttp's reader thread waits in the listener while the queue is full, so the socket is not read either. That is
 * the flow control of the client.
 */
final class OkHttpLink extends WebSocketListener implements Link {
    /** The reader thread waits while so many bytes are in the queue. */
    private static final int MAX_QUEUED = 64 << 10;
    private static final int FIRST_APPLICATION_CODE = 3000;

    private final ExecutorService threads;
    private WebSocket webSocket; // set before the link is given out

    // The monitor of the link guards the following.
    private final Deque<ByteString> queue = new ArrayDeque<>();
    private long queued; // bytes
    private long arrived;
    private boolean open;
    private boolean closed; // by the client
    private IOException end;
    private Selector selector;

    OkHttpLink(ExecutorService threads) {
        this.threads = threads;
    }

    void connect(OkHttpClient client, Request request) {
        webSocket = client.newWebSocket(request, this);
    }

    @Override
    public synchronized void begin(Selector selector) {
        this.selector = selector;
    }

    private void wakeup() {
        if (selector != null && !closed) {
            selector.wakeup();
        }
    }

    @Override
    public synchronized void onOpen(WebSocket socket, Response response) {
        open = true;
        wakeup();
    }

    @Override
    public synchronized void onMessage(WebSocket socket, ByteString bytes) {
        arrived++;
        try {
            while (!closed && queued >= MAX_QUEUED) {
                wait();
            }
        } catch (InterruptedException e) {
            closed = true; // the executor ends
            Thread.currentThread().interrupt();
        }
        if (!closed) {
            queue.add(bytes);
            queued += bytes.size();
            wakeup();
        }
    }

    @Override
    public void onMessage(WebSocket socket, String text) {
        end(new PacketException("the server sent a text message to a client that speaks binary packets"));
        socket.cancel();
    }

    @Override
    public void onClosing(WebSocket socket, int code, String reason) {
        end(code >= FIRST_APPLICATION_CODE ? new LinkClosedException(code, reason)
                : new EOFException("the server closed the WebSocket" + (reason.isEmpty() ? "" : ": " + reason) + " (" + code + ")"));
    }

    @Override
    public void onFailure(WebSocket socket, Throwable error, Response response) {
        if (response != null && response.code() != 101) {
            end(new IOException("the answer is " + response.code() + " " + response.message(), error));
        } else {
            end(error instanceof IOException ? (IOException) error : new IOException(error.toString(), error));
        }
    }

    private synchronized void end(IOException cause) {
        if (end == null) {
            end = cause;
            wakeup();
        }
    }

    @Override
    public synchronized void process() throws IOException {
        if (!open && end != null) {
            throw end;
        }
    }

    @Override
    public synchronized boolean isOpen() {
        return open;
    }

    @Override
    public synchronized ByteBuffer receive() throws IOException {
        ByteString bytes = queue.poll();
        if (bytes != null) {
            if (queued >= MAX_QUEUED) {
                notifyAll();
            }
            queued -= bytes.size();
            return bytes.asByteBuffer();
        }
        if (end != null) {
            throw end;
        }
        return null;
    }

    @Override
    public void setReading(boolean wanted) {
        // The reader thread stops when nobody takes from the queue.
    }

    @Override
    public synchronized long arrived() {
        return arrived;
    }

    @Override
    public synchronized boolean hasUnread() {
        return !queue.isEmpty();
    }

    @Override
    public void send(ByteBuffer packet) throws IOException {
        if (!webSocket.send(ByteString.of(packet))) {
            synchronized (this) {
                throw end != null ? end : new IOException("the WebSocket takes no more packets");
            }
        }
    }

    @Override
    public long unsent() {
        return webSocket.queueSize();
    }

    @Override
    public boolean boundsWrites() {
        return true; // by OkHttp's time limit, for each 64 KiB of a message
    }

    @Override
    public void close() {
        synchronized (this) {
            closed = true;
            queue.clear();
            queued = 0;
            notifyAll();
        }
        webSocket.cancel();
        threads.shutdown();
    }
}
