package io.imgo.client;

import io.imgo.client.spi.Transport;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Locale;
import java.util.ServiceConfigurationError;
import java.util.ServiceLoader;
import java.util.concurrent.Executor;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;

/**
 * Collects the options of a client. Each method checks its argument and throws {@link ErrorCode#INVALID} with the name of a
 * wrong option. A builder is not safe for concurrent use. It may build more than one client.
 */
public final class ImgoClientBuilder {
    private static final long MAX_DAYS = 365;

    private final Options options = new Options();

    ImgoClientBuilder() {}

    /**
     * Sets the server. Required.
     *
     * @param address {@code host:port}, {@code tcp://host:port}, {@code tls://host:port}, {@code ws://host:port/sub} or {@code
     *     wss://host:port/sub}. WebSockets need a transport, such as the module imgo-client-okhttp
     * @return this builder
     */
    public ImgoClientBuilder address(String address) {
        options.address = Address.parse(address);
        options.addressText = address;
        return this;
    }

    /**
     * Sets the HTTP API. Before each attempt the client asks it for the best nodes and tries these before its own address.
     *
     * @param discover such as {@code https://push.example.com:7172}. It must be https if the address has TLS
     * @return this builder
     */
    public ImgoClientBuilder discover(String discover) {
        options.discover = discover;
        return this;
    }

    /**
     * Sets the client token. A token or a token source is required.
     *
     * @param token the token
     * @return this builder
     */
    public ImgoClientBuilder token(String token) {
        options.token = token;
        return this;
    }

    /**
     * Sets the source of tokens. It goes before a token.
     *
     * @param source gives a token before each connection, and before the token of a live session ends
     * @return this builder
     */
    public ImgoClientBuilder tokenSource(TokenSource source) {
        options.tokenSource = source;
        return this;
    }

    /**
     * Names this device. Each device of a user has a cursor of its own in the user's mailbox.
     *
     * @param device 1 to 128 bytes of text. Without it the client is the user's default device
     * @return this builder
     */
    public ImgoClientBuilder device(String device) {
        Names.check("device", device);
        options.device = device;
        return this;
    }

    /**
     * Sets free text that the server shows.
     *
     * @param platform 1 to 128 bytes of text
     * @return this builder
     */
    public ImgoClientBuilder platform(String platform) {
        Names.check("platform", platform);
        options.platform = platform;
        return this;
    }

    /**
     * Adds rooms that each session joins. See also {@link ImgoClient#join}.
     *
     * @param rooms 1 to 128 bytes of text each
     * @return this builder
     */
    public ImgoClientBuilder rooms(String... rooms) {
        for (String room : rooms) {
            Names.check("rooms", room);
            options.rooms.add(room);
        }
        return this;
    }

    /**
     * Adds operations that the client wants.
     *
     * @param operations 1000 and above
     * @return this builder
     */
    public ImgoClientBuilder accepts(int... operations) {
        for (int operation : operations) {
            if (operation < Protocol.FIRST_APPLICATION_OP) {
                throw invalid("accepts has " + operation + ": give operations from 1000 on");
            }
            options.accepts.add(operation);
        }
        return this;
    }

    /**
     * Sets what remembers handled ids across restarts.
     *
     * @param store the store, such as {@link FileStore}. It belongs to one client at a time
     * @return this builder
     */
    public ImgoClientBuilder store(Store store) {
        options.store = store;
        return this;
    }

    /**
     * Sets what keeps published messages until the server has them. Default: a {@link MemoryOutbox} of the client.
     *
     * @param outbox the outbox, such as {@link FileOutbox}. It belongs to one device, and to one client at a time
     * @return this builder
     */
    public ImgoClientBuilder outbox(Outbox outbox) {
        options.outbox = outbox;
        return this;
    }

    /**
     * Sets the handler of messages. A handler of one of the two kinds is required.
     *
     * @param handler gets one message at a time; its return acknowledges the message
     * @return this builder
     */
    public ImgoClientBuilder onMessage(MessageHandler handler) {
        if (handler == null) {
            throw invalid("onMessage is null: give the function that handles a message");
        }
        options.handler = (message, result) -> {
            handler.handle(message);
            result.success();
        };
        return this;
    }

