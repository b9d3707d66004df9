package io.imgo.client;

/** Gets lines about the work of a client. */
public interface LogHook {
    /** How important a line is. */
    enum Level {
        /** Details of each step. */
        DEBUG,
        /** Changes of the state. */
        INFO,
        /** Failures. */
        WARN
    }

    /**
     * Takes a line. It runs on the thread that has something to say, and must return soon. No line has a token in it.
     *
     * @param level the level
     * @param line a line for people, without an end of line
     */
    void log(Level level, String line);
}
