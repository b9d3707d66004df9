package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.LongStream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class FileStoreTest {
    @TempDir
    Path folder;

    private Path path;
    private File file;

    @BeforeEach
    void name() {
        path = folder.resolve("ids");
        file = path.toFile();
    }

    @Test
    void keepsIdsInOrder() throws IOException {
        FileStore store = new FileStore(file);
        assertThat(store.load()).isEmpty();
        store.add(new long[] {3, 1});
        store.add(new long[0]);
        store.add(new long[] {-1});
        assertThat(new FileStore(file).load()).containsExactly(3, 1, -1);
        assertThat(Files.readString(path)).isEqualTo("imgo handled ids 1\n3\n1\n18446744073709551615\n");
    }

    @Test
    void addsWithoutALoad() throws IOException {
        new FileStore(file).add(new long[] {1});
        new FileStore(file).add(new long[] {2});
        assertThat(new FileStore(file).load()).containsExactly(1, 2);
    }

    @Test
    void hasAtMostTwiceTheIds() throws IOException {
        FileStore store = new FileStore(file, 10);
        for (long id = 1; id <= 1000; id++) {
            store.add(new long[] {id});
            assertThat(Files.readAllLines(path)).hasSizeLessThanOrEqualTo(21);
        }
        assertThat(new FileStore(file, 10).load()).containsExactly(LongStream.rangeClosed(991, 1000).toArray());
        store.add(LongStream.rangeClosed(2000, 2100).toArray());
        assertThat(new FileStore(file, 10).load()).containsExactly(LongStream.rangeClosed(2091, 2100).toArray());
        assertThat(folder.toFile().list()).containsExactly("ids");
    }

    /** A crash may cut the file at any byte. Then every whole line is there, and later ids are added behind them. */
    @Test
    void aCutFileKeepsItsWholeLines() throws IOException {
        new FileStore(file).add(new long[] {10, 20, -1});
        byte[] whole = Files.readAllBytes(path);
        for (int length = 0; length <= whole.length; length++) {
            Files.write(path, Arrays.copyOf(whole, length));
            long[] ids = new FileStore(file).load();
            assertThat(ids).isEqualTo(Arrays.copyOf(new long[] {10, 20, -1}, ids.length));
            assertThat(ids.length).isEqualTo(Math.max(0, (int) Files.readString(path).lines().count() - 1));
            FileStore store = new FileStore(file);
            store.add(new long[] {30});
            long[] more = Arrays.copyOf(ids, ids.length + 1);
            more[ids.length] = 30;
            assertThat(new FileStore(file).load()).as("cut at %d", length).containsExactly(more);
        }
    }

    @Test
    void zerosAfterTheIdsAreCutOff() throws IOException {
        new FileStore(file).add(new long[] {1});
        Files.write(path, new byte[100], java.nio.file.StandardOpenOption.APPEND); // what some file systems leave after a power cut
        new FileStore(file).add(new long[] {2});
        assertThat(new FileStore(file).load()).containsExactly(1, 2);
    }

    @ParameterizedTest
    @ValueSource(strings = {"hello", "1\n2\n", "imgo handled ids 2\n1\n", "a very long first line of some other file of the user\n"})
    void leavesOtherFilesAlone(String text) throws IOException {
        Files.writeString(path, text);
        assertThatThrownBy(() -> new FileStore(file).load()).isInstanceOf(IOException.class).hasMessageContaining("another file");
        assertThatThrownBy(() -> new FileStore(file).add(new long[] {1})).isInstanceOf(IOException.class);
        assertThat(Files.readString(path)).isEqualTo(text);
    }

    @Test
    void findsTheFileThatWasToReplaceIt() throws IOException {
        FileStore store = new FileStore(file);
        store.add(new long[] {1, 2});
        Files.move(path, folder.resolve("ids.next"));
        assertThat(new FileStore(file).load()).containsExactly(1, 2);
    }

    @Test
    void tellsThatItCannotWrite() throws IOException {
        assertThatThrownBy(() -> new FileStore(new File(file, "in no folder")).add(new long[] {1})).isInstanceOf(IOException.class);
        Files.createDirectory(path);
        assertThatThrownBy(() -> new FileStore(file).load()).isInstanceOf(IOException.class);
        assertThatThrownBy(() -> new FileStore(null)).isInstanceOf(ImgoException.class).hasMessageContaining("file");
        assertThatThrownBy(() -> new FileStore(file, 0)).isInstanceOf(ImgoException.class).hasMessageContaining("remember");
    }

    /** Broken bytes end in a prefix of the ids or in an exception, never in ids that were not there. */
    @Test
    void survivesBrokenBytes() throws IOException {
        Random random = new Random(1);
        List<Long> known = List.of(1L, 22L, 333L);
        new FileStore(file).add(new long[] {1, 22, 333});
        byte[] whole = Files.readAllBytes(path);
        for (int i = 0; i < 300; i++) {
            byte[] broken = whole.clone();
            broken[random.nextInt(broken.length)] = (byte) (random.nextInt(256) | 0x80);
            Files.write(path, broken);
            try {
                for (long id : new FileStore(file).load()) {
                    assertThat(known).contains(id);
                }
            } catch (IOException expected) {
                assertThat(expected).hasMessageContaining("no store");
            }
        }
    }
}