    /**
     * Sets the handler of messages, of the kind that keeps no thread.
     *
     * @param handler gets one message at a time and says later whether it was handled. {@link Stages#handler} makes one from
     *     a function that returns a {@code CompletionStage}
     * @return this builder
     */
    public ImgoClientBuilder onMessageAsync(AsyncMessageHandler handler) {
        if (handler == null) {
            throw invalid("onMessageAsync is null: give the function that handles a message");
        }
        options.handler = handler;
        return this;
    }

    /**
     * Sets what gets the events.
     *
     * @param listener the listener
     * @return this builder
     */
    public ImgoClientBuilder listener(ClientListener listener) {
        options.listener = listener;
        return this;
    }

    /**
     * Sets what gets log lines.
     *
     * @param log the hook
     * @return this builder
     */
    public ImgoClientBuilder log(LogHook log) {
        options.log = log;
        return this;
    }

    /**
     * Sets where the message handler runs. Each message is one task, and the next task is given only after the message is
     * handled. Default: a thread of the client's own while it is connected.
     *
     * @param executor the executor. It must not run a task on the calling thread, since heartbeats would wait for the handler. The
     *     client never shuts it down
     * @return this builder
     */
    public ImgoClientBuilder executor(Executor executor) {
        options.executor = executor;
        return this;
    }

    /**
     * Sets what makes the client's threads. Default: daemon threads whose names begin with {@code imgo-client}.
     *
     * @param threads the factory
     * @return this builder
     */
    public ImgoClientBuilder threadFactory(ThreadFactory threads) {
        options.threads = threads;
        return this;
    }

    /**
     * Sets the TLS of {@code tls://} and {@code wss://}, and of an https discovery. The name of the server is checked in any
     * case. Default: the certificates of the platform.
     *
     * @param context the context
     * @return this builder
     */
    public ImgoClientBuilder sslContext(SSLContext context) {
        options.sslContext = context;
        return this;
    }

    /**
     * Adds a transport. It goes before those of the class path and before the client's own.
     *
     * @param transport the transport
     * @return this builder
     */
    public ImgoClientBuilder transport(Transport transport) {
        if (transport == null) {
            throw invalid("transport is null: give a transport");
        }
        options.transports.add(transport);
        return this;
    }

    /**
     * Sets the first span of the backoff. The client waits a random part of the span, which doubles with each attempt.
     * Default: 500 ms.
     *
     * @param time more than 0
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder minBackoff(long time, TimeUnit unit) {
        options.minBackoff = nanos("minBackoff", time, unit, 1);
        return this;
    }

    /**
     * Sets the last span of the backoff. Default: 30 s.
     *
     * @param time at least minBackoff
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder maxBackoff(long time, TimeUnit unit) {
        options.maxBackoff = nanos("maxBackoff", time, unit, 1);
        return this;
    }

    /**
     * Sets the length of a session that resets the backoff. Default: 10 s.
     *
     * @param time 0 or more
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder stableAfter(long time, TimeUnit unit) {
        options.stableAfter = nanos("stableAfter", time, unit, 0);
        return this;
    }

    /**
     * Sets the time for token, discovery and socket together. Default: 10 s.
     *
     * @param time more than 0
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder connectTimeout(long time, TimeUnit unit) {
        options.connectTimeout = nanos("connectTimeout", time, unit, 1);
        return this;
    }

    /**
     * Sets the wait for the auth reply. Default: 40 s, since a server with many new clients lets them wait for up to 30 s.
     *
     * @param time more than 0
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder authTimeout(long time, TimeUnit unit) {
        options.authTimeout = nanos("authTimeout", time, unit, 1);
        return this;
    }

    /**
     * Sets the time for the reply to join, leave, send and a published message. A connection that takes no bytes in this time
     * is lost. Default: 10 s.
     *
     * @param time more than 0
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder requestTimeout(long time, TimeUnit unit) {
        options.requestTimeout = nanos("requestTimeout", time, unit, 1);
        return this;
    }

    /**
     * Sets the silence after a heartbeat that ends the connection. Default: 10 s.
     *
     * @param time more than 0
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder heartbeatTimeout(long time, TimeUnit unit) {
        options.heartbeatTimeout = nanos("heartbeatTimeout", time, unit, 1);
        return this;
    }

    /**
     * Sets how long a graceful close waits for the running handler. Default: 10 s.
     *
     * @param time 0 or more
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder closeTimeout(long time, TimeUnit unit) {
        options.closeTimeout = nanos("closeTimeout", time, unit, 0);
        return this;
    }

    /**
     * Sets the time for which acknowledgements are gathered into one packet. Default: 50 ms.
     *
     * @param time 0 or more
     * @param unit the unit of time
     * @return this builder
     */
    public ImgoClientBuilder ackDelay(long time, TimeUnit unit) {
        options.ackDelay = nanos("ackDelay", time, unit, 0);
        return this;
    }

