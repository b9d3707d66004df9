package io.imgo.client;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Saves ids in a text file, one a line behind a header. {@link #add} appends and syncs the file. The file is written anew, under
 * another name that then replaces it, when it has twice the ids that are to be remembered. Half a line at the end, which a crash
 * may leave, counts as absent. All methods are safe for concurrent use, but no two stores may share a file.
 */
public final class FileStore implements Store {
    private static final String HEADER = "imgo handled ids 1";
    private static final int MAX_LINE = 20; // digits of the largest id; the header is shorter
    private static final int REMEMBER = 8192;

    private final DurableFile file;
    private final int remember;
    private int lines = -1; // ids in the file; -1 before the first load

    /**
     * Makes a store that keeps the newest 8192 ids.
     *
     * @param file the file; its folder must be there, the file need not
     */
    public FileStore(File file) {
        this(file, REMEMBER);
    }

    /**
     * Makes a store.
     *
     * @param file the file; its folder must be there, the file need not
     * @param remember how many ids are kept at least, as {@link ImgoClientBuilder#remember} says; the file has at most twice as many
     */
    public FileStore(File file, int remember) {
        if (file == null || remember < 1) {
            throw new ImgoException(ErrorCode.INVALID, file == null ? "file is null: give the file of the store"
                    : "remember is " + remember + ": give 1 or more");
        }
        this.file = new DurableFile(file);
        this.remember = remember;
    }

    @Override
    public synchronized long[] load() throws IOException {
        Deque<Long> ids = read();
        long[] array = new long[ids.size()];
        int i = 0;
        for (Long id : ids) {
            array[i++] = id;
        }
        return array;
    }

    @Override
    public synchronized void add(long[] ids) throws IOException {
        if (lines < 0) {
            read();
        }
        if (lines + ids.length > 2L * remember) {
            Deque<Long> newest = read();
            for (long id : ids) {
                newest.add(id);
            }
            while (newest.size() > remember) {
                newest.poll();
            }
            replace(newest);
            return;
        }
        StringBuilder text = new StringBuilder(file.file.length() == 0 ? HEADER + "\n" : "");
        for (long id : ids) {
            text.append(Ids.text(id)).append('\n');
        }
        int before = lines;
        lines = -1; // until it is known that the file has whole lines
        file.append(text.toString().getBytes(StandardCharsets.US_ASCII));
        lines = before + ids.length;
    }

    /** Reads the newest ids and cuts half a line off the file. */
    private Deque<Long> read() throws IOException {
        file.recover();
        Deque<Long> ids = new ArrayDeque<>();
        long whole = 0; // bytes of whole lines
        int count = 0;
        try (BufferedReader in = new BufferedReader(new InputStreamReader(new FileInputStream(file.file), StandardCharsets.ISO_8859_1))) {
            StringBuilder line = new StringBuilder();
            for (int c = in.read(); c >= 0; c = in.read()) {
                if (c != '\n') {
                    line.append((char) c);
                    if (line.length() > MAX_LINE) {
                        break; // neither an id nor the header: not ours, or what a crash left
                    }
                    continue;
                }
                if (whole == 0 ? !line.toString().equals(HEADER) : !addId(ids, line)) {
                    break;
                }
                count += whole == 0 ? 0 : 1;
                whole += line.length() + 1;
                line.setLength(0);
                if (ids.size() > remember) {
                    ids.poll();
                }
            }
            if (whole == 0 && file.file.length() > 0 && !HEADER.startsWith(line.toString())) {
                throw new IOException(file.file + " is no store of ids: give the path of another file");
            }
        } catch (FileNotFoundException e) {
            if (file.file.exists()) {
                throw e; // it is there and cannot be read
            }
        }
        file.cut(whole);
        lines = count;
        return ids;
    }

    private static boolean addId(Deque<Long> ids, CharSequence line) {
        try {
            ids.add(Ids.parse(line.toString()));
            return true;
        } catch (NumberFormatException e) {
            return false;
        }
    }

    private void replace(Deque<Long> ids) throws IOException {
        StringBuilder text = new StringBuilder(HEADER).append('\n');
        for (Long id : ids) {
            text.append(Ids.text(id)).append('\n');
        }
        lines = -1;
        file.replace(text.toString().getBytes(StandardCharsets.US_ASCII));
        lines = ids.size();
    }
}
