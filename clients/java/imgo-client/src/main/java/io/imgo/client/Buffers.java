package io.imgo.client;

import java.nio.Buffer;

/**
 * Methods of {@link Buffer}. Since Java 9 {@code ByteBuffer} overrides them with another return type, and code that was compiled
 * for these overrides does not run on older Android.
 */
final class Buffers {
    private Buffers() {}

    static void flip(Buffer buffer) {
        buffer.flip();
    }

    static void clear(Buffer buffer) {
        buffer.clear();
    }

    static void limit(Buffer buffer, int limit) {
        buffer.limit(limit);
    }

    static void position(Buffer buffer, int position) {
        buffer.position(position);
    }
}
