package io.imgo.client;

/** The error of every call and of every error event of a client. The message says what was attempted. */
public final class ImgoException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final ErrorCode code;
    private final int closeCode;
    private final String serverCode;

    ImgoException(ErrorCode code, String message) {
        this(code, message, null, 0, "");
    }

    ImgoException(ErrorCode code, String message, Throwable cause) {
        this(code, message, cause, 0, "");
    }

    private ImgoException(ErrorCode code, String message, Throwable cause, int closeCode, String serverCode) {
        super(message, cause);
        this.code = code;
        this.closeCode = closeCode;
        this.serverCode = serverCode;
    }

    static ImgoException refused(int closeCode, String reason) {
        return new ImgoException(
                ErrorCode.REFUSED, "connect: the server refused the client: " + text(reason, String.valueOf(closeCode)), null, closeCode, "");
    }

    static ImgoException denied(String what, String serverCode, String reason) {
        return new ImgoException(
                ErrorCode.DENIED, what + ": the server refused: " + text(reason, serverCode), null, 0, serverCode);
    }

    private static String text(String reason, String code) {
        return (reason.isEmpty() ? "no reason given" : reason) + (code.isEmpty() ? "" : " (" + code + ")");
    }

    /** Returns an error for another caller: a copy with the stack of this thread and the same fields. */
    ImgoException again() {
        return new ImgoException(code, getMessage(), this, closeCode, serverCode);
    }

    /**
     * Returns the code.
     *
     * @return what went wrong
     */
    public ErrorCode code() {
        return code;
    }

    /**
     * Returns the close code of the server.
     *
     * @return a code of the protocol, such as 3501, for {@link ErrorCode#REFUSED}; otherwise 0
     */
    public int closeCode() {
        return closeCode;
    }

    /**
     * Returns the word of the server.
     *
     * @return for {@link ErrorCode#DENIED} such as {@code "forbidden"} or {@code "too_many"}; otherwise empty
     */
    public String serverCode() {
        return serverCode;
    }
}
