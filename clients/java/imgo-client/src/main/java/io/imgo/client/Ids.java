package io.imgo.client;

import java.math.BigInteger;

/** Unsigned 64-bit numbers. Android has the methods of {@link Long} for them only from API level 26 on. */
final class Ids {
    private static final BigInteger TWO_64 = BigInteger.ONE.shiftLeft(64);

    private Ids() {}

    static String text(long id) {
        return id >= 0 ? Long.toString(id) : BigInteger.valueOf(id).add(TWO_64).toString();
    }

    static int compare(long a, long b) {
        long x = a + Long.MIN_VALUE;
        long y = b + Long.MIN_VALUE;
        return x < y ? -1 : x == y ? 0 : 1;
    }

    /** Reads 1 to 20 decimal digits. It throws NumberFormatException for anything else, and for more than 64 bits. */
    static long parse(String text) {
        if (text.isEmpty() || text.length() > 20) {
            throw new NumberFormatException("not an id: " + text.length() + " characters");
        }
        for (int i = 0; i < text.length(); i++) {
            if (text.charAt(i) < '0' || text.charAt(i) > '9') {
                throw new NumberFormatException("not an id: \"" + text + "\"");
            }
        }
        BigInteger id = new BigInteger(text);
        if (id.bitLength() > 64) {
            throw new NumberFormatException("not an id: " + text + " has more than 64 bits");
        }
        return id.longValue();
    }
}
