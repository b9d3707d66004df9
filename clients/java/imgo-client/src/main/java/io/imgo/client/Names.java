package io.imgo.client;

import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/** The rule for names of devices, platforms and rooms. */
final class Names {
    private static final int MAX_BYTES = 128;

    private Names() {}

    /** Throws an error that names the field if the name is not 1 to 128 bytes of UTF-8 without control characters. */
    static void check(String field, String name) {
        if (name == null || name.isEmpty()) {
            throw invalid(field, "is empty");
        }
        int bytes;
        try {
            bytes = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(name)).remaining();
        } catch (CharacterCodingException e) {
            throw invalid(field, "has half of a surrogate pair");
        }
        if (bytes > MAX_BYTES) {
            throw invalid(field, "has " + bytes + " bytes");
        }
        for (int i = 0; i < name.length(); i++) {
            if (Character.isISOControl(name.charAt(i))) {
                throw invalid(field, "has the control character U+" + Integer.toHexString(0x10000 + name.charAt(i)).substring(1));
            }
        }
    }

    private static ImgoException invalid(String field, String why) {
        return new ImgoException(
                ErrorCode.INVALID, field + " " + why + ": give 1 to " + MAX_BYTES + " bytes of text without control characters");
    }
}
