package io.imgo.server;

import java.time.Duration;

/** Checks of arguments. */
final class Arguments {
    private Arguments() {}

    static <T> T notNull(String name, T value) {
        if (value == null) {
            throw new IllegalArgumentException(name + " must not be null");
        }
        return value;
    }

    static Duration positive(String name, Duration value) {
        if (notNull(name, value).compareTo(Duration.ofMillis(1)) < 0 || value.compareTo(Duration.ofDays(36_500)) > 0) {
            throw new IllegalArgumentException(name + " is " + value + ": it must be a millisecond to a hundred years");
        }
        return value;
    }
}
