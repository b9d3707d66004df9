package io.imgo.server;

import java.time.Duration;
import java.util.Optional;

/** A call of the API that failed. */
public final class PushException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** No answer came: no server was reached, or the connection was lost. */
    public static final String LOST = "lost";
    /** No complete answer came in time. */
    public static final String TIMEOUT = "timeout";
    /** The answer is not one of the API, or is too large. */
    public static final String PROTOCOL = "protocol";
    /** The client was closed. */
    public static final String CLOSED = "closed";
    /** The calling thread was interrupted. */
    public static final String INTERRUPTED = "interrupted";

    private final String code;
    private final int status;
    private final String field;
    private final String server;
    private final boolean sent;
    private final transient Duration retryAfter;

    private PushException(String text, String code, int status, String field, String server, boolean sent, Duration retryAfter,
            Throwable cause) {
        super(text, cause);
        this.code = code;
        this.status = status;
        this.field = field;
        this.server = server;
        this.sent = sent;
        this.retryAfter = retryAfter;
    }

    static PushException noAnswer(String code, String text, String server, boolean sent, Throwable cause) {
        return new PushException(text, code, 0, null, server, sent, null, cause);
    }

    static PushException answer(String text, String code, int status, String field, String server, Duration retryAfter) {
        return new PushException(text, code, status, field, server, true, retryAfter, null);
    }

    /**
     * Returns what failed, for programs. With a status it is the code of the server, such as {@code invalid} or
     * {@code rate_limited}, or {@link #PROTOCOL} if the answer has none. Without a status it is one of the constants of this
     * class.
     *
     * @return the code
     */
    public String code() {
        return code;
    }

    /**
     * Returns the HTTP status of the answer.
     *
     * @return the status, or 0 if there was no answer
     */
    public int status() {
        return status;
    }

    /**
     * Returns the field of the request that is wrong.
     *
     * @return the field, such as {@code users[17]}, if it is a single one
     */
    public Optional<String> field() {
        return Optional.ofNullable(field);
    }

    /**
     * Returns the server that was called last.
     *
     * @return its address, or an empty string for the error of a push in a batch
     */
    public String server() {
        return server;
    }

    /**
     * Returns how long to wait before the call is tried again.
     *
     * @return the time, if the server named one
     */
    public Optional<Duration> retryAfter() {
        return Optional.ofNullable(retryAfter);
    }

    /**
     * Reports whether the call may have had an effect. It has none if no connection was opened, or if the server refused it. A
     * push with an idempotency key can be repeated in any case.
     *
     * @return false if the call certainly had no effect
     */
    public boolean mayHaveHadEffect() {
        return status == 0 ? sent : status < 400 || status >= 500 && status != 507;
    }

    /** Reports whether the same call at another server may succeed. */
    boolean isTransient() {
        return status == 0 ? LOST.equals(code) || TIMEOUT.equals(code) : status >= 500 && status <= 504;
    }

    /** Reports whether a server may have received the call. */
    boolean wasSent() {
        return sent;
    }
}
