package io.imgo.client.driver;

import static io.imgo.client.driver.Driver.event;

import io.imgo.client.ClientListener;
import io.imgo.client.Completion;
import io.imgo.client.Dismiss;
import io.imgo.client.FileOutbox;
import io.imgo.client.FileStore;
import io.imgo.client.ImgoClient;
import io.imgo.client.ImgoClientBuilder;
import io.imgo.client.ImgoException;
import io.imgo.client.Message;
import io.imgo.client.Outbox;
import io.imgo.client.OutboxContent;
import io.imgo.client.OutboxMessage;
import io.imgo.client.Published;
import io.imgo.client.RoomChange;
import io.imgo.client.State;
import io.imgo.client.StateChange;
import io.imgo.client.Store;
import java.io.File;
import java.io.IOException;
import java.security.GeneralSecurityException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;

/** One client and the commands for it. The thread of the driver calls run; the client calls the rest. */
final class DrivenClient implements ClientListener {
    private final Driver driver;
    private final String name;
    private final ThreadFactory threads;
    private ImgoClient client;

    // The monitor guards the following.
    private final List<CompletableFuture<String>> wanted = new ArrayList<>();
    private boolean held;
    private int released; // held messages that may go on
    private int failing; // handlers that are to fail
    private int failingStore; // calls of add that are to fail
    private int failingOutbox; // calls of setBase, add and remove that are to fail

    DrivenClient(Driver driver, String name, ThreadFactory threads) {
        this.driver = driver;
        this.name = name;
        this.threads = threads;
    }

    void run(Map<?, ?> command) {
        Object tag = command.get("tag") == null ? 0 : command.get("tag");
        String what = String.valueOf(command.get("do"));
        if (client == null && List.of("connect", "join", "leave", "send", "publish", "read", "close").contains(what)) {
            failed(tag, "not_live", "", 0, what + ": there is no client");
            return;
        }
        switch (what) {
            case "new":
                make(tag, command);
                break;
            case "connect":
                report(tag, client.connect());
                break;
            case "join":
                report(tag, client.join((String) command.get("room")));
                break;
            case "leave":
                report(tag, client.leave((String) command.get("room")));
                break;
            case "send":
                report(tag, client.send(op(command), body(command)));
                break;
            case "publish":
                report(tag, client.publish(op(command), body(command)));
                break;
            case "read":
                List<?> ids = command.get("ids") == null ? List.of() : (List<?>) command.get("ids");
                report(tag, client.read(ids.stream().mapToLong(id -> Long.parseUnsignedLong((String) id)).toArray(),
                        command.get("up_to") == null ? 0 : Long.parseUnsignedLong((String) command.get("up_to"))));
                break;
            case "close":
                close(tag, client);
                break;
            default:
                if (!control(what, command)) {
                    failed(tag, "invalid", "", 0, what + " is no command");
                } else if (command.get("tag") != null) {
                    driver.print(name, event("done", "tag", tag));
                }
        }
    }

    private static int op(Map<?, ?> command) {
        return command.get("op") == null ? 4 : ((Number) command.get("op")).intValue();
    }

    private static byte[] body(Map<?, ?> command) {
        return Base64.getDecoder().decode(command.get("body") == null ? "" : (String) command.get("body"));
    }

    /** Does what is done at once. It reports whether there is such a command. */
    private synchronized boolean control(String what, Map<?, ?> command) {
        int count = command.get("count") == null ? 0 : ((Number) command.get("count")).intValue();
        switch (what) {
            case "token":
                if (wanted.isEmpty()) {
                    System.err.println("a token is not wanted");
                } else if (command.get("error") != null) {
                    wanted.remove(0).completeExceptionally(new IOException((String) command.get("error")));
                } else {
                    wanted.remove(0).complete((String) command.get("token"));
                }
                break;
            case "hold":
                held = true;
                released = 0;
                break;
            case "release":
                held = command.get("count") != null;
                released = held ? released + count : 0;
                notifyAll();
                break;
            case "fail":
                failing += Math.max(count, 1);
                break;
            case "fail_store":
                failingStore += Math.max(count, 1);
                break;
            case "fail_outbox":
                failingOutbox += Math.max(count, 1);
                break;
            default:
                return false;
        }
        return true;
    }

