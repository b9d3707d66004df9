package io.imgo.client;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;

/** The addresses of the next attempts: those of the server or the discovery, then the configured one. One thread uses it. */
final class Route {
    private static final int MAX_OTHERS = 5;

    private final Address own;
    private final Deque<Address> left = new ArrayDeque<>();

    Route(Address own) {
        this.own = own;
    }

    /** Starts a round with the usable ones of the addresses. */
    void begin(List<String> addresses) {
        left.clear();
        for (String text : addresses) {
            Address other = own.other(text);
            if (other != null && left.size() < MAX_OTHERS) {
                left.add(other);
            }
        }
        left.add(own);
    }

    boolean isEmpty() {
        return left.isEmpty();
    }

    Address next() {
        return left.poll();
    }

    void clear() {
        left.clear();
    }
}
