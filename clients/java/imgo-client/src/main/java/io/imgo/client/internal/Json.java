package io.imgo.client.internal;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON as RFC 8259 describes it, and nothing beyond: no comments, no names that occur twice, no half surrogates, no bytes
 * after the value.
 *
 * <p>Values are {@link Map} (in the order of the text), {@link List}, {@link String}, {@link Boolean}, {@link Long},
 * {@link BigInteger} (an integer that a long cannot hold), {@link Double} and null.
 */
public final class Json {
    /** The largest depth of arrays and objects, for reading and for writing. */
    public static final int MAX_DEPTH = 500;

    private Json() {}

    /** A text that is not JSON, or a value that has no JSON. */
    public static final class JsonException extends IllegalArgumentException {
        private static final long serialVersionUID = 1L;

        JsonException(String message) {
            super(message);
        }
    }

    /** A JSON text that {@link #write} copies as it is. */
    public static final class Raw {
        private final String text;

        /**
         * Checks the text.
         *
         * @param text a JSON value
         * @throws JsonException if the text is not JSON
         */
        public Raw(String text) {
            parse(text);
            this.text = text;
        }

        @Override
        public String toString() {
            return text;
        }
    }

    /**
     * Reads bytes in UTF-8.
     *
     * @param bytes the text of one value
     * @return the value
     * @throws JsonException if the bytes are not JSON
     */
    public static Object parse(byte[] bytes) {
        try {
            // A decoder of one's own is strict; new String replaces bad bytes.
            return parse(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString());
        } catch (CharacterCodingException e) {
            throw new JsonException("the text is not UTF-8");
        }
    }

    /**
     * Reads a text.
     *
     * @param text one value
     * @return the value
     * @throws JsonException if the text is not JSON
     */
    public static Object parse(String text) {
        Reader reader = new Reader(text);
        reader.space();
        Object value = reader.value(0);
        reader.space();
        if (reader.at < text.length()) {
            throw reader.error("there is more after the value");
        }
        return value;
    }

