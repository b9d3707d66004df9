package io.imgo.client;

import java.nio.ByteBuffer;

/** A queue of bytes in one array that grows and shrinks. One thread uses it. */
final class Bytes {
    private static final int SMALL = 4096;

    private ByteBuffer buffer = ByteBuffer.allocate(SMALL); // ready to be read from
    private int end; // the position after the last byte

    Bytes() {
        Buffers.limit(buffer, 0);
    }

    int size() {
        return buffer.remaining();
    }

    /** Returns the bytes. What the caller takes from the buffer is gone from the queue. */
    ByteBuffer bytes() {
        return buffer;
    }

    /** Returns a buffer with room for at least that many bytes behind the last one. The caller puts bytes and calls added. */
    ByteBuffer room(int bytes) {
        if (!buffer.hasRemaining()) {
            // Nothing waits: begin anew, in a small array if the last one was large.
            if (buffer.capacity() > 16 * SMALL && bytes <= SMALL) {
                buffer = ByteBuffer.allocate(SMALL);
            }
            Buffers.clear(buffer);
            Buffers.limit(buffer, 0);
        }
        if (buffer.capacity() - buffer.limit() < bytes) {
            int needed = buffer.remaining() + bytes;
            ByteBuffer next = needed <= buffer.capacity() ? buffer : ByteBuffer.allocate(Math.max(needed, 2 * buffer.capacity()));
            if (next == buffer) {
                buffer.compact();
                Buffers.flip(buffer);
            } else {
                next.put(buffer);
                Buffers.flip(next);
                buffer = next;
            }
        }
        ByteBuffer room = buffer.duplicate();
        Buffers.limit(room, room.capacity());
        Buffers.position(room, buffer.limit());
        end = buffer.limit();
        return room;
    }

    /** Notes how many bytes the caller has put. */
    void added(int bytes) {
        Buffers.limit(buffer, end + bytes);
        end += bytes;
    }

    void add(ByteBuffer bytes) {
        int count = bytes.remaining();
        room(count).put(bytes);
        added(count);
    }
}
