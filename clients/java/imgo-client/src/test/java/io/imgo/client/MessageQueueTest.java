package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;

class MessageQueueTest {
    private final List<String> handled = Collections.synchronizedList(new ArrayList<>());
    private final AtomicInteger idle = new AtomicInteger();
    private final MessageQueue.Owner owner = new MessageQueue.Owner() {
        @Override
        public void taken() {}

        @Override
        public void handled(Message message, Throwable error) {
            handled.add(message.idText() + (error == null ? "" : " " + error.getMessage()));
        }

        @Override
        public void idle() {
            idle.incrementAndGet();
        }
    };

    private static Message message(long id) {
        return new Message(id, 5, new byte[0]);
    }

    @Test
    void handlesOneAfterTheOther() {
        Deque<Acknowledgement> results = new ArrayDeque<>();
        MessageQueue queue = new MessageQueue(2, (m, result) -> results.add(result), Runnable::run, owner);
        queue.put(message(1));
        queue.put(message(2));
        queue.put(message(3));
        assertThat(results).as("begun").hasSize(1);
        assertThat(queue.isFull()).isTrue();
        Acknowledgement first = results.poll();
        first.success();
        first.failure(new IllegalStateException("too late"));
        assertThat(queue.isFull()).isFalse();
        results.poll().failure(null);
        assertThat(handled).containsExactly("1", "2 the handler gave no cause");
        assertThat(queue.stop()).isEmpty();
        assertThat(queue.isRunning()).isTrue();
        results.poll().success();
        assertThat(queue.isRunning()).isFalse();
        assertThat(idle).hasValue(1);
    }

    @Test
    void aResultBeforeTheReturnCountsAtTheReturn() {
        List<String> order = new ArrayList<>();
        MessageQueue queue = new MessageQueue(10, (m, result) -> {
            order.add("begin " + m.idText());
            result.success();
            order.add("end " + m.idText());
        }, Runnable::run, owner);
        queue.put(message(1));
        queue.put(message(2));
        assertThat(order).containsExactly("begin 1", "end 1", "begin 2", "end 2");
    }

    @Test
    void errorsOfEveryKindAreResults() {
        MessageQueue queue = new MessageQueue(10, (m, result) -> {
            throw new StackOverflowError("deep");
        }, Runnable::run, owner);
        queue.put(message(1));
        assertThat(handled).containsExactly("1 deep");
    }

    @Test
    void afterAStopNoHandlerIsCalled() {
        Deque<Runnable> tasks = new ArrayDeque<>();
        MessageQueue queue = new MessageQueue(10, (m, result) -> result.success(), tasks::add, owner);
        queue.put(message(1));
        queue.put(message(2));
        queue.halt();
        tasks.poll().run();
        assertThat(handled).isEmpty();
        assertThat(queue.stop()).extracting(Message::id).containsExactly(1L, 2L);
        assertThat(queue.isRunning()).isFalse();
    }

    @Test
    void keepsTheOrderOnManyThreads() throws InterruptedException {
        ExecutorService executor = Executors.newFixedThreadPool(4);
        try {
            int count = 2000;
            CountDownLatch done = new CountDownLatch(count);
            AtomicInteger inside = new AtomicInteger();
            MessageQueue queue = new MessageQueue(count, (m, result) -> {
                assertThat(inside.incrementAndGet()).isOne();
                inside.decrementAndGet();
                executor.execute(() -> {
                    result.success();
                    done.countDown();
                });
            }, executor, owner);
            List<String> want = new ArrayList<>();
            for (int i = 1; i <= count; i++) {
                queue.put(message(i));
                want.add(Integer.toString(i));
            }
            assertThat(done.await(30, TimeUnit.SECONDS)).isTrue();
            assertThat(handled).isEqualTo(want);
        } finally {
            executor.shutdown();
        }
    }
}
