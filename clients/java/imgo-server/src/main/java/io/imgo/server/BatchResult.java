package io.imgo.server;

import java.util.List;
import java.util.Map;

/** What became of one push of a batch. */
public final class BatchResult {
    private final PushResult result;
    private final PushException error;

    private BatchResult(Map<String, Object> answer) {
        int status = Answers.count(answer, "status");
        if (status < 300) {
            result = new PushResult(answer);
            error = null;
        } else {
            result = null;
            error = Answers.problem("refused with " + status, "", status, Answers.object(answer.get("error")), null);
        }
    }

    static List<BatchResult> list(Map<String, Object> answer, int want) {
        List<BatchResult> results = Answers.list(answer, "results", BatchResult::new);
        Answers.check(results.size() == want, "results has " + results.size() + " elements for " + want + " pushes");
        return results;
    }

    /**
     * Reports whether the push was accepted.
     *
     * @return true if {@link #result} has a value, false if {@link #error} has one
     */
    public boolean accepted() {
        return error == null;
    }

    /**
     * Returns the result of an accepted push.
     *
     * @return the result
     * @throws PushException if the push was refused
     */
    public PushResult result() {
        if (error != null) {
            throw error;
        }
        return result;
    }

    /**
     * Returns why the push was refused.
     *
     * @return the error, or null if the push was accepted
     */
    public PushException error() {
        return error;
    }

    @Override
    public String toString() {
        return "BatchResult[" + (error == null ? result : error.getMessage()) + "]";
    }
}
