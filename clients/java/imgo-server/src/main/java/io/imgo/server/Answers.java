package io.imgo.server;

import io.imgo.client.internal.Json;
import java.math.BigInteger;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.function.Function;

/** Reads answers. Fields that are not known are ignored, so that a newer server may add some. */
final class Answers {
    private static final int EXCERPT = 300;

    private Answers() {}

    /** Makes the result of a good answer, and throws the error of another one. */
    static <T> T read(String server, HttpResponse<byte[]> response, Function<Map<String, Object>, T> convert) {
        byte[] body = response.body();
        int status = response.statusCode();
        Map<String, Object> answer = null;
        try {
            answer = object(Json.parse(body));
        } catch (IllegalArgumentException e) { // no JSON, or no object; the text below has an excerpt
            answer = null;
        }
        if (status >= 200 && status < 300 && answer != null) {
            try {
                return convert.apply(answer);
            } catch (BadAnswerException e) {
                String text = server + " answered " + status + ", and that is no answer of the API: " + e.getMessage();
                throw PushException.answer(text, PushException.PROTOCOL, status, null, server, null);
            }
        }
        Duration retryAfter = response.headers().firstValue("Retry-After").map(Answers::seconds).orElse(null);
        if (status >= 300 && answer != null && answer.get("error") instanceof Map) {
            throw problem(server + " answered " + status, server, status, object(answer.get("error")), retryAfter);
        }
        String excerpt = new String(body, 0, Math.min(body.length, EXCERPT), StandardCharsets.UTF_8).trim();
        String text = server + " answered " + status + ", and that is no answer of the API: " + excerpt;
        throw PushException.answer(text, PushException.PROTOCOL, status, null, server, retryAfter);
    }

    /** Returns the error of an answer. text begins its message. */
    static PushException problem(String text, String server, int status, Map<String, Object> problem, Duration retryAfter) {
        String code = problem.get("code") instanceof String ? (String) problem.get("code") : PushException.PROTOCOL;
        String field = problem.get("field") instanceof String ? (String) problem.get("field") : null;
        String message = text + ": " + problem.get("message") + " (" + code + (field == null ? "" : ", " + field) + ")"
                + (status == 401 ? ": is the API key right?" : "");
        return PushException.answer(message, code, status, field, server, retryAfter);
    }

    /** Returns the time of a header Retry-After, or null if it is a date or no number. */
    private static Duration seconds(String text) {
        return text.matches("[0-9]{1,9}") ? Duration.ofSeconds(Long.parseLong(text)) : null;
    }

    private static final class BadAnswerException extends IllegalArgumentException {
        private static final long serialVersionUID = 1L;

        BadAnswerException(String message) {
            super(message);
        }
    }

    static void check(boolean good, String problem) {
        if (!good) {
            throw new BadAnswerException(problem);
        }
    }

    @SuppressWarnings("unchecked") // Json makes maps with no other keys
    static Map<String, Object> object(Object value) {
        if (!(value instanceof Map)) {
            throw new BadAnswerException("an object is missing");
        }
        return (Map<String, Object>) value;
    }

    private static <T> T get(Map<String, Object> object, String name, Class<T> type) {
        Object value = object.get(name);
        if (!type.isInstance(value)) {
            throw new BadAnswerException(name + " is missing or of another type");
        }
        return type.cast(value);
    }

    static String string(Map<String, Object> object, String name) {
        return get(object, name, String.class);
    }

    /** Returns a string, or null if there is none. */
    static String stringOrNull(Map<String, Object> object, String name) {
        return object.get(name) == null ? null : string(object, name);
    }

    static boolean bool(Map<String, Object> object, String name) {
        return get(object, name, Boolean.class);
    }

    /** Returns a boolean, or false if there is none. */
    static boolean flag(Map<String, Object> object, String name) {
        return object.get(name) != null && bool(object, name);
    }

    static int count(Map<String, Object> object, String name) {
        long n = get(object, name, Long.class);
        if (n < Integer.MIN_VALUE || n > Integer.MAX_VALUE) {
            throw new BadAnswerException(name + " is " + n);
        }
        return (int) n;
    }

    static int countOr0(Map<String, Object> object, String name) {
        return object.get(name) == null ? 0 : count(object, name);
    }

    static OptionalInt optionalCount(Map<String, Object> object, String name) {
        return object.get(name) == null ? OptionalInt.empty() : OptionalInt.of(count(object, name));
    }

    /** Returns a time, or null if it is 0. */
    static Instant time(Map<String, Object> object, String name) {
        long ms = get(object, name, Long.class);
        return ms == 0 ? null : Instant.ofEpochMilli(ms);
    }

    /** Returns a message id, or 0 if there is none. */
    static long id(Map<String, Object> object, String name) {
        String text = stringOrNull(object, name);
        if (text == null) {
            return 0;
        }
        if (!text.matches("[0-9]{1,20}") || new BigInteger(text).bitLength() > 64) {
            throw new BadAnswerException(name + " is " + text);
        }
        return Long.parseUnsignedLong(text);
    }

    static <T> List<T> list(Map<String, Object> object, String name, Function<Map<String, Object>, T> convert) {
        List<T> all = new ArrayList<>();
        for (Object element : get(object, name, List.class)) {
            all.add(convert.apply(object(element)));
        }
        return List.copyOf(all);
    }

    static List<String> strings(Map<String, Object> object, String name) {
        List<String> all = new ArrayList<>();
        for (Object element : get(object, name, List.class)) {
            if (!(element instanceof String)) {
                throw new BadAnswerException(name + " has an element that is no string");
            }
            all.add((String) element);
        }
        return List.copyOf(all);
    }
}