    private void make(Object tag, Map<?, ?> command) {
        try {
            ImgoClientBuilder builder = ImgoClient.builder().threadFactory(threads).listener(this).onMessage(this::handle)
                    .log((level, line) -> System.err.println(level + " " + name + " " + line));
            Map<?, ?> options = (Map<?, ?>) command.get("options");
            for (Map.Entry<?, ?> option : options.entrySet()) {
                set(builder, (String) option.getKey(), option.getValue());
            }
            if (options.get("store") != null) {
                File file = new File((String) options.get("store"));
                Object remember = options.get("remember");
                builder.store(new FailingStore(remember == null ? new FileStore(file) : new FileStore(file, ((Number) remember).intValue())));
            }
            if (options.get("outbox") != null) {
                builder.outbox(new FailingOutbox(new FileOutbox(new File((String) options.get("outbox")))));
            }
            client = builder.build();
            if (command.get("tag") != null) {
                driver.print(name, event("done", "tag", tag));
            }
        } catch (ImgoException e) {
            failed(tag, e);
        } catch (IOException | GeneralSecurityException | ClassCastException e) {
            failed(tag, "invalid", "", 0, "an option is wrong: " + e);
        }
    }

    private void set(ImgoClientBuilder builder, String option, Object value) throws IOException, GeneralSecurityException {
        if (option.endsWith("_ms")) {
            setTime(builder, option, ((Number) value).longValue());
            return;
        }
        switch (option) {
            case "address":
                builder.address((String) value);
                break;
            case "discover":
                builder.discover((String) value);
                break;
            case "token":
                builder.token((String) value);
                break;
            case "token_source":
                if ((Boolean) value) {
                    builder.tokenSource(this::token);
                }
                break;
            case "device":
                builder.device((String) value);
                break;
            case "platform":
                builder.platform((String) value);
                break;
            case "rooms":
                builder.rooms(((List<?>) value).toArray(new String[0]));
                break;
            case "accepts":
                builder.accepts(((List<?>) value).stream().mapToInt(op -> ((Number) op).intValue()).toArray());
                break;
            case "store":
            case "outbox":
                break; // make does it, since a store needs the option remember as well
            case "ca":
                builder.sslContext(Trust.of((String) value));
                break;
            case "queue":
                builder.queue(((Number) value).intValue());
                break;
            case "remember":
                builder.remember(((Number) value).intValue());
                break;
            case "max_body":
                builder.maxBody(((Number) value).intValue());
                break;
            default:
                throw new ClassCastException(option + " is no option");
        }
    }

    private static void setTime(ImgoClientBuilder builder, String option, long millis) {
        TimeUnit unit = TimeUnit.MILLISECONDS;
        switch (option) {
            case "min_backoff_ms":
                builder.minBackoff(millis, unit);
                break;
            case "max_backoff_ms":
                builder.maxBackoff(millis, unit);
                break;
            case "stable_after_ms":
                builder.stableAfter(millis, unit);
                break;
            case "connect_timeout_ms":
                builder.connectTimeout(millis, unit);
                break;
            case "auth_timeout_ms":
                builder.authTimeout(millis, unit);
                break;
            case "request_timeout_ms":
                builder.requestTimeout(millis, unit);
                break;
            case "heartbeat_timeout_ms":
                builder.heartbeatTimeout(millis, unit);
                break;
            case "close_timeout_ms":
                builder.closeTimeout(millis, unit);
                break;
            case "ack_delay_ms":
                builder.ackDelay(millis, unit);
                break;
            default:
                throw new ClassCastException(option + " is no option");
        }
    }

    private void report(Object tag, Completion<?> call) {
        call.whenDone((value, error) -> {
            if (error != null) {
                failed(tag, error);
            } else if (value instanceof byte[]) {
                driver.print(name, event("done", "tag", tag, "result",
                        Map.of("body", Base64.getEncoder().encodeToString((byte[]) value))));
            } else if (value instanceof Long) {
                driver.print(name, event("done", "tag", tag, "result", Map.of("number", value)));
            } else {
                driver.print(name, event("done", "tag", tag));
            }
        });
    }

    private void failed(Object tag, ImgoException error) {
        failed(tag, error.code().word(), error.serverCode(), error.closeCode(), error.getMessage());
    }

    private void failed(Object tag, String code, String serverCode, int closeCode, String message) {
        driver.print(name, event("failed", "tag", tag, "code", code, "server_code", serverCode, "close_code", closeCode,
                "message", message));
    }

