package io.imgo.client;

/** Numbers of the protocol between clients and server. */
final class Protocol {
    static final short VERSION = 2;
    static final int HEADER_V1 = 16;
    static final int HEADER_V2 = 24;

    static final int OP_HEARTBEAT = 2;
    static final int OP_SEND = 4;
    static final int OP_MESSAGE = 5;
    static final int OP_DISCONNECT = 6;
    static final int OP_AUTH = 7;
    static final int OP_AUTH_REPLY = 8;
    static final int OP_RAW = 9;
    static final int OP_ACK = 18;
    static final int OP_JOIN = 20;
    static final int OP_LEAVE = 22;
    static final int OP_READ = 24;
    static final int OP_DISMISS = 26;
    static final int OP_REFUSED = 28;
    static final int OP_ROOM_CHANGED = 29;
    /** Operations from here on belong to the application. */
    static final int FIRST_APPLICATION_OP = 1000;

    static final int CLOSE_TOKEN_EXPIRED = 3502;

    /** The largest number of ids in one packet of acknowledgements, or in one call of read. They take 4 KiB. */
    static final int ACK_BATCH = 500;

    private Protocol() {}

    /** Reports whether a client reconnects by itself after a close code, if the server does not say. */
    static boolean reconnects(int code) {
        return code < 3500;
    }
}