    /**
     * Writes a value: what {@link #parse} returns, and also any {@link Iterable}, any {@link Number} of the JDK, and
     * {@link Raw}.
     *
     * @param value the value
     * @return its JSON, without spaces
     * @throws JsonException if the value, or one inside it, has no JSON
     */
    public static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(out, value, 0);
        return out.toString();
    }

    private static void write(StringBuilder out, Object value, int depth) {
        if (depth > MAX_DEPTH) {
            throw new JsonException("the value is nested deeper than " + MAX_DEPTH);
        }
        if (value == null || value instanceof Boolean || value instanceof Raw) {
            out.append(value);
        } else if (value instanceof CharSequence) {
            writeString(out, (CharSequence) value);
        } else if (value instanceof Number) {
            writeNumber(out, (Number) value);
        } else if (value instanceof Map) {
            writeMap(out, (Map<?, ?>) value, depth);
        } else if (value instanceof Iterable) {
            char before = '[';
            for (Object element : (Iterable<?>) value) {
                out.append(before);
                write(out, element, depth + 1);
                before = ',';
            }
            out.append(before == '[' ? "[]" : "]");
        } else {
            throw new JsonException("a value of " + value.getClass().getName() + " has no JSON: use a map, a list, a string,"
                    + " a number, a boolean or null");
        }
    }

    private static void writeMap(StringBuilder out, Map<?, ?> map, int depth) {
        char before = '{';
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            if (!(entry.getKey() instanceof CharSequence)) {
                throw new JsonException("a map has the key " + entry.getKey() + ", which is no string");
            }
            out.append(before);
            writeString(out, (CharSequence) entry.getKey());
            out.append(':');
            write(out, entry.getValue(), depth + 1);
            before = ',';
        }
        out.append(before == '{' ? "{}" : "}");
    }

    private static void writeNumber(StringBuilder out, Number number) {
        if (number instanceof Double || number instanceof Float) {
            double d = number.doubleValue();
            if (Double.isNaN(d) || Double.isInfinite(d)) {
                throw new JsonException("the number " + number + " has no JSON");
            }
        } else if (!(number instanceof Long || number instanceof Integer || number instanceof Short || number instanceof Byte
                || number instanceof BigInteger || number instanceof BigDecimal)) {
            throw new JsonException("a number of " + number.getClass().getName() + " has no JSON");
        }
        out.append(number);
    }

    private static void writeString(StringBuilder out, CharSequence text) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < 0x20) {
                out.append("\\u00").append(Character.forDigit(c >> 4, 16)).append(Character.forDigit(c & 15, 16));
            } else if (Character.isSurrogate(c)) {
                if (!Character.isHighSurrogate(c) || i + 1 == text.length() || !Character.isLowSurrogate(text.charAt(i + 1))) {
                    throw new JsonException("a string has half of a surrogate pair at index " + i);
                }
                out.append(c).append(text.charAt(++i));
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }

    private static final class Reader {
        private final String text;
        private int at;

        Reader(String text) {
            this.text = text;
        }

        JsonException error(String what) {
            return new JsonException("no JSON at index " + at + ": " + what);
        }

        /** Returns the next character, or -1 at the end. */
        int peek() {
            return at < text.length() ? text.charAt(at) : -1;
        }

        void space() {
            while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
                at++;
            }
        }

        void expect(char c) {
            if (peek() != c) {
                throw error("'" + c + "' is missing");
            }
            at++;
        }

        /** Reports whether c follows, after spaces, and goes past it. */
        boolean next(char c) {
            space();
            if (peek() != c) {
                return false;
            }
            at++;
            return true;
        }

        Object value(int depth) {
            if (depth > MAX_DEPTH) {
                throw error("the value is nested deeper than " + MAX_DEPTH);
            }
            switch (peek()) {
                case '{':
                    return object(depth);
                case '[':
                    return array(depth);
                case '"':
                    return string();
                case 't':
                    return word("true", Boolean.TRUE);
                case 'f':
                    return word("false", Boolean.FALSE);
                case 'n':
                    return word("null", null);
                default:
                    return number();
            }
        }

        Object word(String word, Object value) {
            if (!text.startsWith(word, at)) {
                throw error("a value is missing");
            }
            at += word.length();
            return value;
        }

        Map<String, Object> object(int depth) {
            Map<String, Object> map = new LinkedHashMap<>();
            expect('{');
            if (next('}')) {
                return map;
            }
            do {
                space();
                String name = string();
                space();
                expect(':');
                space();
                Object value = value(depth + 1);
                if (map.containsKey(name)) {
                    throw error("the name \"" + name + "\" occurs twice");
                }
                map.put(name, value);
            } while (next(','));
            expect('}');
            return map;
        }

        List<Object> array(int depth) {
            List<Object> list = new ArrayList<>();
            expect('[');
            if (next(']')) {
                return list;
            }
            do {
                space();
                list.add(value(depth + 1));
            } while (next(','));
            expect(']');
            return list;
        }

        String string() {
            expect('"');
            StringBuilder out = new StringBuilder();
            for (int c = peek(); c != '"'; c = peek()) {
                if (c < 0x20) {
                    throw error(c < 0 ? "the string does not end" : "a string has a control character");
                }
                at++;
                out.append(c == '\\' ? escape() : (char) c);
            }
            at++;
            for (int i = 0; i < out.length(); i++) {
                if (Character.isSurrogate(out.charAt(i)) && !(Character.isHighSurrogate(out.charAt(i))
                        && i + 1 < out.length() && Character.isLowSurrogate(out.charAt(++i)))) {
                    throw error("a string has half of a surrogate pair");
                }
            }
            return out.toString();
        }

        /** Reads what follows a backslash. */
        char escape() {
            int c = peek();
            int plain = "\"\\/bfnrt".indexOf(c);
            if (plain >= 0) {
                at++;
                return "\"\\/\b\f\n\r\t".charAt(plain);
            }
            if (c != 'u' || at + 5 > text.length()) {
                throw error("a backslash and no escape");
            }
            int code = 0;
            for (int i = 1; i <= 4; i++) {
                char h = text.charAt(at + i);
                int digit = h < 0x80 ? Character.digit(h, 16) : -1; // digit() also knows digits of other scripts
                if (digit < 0) {
                    throw error("\\u without four hexadecimal digits");
                }
                code = code << 4 | digit;
            }
            at += 5;
            return (char) code;
        }

        /** Goes past digits and returns their number. */
        int digits() {
            int from = at;
            while (peek() >= '0' && peek() <= '9') {
                at++;
            }
            return at - from;
        }

        Number number() {
            int from = at;
            if (peek() == '-') {
                at++;
            }
            boolean zero = peek() == '0';
            int whole = digits();
            if (whole == 0) {
                throw error("a value is missing");
            }
            if (zero && whole > 1) {
                throw error("a number begins with 0");
            }
            boolean integer = true;
            if (peek() == '.') {
                at++;
                integer = false;
                if (digits() == 0) {
                    throw error("a number has no digit after its point");
                }
            }
            if (peek() == 'e' || peek() == 'E') {
                at++;
                integer = false;
                if (peek() == '+' || peek() == '-') {
                    at++;
                }
                if (digits() == 0) {
                    throw error("a number has no digit in its exponent");
                }
            }
            return convert(text.substring(from, at), integer);
        }

        private Number convert(String digits, boolean integer) {
            if (integer && digits.length() <= 18) {
                return Long.valueOf(digits);
            }
            if (integer) {
                // The time of a conversion grows with the square of the length.
                if (digits.length() > 1000) {
                    throw error("a number has more than 1000 digits");
                }
                BigInteger big = new BigInteger(digits);
                return big.bitLength() < 64 ? (Number) big.longValue() : big;
            }
            Double number = Double.valueOf(digits);
            if (number.isInfinite()) {
                throw error("a number is too large");
            }
            return number;
        }
    }
}
