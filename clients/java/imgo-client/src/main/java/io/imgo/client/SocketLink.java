package io.imgo.client;

import io.imgo.client.spi.Link;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;

/** A connection over TCP, with or without TLS. One thread uses it. */
final class SocketLink implements Link {
    private static final int READ_SIZE = 16 << 10;

    private final SocketChannel channel;
    private final int maxBody;
    private final Tls tls; // null without TLS
    private final Bytes in = new Bytes(); // decrypted bytes that are not yet returned
    private final Bytes out = new Bytes(); // bytes that the socket has not taken
    private final ByteBuffer empty = ByteBuffer.allocate(0);
    private SelectionKey key;
    private boolean reading = true;
    private boolean ended;
    private long arrived;

    SocketLink(SocketChannel channel, int maxBody, Tls tls) {
        this.channel = channel;
        this.maxBody = maxBody;
        this.tls = tls;
    }

    @Override
    public void begin(Selector selector) throws IOException {
        key = channel.register(selector, SelectionKey.OP_READ);
        if (tls != null) {
            tls.begin(out);
        }
    }

    @Override
    public boolean isOpen() {
        return tls == null || tls.isOpen();
    }

    @Override
    public void process() throws IOException {
        if (tls != null && !tls.isOpen()) {
            fill();
            if (ended && !tls.isOpen()) {
                flushQuietly();
                throw new EOFException("the server ended the connection during the TLS handshake");
            }
        }
        flush();
    }

    private void flush() throws IOException {
        while (out.size() > 0 && channel.write(out.bytes()) > 0) {
            // as long as the socket takes bytes
        }
        interest();
    }

    /** Sends what tells the peer why TLS failed. */
    private void flushQuietly() {
        try {
            flush();
        } catch (IOException e) {
            // The peer is gone.
        }
    }

    private void interest() {
        int ops = (reading && !ended ? SelectionKey.OP_READ : 0) | (out.size() > 0 ? SelectionKey.OP_WRITE : 0);
        if (key.interestOps() != ops) {
            key.interestOps(ops);
        }
    }

    @Override
    public ByteBuffer receive() throws IOException {
        while (true) {
            ByteBuffer packet = cut();
            if (packet != null) {
                return packet;
            }
            if (ended) {
                throw new EOFException("the server ended the connection");
            }
            if (!reading || !fill()) {
                return null;
            }
        }
    }

    /** Returns the first packet if all of it is there. */
    private ByteBuffer cut() throws IOException {
        ByteBuffer bytes = in.bytes();
        int length = Packet.length(bytes, maxBody);
        if (length == 0 || bytes.remaining() < length) {
            return null;
        }
        ByteBuffer packet = bytes.duplicate();
        Buffers.limit(packet, packet.position() + length);
        Buffers.position(bytes, bytes.position() + length);
        return packet;
    }

    /** Reads once from the socket. It reports whether something has changed. */
    private boolean fill() throws IOException {
        if (tls == null) {
            int count = readInto(in.room(READ_SIZE));
            in.added(Math.max(count, 0));
            return count != 0;
        }
        ByteBuffer plain = decrypt();
        if (!plain.hasRemaining() && !ended) {
            ByteBuffer buffer = tls.toFill();
            int count;
            try {
                count = readInto(buffer);
            } finally {
                tls.filled();
            }
            if (count == 0) {
                return false;
            }
            plain = decrypt();
        }
        in.add(plain);
        return true;
    }

    private ByteBuffer decrypt() throws IOException {
        try {
            ByteBuffer plain = tls.read(out);
            ended |= tls.hasEnded();
            return plain;
        } catch (IOException e) {
            flushQuietly(); // the alert
            throw e;
        } finally {
            if (out.size() > 0) {
                flushQuietly();
            }
        }
    }

    private int readInto(ByteBuffer buffer) throws IOException {
        int count = channel.read(buffer);
        if (count < 0) {
            ended = true;
            interest();
        } else if (count > 0) {
            arrived++;
        }
        return count;
    }

    @Override
    public void setReading(boolean wanted) {
        reading = wanted;
        interest();
    }

    @Override
    public long arrived() {
        return arrived;
    }

    @Override
    public boolean hasUnread() throws IOException {
        if (in.size() > 0 || (tls != null && tls.hasUnread())) {
            return true;
        }
        if (ended) {
            return false;
        }
        int ops = key.interestOps();
        key.interestOps(SelectionKey.OP_READ);
        try {
            key.selector().selectedKeys().clear();
            key.selector().selectNow();
            return key.isReadable();
        } finally {
            key.selector().selectedKeys().clear();
            key.interestOps(ops);
        }
    }

    @Override
    public void send(ByteBuffer packet) throws IOException {
        if (tls == null) {
            out.add(packet);
        } else {
            tls.write(packet, out);
        }
        flush();
    }

    @Override
    public long unsent() {
        return out.size();
    }

    @Override
    public void close() {
        if (!channel.isOpen()) {
            return;
        }
        if (tls != null && tls.isOpen()) {
            tls.end(out);
            if (key != null && key.isValid()) {
                flushQuietly();
            }
        }
        try {
            channel.close();
        } catch (IOException e) {
            // The socket is gone in any case.
        }
    }
}
