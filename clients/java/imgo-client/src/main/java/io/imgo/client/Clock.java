package io.imgo.client;

import java.util.concurrent.TimeUnit;

/** The monotonic clock, in nanoseconds, and the wall clock. Their values are never negative, so they are compared as they are. */
final class Clock {
    /** A time that never comes. */
    static final long NEVER = Long.MAX_VALUE;

    private static final long START = System.nanoTime();

    private Clock() {}

    static long now() {
        return System.nanoTime() - START;
    }

    /** Returns the microseconds since 1970 by the wall clock, which may jump. */
    static long unixMicros() {
        return TimeUnit.MILLISECONDS.toMicros(Math.max(0, System.currentTimeMillis()));
    }
}
