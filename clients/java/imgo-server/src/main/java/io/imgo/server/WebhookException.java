package io.imgo.server;

/** A webhook call that must not be believed. Answer it with 401. */
public final class WebhookException extends Exception {
    private static final long serialVersionUID = 1L;

    WebhookException(String message) {
        super(message);
    }
}
