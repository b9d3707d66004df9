package io.imgo.client;

import io.imgo.client.internal.NewerAndroid;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.channels.FileChannel;
import java.nio.file.StandardOpenOption;

/**
 * A file that grows at its end, and is at times written anew under another name that then replaces it. What a method has written
 * is durable when it returns. No file is open between two calls. The owner guards it.
 */
final class DurableFile {
    final File file;
    private final File next;

    DurableFile(File file) {
        this.file = file.getAbsoluteFile();
        this.next = new File(this.file.getPath() + ".next");
    }

    /** Finishes what a crash between the steps of replace has left. */
    void recover() throws IOException {
        if (!file.exists() && next.exists() && !next.renameTo(file)) {
            throw cannotRename();
        }
    }

    /** Appends bytes. If it throws, a part of them may be there. */
    void append(byte[] bytes) throws IOException {
        boolean made = !file.exists();
        try (FileOutputStream out = new FileOutputStream(file, true)) {
            if (made) {
                ownerOnly(file);
            }
            out.write(bytes);
            out.getFD().sync();
        }
        if (made) {
            syncFolder();
        }
    }

    /** Cuts off what is behind a length, if there is anything. */
    void cut(long length) throws IOException {
        if (file.length() > length) {
            try (RandomAccessFile cut = new RandomAccessFile(file, "rw")) {
                cut.setLength(length);
                cut.getFD().sync();
            }
        }
    }

    /** Replaces the file by one with other bytes. */
    void replace(byte[] bytes) throws IOException {
        try (FileOutputStream out = new FileOutputStream(next)) {
            ownerOnly(next);
            out.write(bytes);
            out.getFD().sync();
        }
        // Where a file in the way stops a rename (Windows), it goes first; recover finds the other one after a crash.
        if (!next.renameTo(file) && !(file.delete() && next.renameTo(file))) {
            throw cannotRename();
        }
        syncFolder();
    }

    private IOException cannotRename() {
        return new IOException("rename " + next + " to " + file + ": give the right to write in the folder");
    }

    /** Makes a file readable by its owner alone, where the platform can. */
    private static void ownerOnly(File file) {
        if (file.setReadable(false, false)) {
            file.setReadable(true, true);
        }
    }

    /** Makes a new name of the file durable, where the platform can. */
    private void syncFolder() {
        try {
            syncFolder(file.getParentFile());
        } catch (NoClassDefFoundError | NoSuchMethodError e) {
            // Android before API level 26 has no way to sync a folder.
        }
    }

    @NewerAndroid
    private static void syncFolder(File folder) {
        try (FileChannel channel = FileChannel.open(folder.toPath(), StandardOpenOption.READ)) {
            channel.force(true);
        } catch (IOException e) {
            // Windows refuses to open a folder, and makes new names durable by itself.
        }
    }
}
