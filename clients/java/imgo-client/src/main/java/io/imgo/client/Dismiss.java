package io.imgo.client;

import java.util.Arrays;

/** The user has read messages elsewhere: on another device, in another session, or as the backend says. */
public final class Dismiss {
    private final long[] ids;
    private final long upTo;

    Dismiss(long[] ids, long upTo) {
        this.ids = ids;
        this.upTo = upTo;
    }

    /**
     * Returns the messages that were read.
     *
     * @return their ids, unsigned; it may be empty. The array is a copy
     */
    public long[] ids() {
        return ids.clone();
    }

    /**
     * Returns the id up to which all messages were read.
     *
     * @return the unsigned id; 0 if only {@link #ids} were read
     */
    public long upTo() {
        return upTo;
    }

    /**
     * Reports whether a message was read.
     *
     * @param id the id of a kept message
     * @return true if the id is among {@link #ids}, or not above {@link #upTo}
     */
    public boolean covers(long id) {
        if (id != 0 && Ids.compare(id, upTo) <= 0) {
            return true;
        }
        for (long one : ids) {
            if (one == id) {
                return true;
            }
        }
        return false;
    }

    @Override
    public String toString() {
        String[] texts = new String[ids.length];
        for (int i = 0; i < texts.length; i++) {
            texts[i] = Ids.text(ids[i]);
        }
        return "read elsewhere: " + Arrays.toString(texts) + (upTo == 0 ? "" : " and all up to " + Ids.text(upTo));
    }
}
