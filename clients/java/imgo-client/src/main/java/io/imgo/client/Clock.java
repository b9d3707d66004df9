package io.imgo.client;

/** The monotonic clock, in nanoseconds. Its values are never negative, so they are compared as they are. */
final class Clock {
    /** A time that never comes. */
    static final long NEVER = Long.MAX_VALUE;

    private static final long START = System.nanoTime();

    private Clock() {}

    static long now() {
        return System.nanoTime() - START;
    }
}