    /**
     * Sets how many messages may wait for the handler. If they do, the client stops reading and the server keeps the rest.
     * Default: 256.
     *
     * @param messages 1 or more
     * @return this builder
     */
    public ImgoClientBuilder queue(int messages) {
        options.queue = atLeastOne("queue", messages);
        return this;
    }

    /**
     * Sets how many handled ids are remembered, so that no message is handled twice. It should be at least the server's bound
     * on a mailbox. Default: 8192.
     *
     * @param ids 1 or more
     * @return this builder
     */
    public ImgoClientBuilder remember(int ids) {
        options.remember = atLeastOne("remember", ids);
        return this;
    }

    /**
     * Sets the largest accepted body. A larger one ends the connection. Default: 4 MiB.
     *
     * @param bytes from 1 to 1 GiB
     * @return this builder
     */
    public ImgoClientBuilder maxBody(int bytes) {
        if (bytes > 1 << 30) {
            throw invalid("maxBody is " + bytes + ": give at most 1 GiB");
        }
        options.maxBody = atLeastOne("maxBody", bytes);
        return this;
    }

    /**
     * Makes the client. It does not connect yet.
     *
     * @return the client
     * @throws ImgoException {@link ErrorCode#INVALID} if an option is missing or two do not fit together, {@link
     *     ErrorCode#UNSUPPORTED} if no transport is there for the address
     */
    public ImgoClient build() {
        Options copy = options.copy();
        if (copy.address == null) {
            throw invalid("address is missing: give host:port of the server");
        }
        if (copy.handler == null) {
            throw invalid("onMessage is missing: give the function that handles a message");
        }
        if (copy.tokenSource == null && (copy.token == null || copy.token.isEmpty())) {
            throw invalid("token is missing: give a token, or a tokenSource");
        }
        if (copy.minBackoff > copy.maxBackoff) {
            throw invalid("minBackoff is longer than maxBackoff: give a shorter one");
        }
        copy.discover = copy.discover == null ? null : Discovery.url(copy.discover, copy.address);
        copy.transports = transports(copy);
        if (copy.threads == null) {
            copy.threads = new Threads();
        }
        return new ImgoClient(copy);
    }

    /** Returns the transports for the scheme of the address and for its variant with TLS, the first one first. */
    private static List<Transport> transports(Options options) {
        List<Transport> found = new ArrayList<>(options.transports);
        found.add(new SocketTransport());
        boolean supported = false;
        for (Transport transport : found) {
            supported |= transport.supports(options.address.scheme);
        }
        if (!supported) {
            try {
                Iterator<Transport> loaded =
                        ServiceLoader.load(Transport.class, Transport.class.getClassLoader()).iterator();
                while (loaded.hasNext()) {
                    Transport transport = loaded.next();
                    found.add(transport);
                    supported |= transport.supports(options.address.scheme);
                }
            } catch (ServiceConfigurationError e) {
                throw new ImgoException(ErrorCode.UNSUPPORTED, "address \"" + options.addressText + "\": a transport does not load", e);
            }
        }
        if (!supported) {
            throw new ImgoException(ErrorCode.UNSUPPORTED,
                    "address \"" + options.addressText + "\" needs a transport for " + options.address.scheme
                            + "://: add the module imgo-client-okhttp");
        }
        return found;
    }

    private static long nanos(String option, long time, TimeUnit unit, long least) {
        if (unit == null) {
            throw invalid(option + " has no unit: give a TimeUnit");
        }
        long nanos = unit.toNanos(time);
        if (nanos < least || unit.toDays(time) > MAX_DAYS) {
            throw invalid(option + " is " + time + " " + unit.name().toLowerCase(Locale.ROOT) + ": give a time "
                    + (least > 0 ? "above 0" : "of 0 or more") + ", at most " + MAX_DAYS + " days");
        }
        return nanos;
    }

    private static int atLeastOne(String option, int value) {
        if (value < 1) {
            throw invalid(option + " is " + value + ": give 1 or more");
        }
        return value;
    }

    private static ImgoException invalid(String message) {
        return new ImgoException(ErrorCode.INVALID, message);
    }
}
