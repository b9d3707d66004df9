package io.imgo.client.driver;

import io.imgo.client.internal.Json;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads commands from standard input and prints events to standard output, one JSON object a line. clients/conformance/README.md
 * describes them.
 */
public final class Driver {
    private final PrintStream out;
    private final CountedThreads threads = new CountedThreads();
    private final Map<String, DrivenClient> clients = new HashMap<>();

    private Driver(PrintStream out) {
        this.out = out;
    }

    /**
     * Runs the driver until its input ends or a command ends it.
     *
     * @param args none
     * @throws IOException if the input cannot be read
     */
    public static void main(String[] args) throws IOException {
        new Driver(new PrintStream(System.out, false, StandardCharsets.UTF_8)).run();
        System.exit(0); // without a close of the clients
    }

    private void run() throws IOException {
        print("", event("ready", "language", "java", "transports", List.of("tcp", "tls", "ws", "wss"), "pauses", true,
                "publishes", true));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.isBlank()) {
                continue;
            }
            Map<?, ?> command = (Map<?, ?>) Json.parse(line);
            if ("exit".equals(command.get("do"))) {
                return;
            }
            Object name = command.get("client");
            run(name == null ? "" : (String) name, command);
        }
    }

    private void run(String name, Map<?, ?> command) {
        Object tag = command.get("tag");
        if ("threads".equals(command.get("do"))) {
            print(name, event("done", "tag", tag == null ? 0 : tag, "result", Map.of("count", threads.alive())));
            return;
        }
        clients.computeIfAbsent(name, n -> new DrivenClient(this, n, threads)).run(command);
    }

    /** Makes an event of names and values, in turn. */
    static Map<String, Object> event(String event, Object... fields) {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("event", event);
        for (int i = 0; i < fields.length; i += 2) {
            map.put((String) fields[i], fields[i + 1]);
        }
        return map;
    }

    /** Prints an event of a client. Any thread may call it. */
    void print(String client, Map<String, Object> event) {
        if (!client.isEmpty()) {
            event.put("client", client);
        }
        String line = Json.write(event);
        synchronized (out) {
            out.print(line + "\n");
            out.flush();
        }
    }
}
