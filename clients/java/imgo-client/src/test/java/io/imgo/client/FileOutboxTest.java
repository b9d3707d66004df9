package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class FileOutboxTest {
    private static final String EMPTY = "base null, last 0, []";

    @TempDir
    Path folder;

    private Path path;
    private File file;

    @BeforeEach
    void name() {
        path = folder.resolve("outbox");
        file = path.toFile();
    }

    private static OutboxMessage message(long number, String body) {
        return new OutboxMessage(number, 4, body.getBytes(StandardCharsets.UTF_8));
    }

    private static String text(OutboxContent content) {
        List<String> messages = new ArrayList<>();
        for (OutboxMessage message : content.messages()) {
            messages.add(message.number() + " " + message.op() + " " + new String(message.body(), StandardCharsets.UTF_8));
        }
        return "base " + (content.base() == null ? null : Ids.text(content.base())) + ", last " + content.last() + ", " + messages;
    }

    private String loaded() throws IOException {
        return text(new FileOutbox(file).load());
    }

    @Test
    void aFileThatVanishesIsWrittenAnew() throws IOException {
        FileOutbox outbox = new FileOutbox(file);
        outbox.setBase(7);
        outbox.add(message(1, "a"));
        Files.delete(path);
        outbox.add(message(2, "b"));
        assertThat(loaded()).isEqualTo("base 7, last 2, [1 4 a, 2 4 b]");
        Files.delete(path);
        outbox.remove(1);
        assertThat(loaded()).isEqualTo("base 7, last 2, [2 4 b]");
    }

    /** Makes a file and returns what it had after each call, the empty one first. */
    private List<String> fill() throws IOException {
        List<String> states = new ArrayList<>(List.of(EMPTY));
        FileOutbox outbox = new FileOutbox(file);
        outbox.add(message(1, "a"));
        states.add(loaded());
        outbox.setBase(-5);
        states.add(loaded());
        outbox.add(new OutboxMessage(2, 1000, new byte[0]));
        states.add(loaded());
        outbox.remove(1);
        states.add(loaded());
        outbox.add(message(3, "ccc"));
        states.add(loaded());
        return states;
    }

    @Test
    void keepsBaseNumbersAndMessages() throws IOException {
        assertThat(loaded()).isEqualTo(EMPTY);
        assertThat(file).doesNotExist();
        assertThat(fill()).containsExactly(EMPTY,
                "base null, last 1, [1 4 a]",
                "base 18446744073709551611, last 1, [1 4 a]",
                "base 18446744073709551611, last 2, [1 4 a, 2 1000 ]",
                "base 18446744073709551611, last 2, [2 1000 ]",
                "base 18446744073709551611, last 3, [2 1000 , 3 4 ccc]");
        new FileOutbox(file).remove(3); // without a load
        assertThat(loaded()).isEqualTo("base 18446744073709551611, last 3, []");
    }

    /** A crash may cut the file at any byte. Then every whole record is there, and later ones are added behind them. */
    @Test
    void aCutFileKeepsItsWholeRecords() throws IOException {
        List<String> states = fill();
        byte[] whole = Files.readAllBytes(path);
        int at = 0;
        for (int length = 0; length <= whole.length; length++) {
            Files.write(path, Arrays.copyOf(whole, length));
            String state = loaded();
            if (!state.equals(states.get(at))) {
                at++;
            }
            assertThat(state).as("cut at %d", length).isEqualTo(states.get(at));
            new FileOutbox(file).add(message(9, "next"));
            assertThat(loaded()).as("added after a cut at %d", length).contains("last 9").contains("9 4 next");
        }
        assertThat(at).isEqualTo(states.size() - 1);
    }

    /** Some file systems leave zeros in place of the last bytes after a power cut. */
    @Test
    void zerosAtTheEndAreCutOff() throws IOException {
        List<String> states = fill();
        byte[] whole = Files.readAllBytes(path);
        for (int zeros : new int[] {1, 7, 8, 9, 100}) {
            Files.write(path, Arrays.copyOf(whole, whole.length + zeros));
            assertThat(loaded()).isEqualTo(states.get(states.size() - 1));
            assertThat(Files.readAllBytes(path)).isEqualTo(whole);
        }
        for (int lost = 1; lost < 8 + 13; lost++) {
            byte[] torn = whole.clone();
            Arrays.fill(torn, whole.length - lost, whole.length, (byte) 0);
            Files.write(path, torn);
            assertThat(loaded()).isEqualTo(states.get(states.size() - 2));
        }
    }

    /** A broken byte ends in what the file had before, or in an exception that leaves the file as it is. */
    @Test
    void survivesBrokenBytes() throws IOException {
        List<String> states = fill();
        byte[] whole = Files.readAllBytes(path);
        int told = 0;
        for (int i = 0; i < whole.length; i++) {
            byte[] broken = whole.clone();
            broken[i] ^= 0x41;
            Files.write(path, broken);
            try {
                assertThat(states).as("byte %d", i).contains(loaded());
            } catch (IOException e) {
                told++;
                assertThat(e).hasMessageMatching(".*(is damaged|is no outbox).*");
                assertThat(Files.readAllBytes(path)).isEqualTo(broken);
                assertThatThrownBy(() -> new FileOutbox(file).add(message(4, "d"))).isInstanceOf(IOException.class);
            }
        }
        assertThat(told).as("broken bytes before the last record are told").isGreaterThan(whole.length / 2);
    }

    /** A call that failed may have left its message. The next one has the same number. */
    @Test
    void aMessageReplacesOneWithItsNumber() throws IOException {
        FileOutbox outbox = new FileOutbox(file);
        outbox.add(message(1, "a"));
        outbox.add(message(2, "failed"));
        outbox.add(message(2, "b"));
        assertThat(text(outbox.load())).isEqualTo("base null, last 2, [1 4 a, 2 4 b]");
        assertThat(loaded()).isEqualTo("base null, last 2, [1 4 a, 2 4 b]");
    }

    @Test
    void doesNotGrowWithoutEnd() throws IOException {
        FileOutbox outbox = new FileOutbox(file);
        outbox.setBase(7);
        String body = "x".repeat(5000);
        outbox.add(message(1, "stays"));
        outbox.add(message(2, body));
        for (long number = 3; number < 60; number++) {
            outbox.add(message(number, body));
            outbox.remove(number - 2);
            assertThat(Files.size(path)).isLessThan((64 << 10) + 20_000);
        }
        assertThat(loaded()).isEqualTo("base 7, last 59, [58 4 " + body + ", 59 4 " + body + "]");
        outbox.remove(59);
        assertThat(loaded()).isEqualTo("base 7, last 59, []");
        assertThat(folder.toFile().list()).containsExactly("outbox");
    }

    @ParameterizedTest
    @ValueSource(strings = {"hello", "imgo handled ids 1\n3\n", "imgo outbox 2\n"})
    void leavesOtherFilesAlone(String text) throws IOException {
        Files.writeString(path, text);
        assertThatThrownBy(() -> new FileOutbox(file).load()).isInstanceOf(IOException.class).hasMessageContaining("another file");
        assertThatThrownBy(() -> new FileOutbox(file).add(message(1, "a"))).isInstanceOf(IOException.class);
        assertThat(Files.readString(path)).isEqualTo(text);
    }

    @Test
    void findsTheFileThatWasToReplaceIt() throws IOException {
        new FileOutbox(file).add(message(1, "a"));
        Files.move(path, folder.resolve("outbox.next"));
        assertThat(loaded()).isEqualTo("base null, last 1, [1 4 a]");
    }

    /** After a call that failed, the file is read again and used on. */
    @Test
    void tellsThatItCannotWriteAndGoesOn() throws IOException {
        FileOutbox outbox = new FileOutbox(new File(folder.toFile(), "later/outbox"));
        assertThatThrownBy(() -> outbox.add(message(1, "a"))).isInstanceOf(IOException.class);
        Files.createDirectory(folder.resolve("later"));
        outbox.add(message(1, "b"));
        assertThat(text(outbox.load())).isEqualTo("base null, last 1, [1 4 b]");
        Files.createDirectory(path);
        assertThatThrownBy(() -> new FileOutbox(file).load()).isInstanceOf(IOException.class);
        assertThatThrownBy(() -> new FileOutbox(null)).isInstanceOf(ImgoException.class).hasMessageContaining("file");
    }

    @Test
    void onlyTheOwnerMayReadIt() throws IOException {
        assumeThat(FileSystems.getDefault().supportedFileAttributeViews()).contains("posix");
        FileOutbox outbox = new FileOutbox(file);
        outbox.add(message(1, "a secret"));
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(path))).matches("rw-.-..-.");
        Files.write(path, new byte[0], StandardOpenOption.TRUNCATE_EXISTING);
        outbox.load();
        outbox.add(message(1, "x".repeat(200_000)));
        outbox.remove(1); // written anew
        assertThat(Files.size(path)).isLessThan(100);
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(path))).matches("rw-.-..-.");
    }
}
