package io.imgo.client;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** The end of an attempt or of a session that the application did not ask for. */
final class SessionEnd extends Exception {
    private static final long serialVersionUID = 1L;

    final int code; // the server's close code, or 0
    final String reason;
    final boolean reconnect;
    final transient List<String> addresses; // other servers to connect to

    private SessionEnd(int code, String reason, boolean reconnect, List<String> addresses, Throwable cause) {
        super(reason, cause);
        this.code = code;
        this.reason = reason;
        this.reconnect = reconnect;
        this.addresses = addresses;
    }

    static SessionEnd lost(String reason, Throwable cause) {
        return new SessionEnd(0, reason, true, Collections.emptyList(), cause);
    }

    static SessionEnd closed(int code, String reason) {
        return new SessionEnd(code, reason, Protocol.reconnects(code), Collections.emptyList(), null);
    }

    /** Reads the body of a disconnect packet. One that cannot be read says only that the connection ends. */
    static SessionEnd parse(byte[] body) {
        try {
            Map<?, ?> said = Bodies.object(body);
            int code = (int) Bodies.number(said, "code", Integer.MAX_VALUE);
            return new SessionEnd(code, Bodies.text(said, "reason"), Bodies.flag(said, "reconnect", Protocol.reconnects(code)),
                    new ArrayList<>(Bodies.texts(said, "addresses")), null);
        } catch (IllegalArgumentException e) {
            return closed(0, "");
        }
    }

    /** Returns the reason and the code for people. */
    String text() {
        return (reason.isEmpty() ? "the server ended the connection without a reason" : reason) + (code == 0 ? "" : " (" + code + ")");
    }

    /** Returns the text of a cause: its message, or what it is. */
    static String textOf(Throwable cause) {
        String message = cause.getMessage();
        return message == null || message.isEmpty() ? cause.getClass().getSimpleName() : message;
    }
}
