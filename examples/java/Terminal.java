import io.imgo.client.ClientListener;
import io.imgo.client.FileStore;
import io.imgo.client.ImgoClient;
import io.imgo.client.ImgoException;
import io.imgo.client.RoomChange;
import io.imgo.client.StateChange;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/**
 * A client in a terminal: it prints messages, and takes commands.
 *
 * <pre>
 * java -cp 'dist/*' examples/java/Terminal.java tcp://127.0.0.1:8080 TOKEN
 * </pre>
 */
class Terminal {
    public static void main(String[] args) throws Exception {
        ClientListener events = new ClientListener() {
            @Override
            public void onState(StateChange change) {
                System.out.println("* " + change.state());
            }

            @Override
            public void onRoom(RoomChange change) {
                System.out.println("* " + (change.isJoined() ? "in " : "out of ") + change.room());
            }
        };
        ImgoClient client = ImgoClient.builder()
                .address(args[0])
                .token(args[1])
                .device("terminal")
                .store(new FileStore(new File("terminal-ids")))
                .onMessage(message -> System.out.println("> " + new String(message.body(), StandardCharsets.UTF_8)))
                .listener(events)
                .build();
        try (client; BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            client.connect().await();
            System.out.println("/join ROOM, /leave ROOM or /quit");
            for (String line = lines.readLine(); line != null && !line.equals("/quit"); line = lines.readLine()) {
                try {
                    if (line.startsWith("/join ")) {
                        client.join(line.substring(6)).await();
                    } else if (line.startsWith("/leave ")) {
                        client.leave(line.substring(7)).await();
                    }
                    System.out.println("* done");
                } catch (ImgoException e) {
                    System.out.println("* " + e.getMessage());
                }
            }
        }
    }
}
