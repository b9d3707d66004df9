package io.imgo.client;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The ids that were handled, and those that are to be saved and acknowledged, over all sessions of a client. It is safe for
 * concurrent use. An id goes from taken to handled to saved (with a store) to due.
 */
final class Inbox {
    private final int remember;
    private final boolean hasStore;
    /** Ids of messages that wait for the handler or are being handled. */
    private final Set<Long> taken = new HashSet<>();
    /** The newest handled ids, oldest first. The value says whether the id is saved, or needs no saving. */
    private final LinkedHashMap<Long, Boolean> handled = new LinkedHashMap<>();
    /** Handled ids that the store does not have yet. */
    private final Set<Long> unsaved = new LinkedHashSet<>();
    /** Ids to acknowledge. */
    private final Set<Long> due = new LinkedHashSet<>();

    Inbox(int remember, boolean hasStore) {
        this.remember = remember;
        this.hasStore = hasStore;
    }

    /** Takes over the ids of the store, oldest first. */
    synchronized void load(long[] ids) {
        for (int i = Math.max(0, ids.length - remember); i < ids.length; i++) {
            remember(ids[i], true);
        }
    }

    /**
     * Reports whether the caller is to have the message handled. A message that was handled before is acknowledged again,
     * since the server repeats it only if it missed the first acknowledgement.
     */
    synchronized boolean take(long id) {
        Boolean saved = handled.get(id);
        if (saved == null) {
            return taken.add(id);
        }
        add(saved ? due : unsaved, id);
        return false;
    }

    /** Records the result for a taken message. One that was not handled may be taken again. */
    synchronized void done(long id, boolean success) {
        taken.remove(id);
        if (success) {
            remember(id, !hasStore);
            add(hasStore ? unsaved : due, id);
        }
    }

    /** Returns the ids to save, oldest first, and keeps them until they are saved. */
    synchronized long[] unsaved() {
        return array(unsaved);
    }

    /** Makes ids due that the store has now. */
    synchronized void saved(long[] ids) {
        for (long id : ids) {
            if (unsaved.remove(id)) {
                if (handled.containsKey(id)) {
                    handled.put(id, true);
                }
                add(due, id);
            }
        }
    }

    synchronized boolean hasUnsaved() {
        return !unsaved.isEmpty();
    }

    synchronized boolean hasDue() {
        return !due.isEmpty();
    }

    /** Removes and returns up to most ids to acknowledge, oldest first. */
    synchronized List<Long> takeDue(int most) {
        List<Long> ids = new ArrayList<>(Math.min(most, due.size()));
        Iterator<Long> all = due.iterator();
        while (ids.size() < most && all.hasNext()) {
            ids.add(all.next());
            all.remove();
        }
        return ids;
    }

    private void remember(long id, boolean saved) {
        handled.put(id, saved);
        if (handled.size() > remember) {
            Iterator<Map.Entry<Long, Boolean>> oldest = handled.entrySet().iterator();
            oldest.next();
            oldest.remove();
        }
    }

    /**
     * Adds an id to a set of at most as many ids as are remembered. The server repeats the message of an id that had to go, and
     * it comes back then.
     */
    private void add(Set<Long> ids, long id) {
        if (ids.add(id) && ids.size() > remember) {
            Iterator<Long> oldest = ids.iterator();
            oldest.next();
            oldest.remove();
        }
    }

    private static long[] array(Set<Long> ids) {
        long[] array = new long[ids.size()];
        int i = 0;
        for (Long id : ids) {
            array[i++] = id;
        }
        return array;
    }
}