    /** Begins to close, and waits beside the reading of commands, since the held handler may have to be released meanwhile. */
    private void close(Object tag, ImgoClient closing) {
        closing.closeAsync();
        new Thread(() -> {
            closing.close();
            driver.print(name, event("done", "tag", tag));
        }, "close").start();
    }

    private String token() throws IOException, InterruptedException {
        CompletableFuture<String> token = new CompletableFuture<>();
        synchronized (this) {
            wanted.add(token);
        }
        driver.print(name, event("token_wanted"));
        try {
            return token.get();
        } catch (ExecutionException e) {
            throw new IOException(e.getCause().getMessage(), e);
        } finally {
            synchronized (this) {
                wanted.remove(token);
            }
        }
    }

    private void handle(Message message) throws IOException, InterruptedException {
        driver.print(name, event("message", "id", message.idText(), "op", message.op(), "kept", message.isKept(),
                "body", Base64.getEncoder().encodeToString(message.body())));
        synchronized (this) {
            while (held && released == 0) {
                wait();
            }
            if (held) {
                released--;
            }
            if (failing > 0) {
                failing--;
                throw new IOException("the handler fails as it was told");
            }
        }
        driver.print(name, event("handled", "id", message.idText()));
    }

    @Override
    public void onState(StateChange change) {
        Map<String, Object> event = event("state", "state", change.state().word());
        if (change.state() == State.LIVE) {
            event.put("session", change.session().id());
            event.put("user", change.session().user());
            event.put("heartbeat_ms", change.session().heartbeatMillis());
            event.put("pending", change.session().pending());
            event.put("rooms", change.session().rooms());
        } else if (change.state() == State.WAITING) {
            event.put("retry_in_ms", change.retryInMillis());
            event.put("code", change.code());
            event.put("reason", change.reason());
        } else if (change.state() == State.CLOSED) {
            event.put("code", change.code());
            event.put("reason", change.reason());
            event.put("failed", change.isFailed());
        }
        driver.print(name, event);
    }

    @Override
    public void onRoom(RoomChange change) {
        driver.print(name, event("room", "room", change.room(), "joined", change.isJoined(), "code", change.code(),
                "reason", change.reason()));
    }

    @Override
    public void onPublished(Published published) {
        ImgoException error = published.error();
        driver.print(name, error == null
                ? event("published", "number", published.number(), "body", Base64.getEncoder().encodeToString(published.body()))
                : event("published", "number", published.number(), "code", error.code().word(), "server_code", error.serverCode(),
                        "message", error.getMessage()));
    }

    @Override
    public void onDismiss(Dismiss dismiss) {
        List<String> ids = new ArrayList<>();
        for (long id : dismiss.ids()) {
            ids.add(Long.toUnsignedString(id));
        }
        driver.print(name, event("dismiss", "ids", ids, "up_to", Long.toUnsignedString(dismiss.upTo())));
    }

    @Override
    public void onError(ImgoException error) {
        driver.print(name, event("error", "code", error.code().word(), "message", error.getMessage()));
    }

    /** A store that fails when it is told to. */
    private final class FailingStore implements Store {
        private final Store store;

        FailingStore(Store store) {
            this.store = store;
        }

        @Override
        public long[] load() throws IOException {
            return store.load();
        }

        @Override
        public void add(long[] ids) throws IOException {
            synchronized (DrivenClient.this) {
                if (failingStore > 0) {
                    failingStore--;
                    throw new IOException("the store fails as it was told");
                }
            }
            store.add(ids);
        }
    }

    /** An outbox that fails when it is told to. */
    private final class FailingOutbox implements Outbox {
        private final Outbox outbox;

        FailingOutbox(Outbox outbox) {
            this.outbox = outbox;
        }

        private void mayFail() throws IOException {
            synchronized (DrivenClient.this) {
                if (failingOutbox > 0) {
                    failingOutbox--;
                    throw new IOException("the outbox fails as it was told");
                }
            }
        }

        @Override
        public OutboxContent load() throws IOException {
            return outbox.load();
        }

        @Override
        public void setBase(long base) throws IOException {
            mayFail();
            outbox.setBase(base);
        }

        @Override
        public void add(OutboxMessage message) throws IOException {
            mayFail();
            outbox.add(message);
        }

        @Override
        public void remove(long upTo) throws IOException {
            mayFail();
            outbox.remove(upTo);
        }
    }
}
