package io.imgo.client;

/** A call of the application that waits for the reply of the server. */
final class Call {
    final String what; // for errors
    final int op;
    final long id; // of the header; 0 if it has none
    final byte[] body;
    final long until;
    final Completion<byte[]> completion = new Completion<>();

    Call(String what, int op, long id, byte[] body, long until) {
        this.what = what;
        this.op = op;
        this.id = id;
        this.body = body;
        this.until = until;
    }

    void fail(ErrorCode code, String why) {
        completion.end(null, new ImgoException(code, what + ": " + why));
    }
}
