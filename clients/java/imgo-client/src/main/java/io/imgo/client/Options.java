package io.imgo.client;

import io.imgo.client.spi.Transport;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executor;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;

/** The options of a client. The builder changes its own object; a client has a copy that nobody changes. Times are in nanoseconds. */
final class Options {
    String addressText;
    Address address;
    String discover;
    String token;
    TokenSource tokenSource;
    String device;
    String platform;
    Set<String> rooms = new LinkedHashSet<>();
    List<Integer> accepts = new ArrayList<>();
    Store store;
    Outbox outbox; // null if messages are kept in memory
    long minBackoff = TimeUnit.MILLISECONDS.toNanos(500);
    long maxBackoff = TimeUnit.SECONDS.toNanos(30);
    long stableAfter = TimeUnit.SECONDS.toNanos(10);
    long connectTimeout = TimeUnit.SECONDS.toNanos(10);
    long authTimeout = TimeUnit.SECONDS.toNanos(40);
    long requestTimeout = TimeUnit.SECONDS.toNanos(10);
    long heartbeatTimeout = TimeUnit.SECONDS.toNanos(10);
    long closeTimeout = TimeUnit.SECONDS.toNanos(10);
    long ackDelay = TimeUnit.MILLISECONDS.toNanos(50);
    int queue = 256;
    int remember = 8192;
    int maxBody = 4 << 20;
    AsyncMessageHandler handler;
    ClientListener listener;
    LogHook log;
    Executor executor;
    ThreadFactory threads;
    SSLContext sslContext;
    List<Transport> transports = new ArrayList<>();

    Options copy() {
        Options copy = new Options();
        copy.addressText = addressText;
        copy.address = address;
        copy.discover = discover;
        copy.token = token;
        copy.tokenSource = tokenSource;
        copy.device = device;
        copy.platform = platform;
        copy.rooms = new LinkedHashSet<>(rooms);
        copy.accepts = new ArrayList<>(accepts);
        copy.store = store;
        copy.outbox = outbox;
        copy.minBackoff = minBackoff;
        copy.maxBackoff = maxBackoff;
        copy.stableAfter = stableAfter;
        copy.connectTimeout = connectTimeout;
        copy.authTimeout = authTimeout;
        copy.requestTimeout = requestTimeout;
        copy.heartbeatTimeout = heartbeatTimeout;
        copy.closeTimeout = closeTimeout;
        copy.ackDelay = ackDelay;
        copy.queue = queue;
        copy.remember = remember;
        copy.maxBody = maxBody;
        copy.handler = handler;
        copy.listener = listener;
        copy.log = log;
        copy.executor = executor;
        copy.threads = threads;
        copy.sslContext = sslContext;
        copy.transports = new ArrayList<>(transports);
        return copy;
    }
}
