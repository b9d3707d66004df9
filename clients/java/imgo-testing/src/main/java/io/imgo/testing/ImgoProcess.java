package io.imgo.testing;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Assumptions;

/**
 * A real imgo server. The variable TEST_IMGO names the program; `go test ./clients/java` sets it. Without it a test is
 * skipped, or fails with CI=true.
 *
 * <p>An ImgoProcess is for one thread.
 */
public final class ImgoProcess implements AutoCloseable {
    private static final long LIMIT_SECONDS = 60;
    private static final Pattern READY = Pattern.compile(
            "is ready .*?\\n *TCP +(\\S+) .*?\\n *WS +(\\S+) .*?\\n *HTTP +(http://\\S+)/ ", Pattern.DOTALL);

    private final Path folder;
    private final List<String> settings;
    private final Thread atExit = new Thread(this::end, "imgo end");
    private Process process;
    private Path log;
    private int starts;
    private String tcp = "127.0.0.1:0";
    private String ws = "127.0.0.1:0";
    private String http = "http://127.0.0.1:0";

    private ImgoProcess(Path folder, List<String> settings) {
        this.folder = folder;
        this.settings = settings;
    }

    /**
     * Starts a server and waits until it is ready.
     *
     * @param folder a folder for its data and its log
     * @param settings further flags
     * @return the server
     * @throws IOException if the program does not start
     * @throws InterruptedException if the thread is interrupted
     */
    public static ImgoProcess start(Path folder, String... settings) throws IOException, InterruptedException {
        String program = System.getenv("TEST_IMGO");
        if (program == null && !"true".equals(System.getenv("CI"))) {
            Assumptions.abort("TEST_IMGO does not name the program: run go test ./clients/java");
        }
        if (program == null) {
            throw new IllegalStateException("TEST_IMGO does not name the program; with CI=true that is an error");
        }
        ImgoProcess server = new ImgoProcess(folder, List.of(settings));
        Runtime.getRuntime().addShutdownHook(server.atExit);
        server.restart();
        return server;
    }

    /**
     * Starts the server again, at the same addresses and with the same data.
     *
     * @throws IOException if the program does not start
     * @throws InterruptedException if the thread is interrupted
     */
    public void restart() throws IOException, InterruptedException {
        log = folder.resolve("imgo-" + ++starts + ".log");
        List<String> command = new ArrayList<>(List.of(System.getenv("TEST_IMGO"), "--data-dir", folder.resolve("data").toString(),
                "--log-format", "console", "--tcp", tcp, "--ws", ws.replaceAll("^ws://|/sub$", ""),
                "--http", http.substring("http://".length())));
        command.addAll(settings);
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile());
        builder.environment().keySet().removeIf(name -> name.startsWith("IMGO_"));
        process = builder.start();
        long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(LIMIT_SECONDS);
        Matcher ready = READY.matcher(Files.readString(log));
        while (!ready.find()) {
            if (process.waitFor(10, TimeUnit.MILLISECONDS) || System.nanoTime() > until) {
                end();
                throw new IOException("imgo did not become ready:\n" + Files.readString(log));
            }
            ready = READY.matcher(Files.readString(log));
        }
        tcp = ready.group(1);
        ws = ready.group(2);
        http = ready.group(3);
    }

    /**
     * Returns where TCP clients connect.
     *
     * @return host:port
     */
    public String tcp() {
        return tcp;
    }

    /**
     * Returns where WebSocket clients connect.
     *
     * @return ws://host:port/sub
     */
    public String ws() {
        return ws;
    }

    /**
     * Returns where the HTTP API is.
     *
     * @return http://host:port
     */
    public String http() {
        return http;
    }

    /**
     * Returns the id of the process.
     *
     * @return the id
     */
    public long pid() {
        return process.pid();
    }

    /** Ends the server as kill -9 does. {@link #restart} starts it again. */
    public void kill() {
        end();
    }

    private void end() {
        Process running = process;
        if (running == null) {
            return;
        }
        running.destroyForcibly(); // SIGKILL
        try {
            running.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    /** Ends the server. */
    @Override
    public void close() {
        end();
        Runtime.getRuntime().removeShutdownHook(atExit);
    }
}
