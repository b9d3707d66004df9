package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;

/** Records what a client tells, and makes and counts its threads. */
final class Recorder implements ClientListener, MessageHandler, ThreadFactory {
    final BlockingQueue<StateChange> states = new LinkedBlockingQueue<>();
    final BlockingQueue<RoomChange> rooms = new LinkedBlockingQueue<>();
    final BlockingQueue<ImgoException> errors = new LinkedBlockingQueue<>();
    final BlockingQueue<Message> messages = new LinkedBlockingQueue<>();
    final BlockingQueue<Published> published = new LinkedBlockingQueue<>();
    final BlockingQueue<Dismiss> dismissed = new LinkedBlockingQueue<>();
    private final List<Thread> threads = new ArrayList<>();

    @Override
    public void onState(StateChange change) {
        states.add(change);
    }

    @Override
    public void onRoom(RoomChange change) {
        rooms.add(change);
    }

    @Override
    public void onPublished(Published message) {
        published.add(message);
    }

    @Override
    public void onDismiss(Dismiss dismiss) {
        dismissed.add(dismiss);
    }

    @Override
    public void onError(ImgoException error) {
        errors.add(error);
    }

    @Override
    public void handle(Message message) {
        messages.add(message);
    }

    @Override
    public synchronized Thread newThread(Runnable work) {
        Thread thread = new Thread(work, "client of a test");
        thread.setDaemon(true);
        threads.add(thread);
        return thread;
    }

    synchronized long aliveThreads() {
        return threads.stream().filter(Thread::isAlive).count();
    }

    static <T> T next(BlockingQueue<T> queue) throws InterruptedException {
        T value = queue.poll(FakeServer.LIMIT_MILLIS, TimeUnit.MILLISECONDS);
        assertThat(value).as("something within the limit").isNotNull();
        return value;
    }

    /** Waits for a state, and drops those before it. */
    StateChange await(State state) throws InterruptedException {
        while (true) {
            StateChange change = next(states);
            if (change.state() == state) {
                return change;
            }
        }
    }

    String nextBody() throws InterruptedException {
        return new String(next(messages).body(), StandardCharsets.UTF_8);
    }
}
