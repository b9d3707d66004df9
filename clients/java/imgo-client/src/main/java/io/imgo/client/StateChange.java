package io.imgo.client;

/** A change of a client's state. */
public final class StateChange {
    private final State state;
    private final Session session;
    private final long retryInMillis;
    private final int code;
    private final String reason;
    private final boolean failed;

    private StateChange(State state, Session session, long retryInMillis, int code, String reason, boolean failed) {
        this.state = state;
        this.session = session;
        this.retryInMillis = retryInMillis;
        this.code = code;
        this.reason = reason;
        this.failed = failed;
    }

    static StateChange connecting() {
        return new StateChange(State.CONNECTING, null, 0, 0, "", false);
    }

    static StateChange live(Session session) {
        return new StateChange(State.LIVE, session, 0, 0, "", false);
    }

    static StateChange waiting(long retryInMillis, int code, String reason) {
        return new StateChange(State.WAITING, null, retryInMillis, code, reason, false);
    }

    static StateChange closed(int code, String reason, boolean failed) {
        return new StateChange(State.CLOSED, null, 0, code, reason, failed);
    }

    /**
     * Returns the new state.
     *
     * @return the state
     */
    public State state() {
        return state;
    }

    /**
     * Returns the session.
     *
     * @return the session for {@link State#LIVE}; otherwise null
     */
    public Session session() {
        return session;
    }

    /**
     * Returns the time until the next attempt.
     *
     * @return the time in milliseconds, for {@link State#WAITING}; otherwise 0
     */
    public long retryInMillis() {
        return retryInMillis;
    }

    /**
     * Returns the server's close code.
     *
     * @return the code, for {@link State#WAITING} and {@link State#CLOSED}; 0 if the server gave none
     */
    public int code() {
        return code;
    }

    /**
     * Returns why the connection ended, for people.
     *
     * @return the reason, for {@link State#WAITING} and {@link State#CLOSED}; otherwise empty
     */
    public String reason() {
        return reason;
    }

    /**
     * Reports whether the server refused the client for good.
     *
     * @return true for a {@link State#CLOSED} that the application did not ask for
     */
    public boolean isFailed() {
        return failed;
    }

    @Override
    public String toString() {
        switch (state) {
            case LIVE:
                return "live: " + session;
            case WAITING:
                return "waiting " + retryInMillis + " ms: " + reason;
            case CLOSED:
                return "closed: " + reason;
            default:
                return state.word();
        }
    }
}
