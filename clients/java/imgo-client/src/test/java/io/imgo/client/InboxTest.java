package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;

class InboxTest {
    @Test
    void anIdIsTakenOnceAndAcknowledgedWhenItIsHandled() {
        Inbox inbox = new Inbox(10, false);
        assertThat(inbox.take(1)).isTrue();
        assertThat(inbox.take(1)).isFalse();
        assertThat(inbox.hasDue()).isFalse();
        inbox.done(1, false);
        assertThat(inbox.take(1)).as("one that failed").isTrue();
        inbox.done(1, true);
        assertThat(inbox.take(1)).isFalse();
        assertThat(inbox.takeDue(10)).containsExactly(1L);
        assertThat(inbox.hasDue()).isFalse();
        assertThat(inbox.take(1)).isFalse();
        assertThat(inbox.takeDue(10)).as("a repeated one").containsExactly(1L);
    }

    @Test
    void withAStoreAnIdIsDueWhenItIsSaved() {
        Inbox inbox = new Inbox(10, true);
        inbox.load(new long[] {5});
        assertThat(inbox.take(5)).isFalse();
        assertThat(inbox.takeDue(10)).containsExactly(5L);
        inbox.take(6);
        inbox.done(6, true);
        assertThat(inbox.take(6)).isFalse();
        assertThat(inbox.hasDue()).isFalse();
        long[] ids = inbox.unsaved();
        inbox.take(7);
        inbox.done(7, true);
        inbox.saved(ids);
        assertThat(inbox.takeDue(10)).containsExactly(6L);
        assertThat(inbox.unsaved()).containsExactly(7L);
    }

    @Test
    void hasBounds() {
        Inbox inbox = new Inbox(3, true);
        for (long id = 1; id <= 5; id++) {
            inbox.take(id);
            inbox.done(id, true);
        }
        assertThat(inbox.unsaved()).containsExactly(3, 4, 5);
        assertThat(inbox.take(1)).as("one that was forgotten").isTrue();
        inbox.load(new long[] {10, 11, 12, 13});
        assertThat(inbox.take(13)).isFalse();
        assertThat(inbox.take(10)).isTrue();
    }

    /** Whatever a server repeats: no id is handled twice, and none is acknowledged before it is handled and saved. */
    @Test
    void holdsItsRulesInAnyOrder() {
        for (int seed = 0; seed < 50; seed++) {
            Random random = new Random(seed);
            boolean store = random.nextBoolean();
            Inbox inbox = new Inbox(1000, store);
            Set<Long> handled = new HashSet<>();
            Set<Long> saved = new HashSet<>();
            Set<Long> acknowledged = new HashSet<>();
            Deque<Long> working = new ArrayDeque<>();
            for (int step = 0; step < 500; step++) {
                long id = 1 + random.nextInt(20);
                switch (random.nextInt(4)) {
                    case 0:
                        if (inbox.take(id)) {
                            assertThat(handled).doesNotContain(id);
                            assertThat(working).doesNotContain(id);
                            working.add(id);
                        }
                        break;
                    case 1:
                        if (!working.isEmpty()) {
                            boolean success = random.nextInt(3) > 0;
                            long done = working.poll();
                            inbox.done(done, success);
                            if (success) {
                                handled.add(done);
                            }
                        }
                        break;
                    case 2:
                        long[] ids = inbox.unsaved();
                        inbox.saved(ids);
                        for (long one : ids) {
                            saved.add(one);
                        }
                        break;
                    default:
                        List<Long> due = new ArrayList<>(inbox.takeDue(5));
                        assertThat(handled).containsAll(due);
                        if (store) {
                            assertThat(saved).containsAll(due);
                        }
                        acknowledged.addAll(due);
                }
            }
            inbox.saved(inbox.unsaved());
            acknowledged.addAll(inbox.takeDue(1000));
            assertThat(acknowledged).isEqualTo(handled);
        }
    }
}
