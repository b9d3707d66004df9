package io.imgo.client;

import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.zip.CRC32;

/**
 * Keeps messages in a file, which has a record for each call behind a header. Each call appends its record and syncs the file. The
 * file is written anew, under another name that then replaces it, when more than half of it, and more than 64 KiB, is about
 * messages that were removed, and when the file has not the length that it had, for example because it was deleted. A part of a record at the end, which a crash may leave, counts as absent. No file is open between two
 * calls. All methods are safe for concurrent use, but no two outboxes may share a file.
 */
public final class FileOutbox implements Outbox {
    private static final byte[] HEADER = "imgo outbox 1\n".getBytes(StandardCharsets.US_ASCII);
    private static final int USELESS = 64 << 10;
    /** A record is the length of its payload, the CRC-32 of that, and the payload: its kind, and what the kind has. */
    private static final int RECORD_HEADER = 8;
    private static final byte BASE = 1;
    private static final byte ADD = 2;
    private static final byte REMOVE = 3;
    private static final int ADD_BYTES = RECORD_HEADER + 1 + 8 + 4; // without the body

    private final DurableFile file;
    private final OutboxState state = new OutboxState();
    private long size = -1; // bytes of the file; -1 if the file must be read first

    /**
     * Makes an outbox.
     *
     * @param file the file; its folder must be there, the file need not
     */
    public FileOutbox(File file) {
        if (file == null) {
            throw new ImgoException(ErrorCode.INVALID, "file is null: give the file of the outbox");
        }
        this.file = new DurableFile(file);
    }

    @Override
    public synchronized OutboxContent load() throws IOException {
        read();
        return state.content();
    }

    @Override
    public synchronized void setBase(long base) throws IOException {
        known();
        write(record(BASE, base, null));
        state.base = base;
    }

    @Override
    public synchronized void add(OutboxMessage message) throws IOException {
        known();
        write(record(ADD, message.number(), message));
        state.add(message);
    }

    @Override
    public synchronized void remove(long upTo) throws IOException {
        known();
        write(record(REMOVE, upTo, null));
        state.remove(upTo);
        long useful = HEADER.length;
        for (OutboxMessage message : state.messages) {
            useful += ADD_BYTES + message.body().length;
        }
        if (size - useful > Math.max(USELESS, size / 2)) {
            writeAnew();
        }
    }

    private void known() throws IOException {
        if (size < 0) {
            read();
        }
    }

    private static byte[] record(byte kind, long number, OutboxMessage message) {
        int length = 1 + 8 + (message == null ? 0 : 4 + message.body().length);
        ByteBuffer record = ByteBuffer.allocate(RECORD_HEADER + length);
        record.putInt(length).putInt(0).put(kind).putLong(number);
        if (message != null) {
            record.putInt(message.op()).put(message.body());
        }
        CRC32 sum = new CRC32();
        sum.update(record.array(), RECORD_HEADER, length);
        record.putInt(4, (int) sum.getValue());
        return record.array();
    }

    /** Appends a record. If it throws, the record is not there, or the next call reads what is there. */
    private void write(byte[] record) throws IOException {
        if (file.file.length() != size) {
            ByteArrayOutputStream bytes = content();
            append(bytes, record);
            file.replace(bytes.toByteArray());
            size = bytes.size();
            return;
        }
        long before = size;
        size = -1;
        byte[] bytes = record;
        if (before == 0) {
            bytes = Arrays.copyOf(HEADER, HEADER.length + record.length);
            System.arraycopy(record, 0, bytes, HEADER.length, record.length);
        }
        try {
            file.append(bytes);
        } catch (IOException e) {
            try {
                file.cut(before);
            } catch (IOException cutting) {
                e.addSuppressed(cutting);
            }
            throw e;
        }
        size = before + bytes.length;
    }

    /** Returns a file with the content. */
    private ByteArrayOutputStream content() {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        bytes.write(HEADER, 0, HEADER.length);
        if (state.base != null) {
            append(bytes, record(BASE, state.base, null));
        }
        long removed = state.messages.isEmpty() ? state.last : state.messages.peek().number() - 1;
        append(bytes, record(REMOVE, removed, null));
        for (OutboxMessage message : state.messages) {
            append(bytes, record(ADD, message.number(), message));
        }
        return bytes;
    }

    private void writeAnew() {
        ByteArrayOutputStream bytes = content();
        size = -1;
        try {
            file.replace(bytes.toByteArray());
            size = bytes.size();
        } catch (IOException e) {
            // The file is longer than it need be. The next removal tries again.
        }
    }

    private static void append(ByteArrayOutputStream to, byte[] record) {
        to.write(record, 0, record.length);
    }

    /** Reads the file and cuts a part of a record off its end. */
    private void read() throws IOException {
        file.recover();
        size = -1;
        state.clear();
        long whole = 0; // bytes of whole records
        long length = file.file.length();
        try (DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(file.file)))) {
            byte[] header = new byte[(int) Math.min(length, HEADER.length)];
            in.readFully(header);
            if (!Arrays.equals(header, Arrays.copyOf(HEADER, header.length))) {
                throw new IOException(file.file + " is no outbox: give the path of another file");
            }
            if (header.length == HEADER.length) {
                whole = HEADER.length;
                for (long bytes = readRecord(in, length - whole); bytes > 0; bytes = readRecord(in, length - whole)) {
                    whole += bytes;
                }
            }
        } catch (FileNotFoundException e) {
            if (file.file.exists()) {
                throw e; // it is there and cannot be read
            }
        }
        file.cut(whole);
        size = whole;
    }

    /**
     * Reads a record and does what it says. It returns the bytes of the record, or 0 if only a part of one is left.
     *
     * @param left the bytes up to the end of the file
     */
    private long readRecord(DataInputStream in, long left) throws IOException {
        if (left < RECORD_HEADER) {
            return 0;
        }
        int length = in.readInt();
        int sum = in.readInt();
        if (length < 0 || length > left - RECORD_HEADER) {
            return 0;
        }
        byte[] payload = new byte[length];
        in.readFully(payload);
        CRC32 computed = new CRC32();
        computed.update(payload);
        if (length > 0 && (int) computed.getValue() == sum && apply(ByteBuffer.wrap(payload))) {
            return RECORD_HEADER + length;
        }
        // A power cut may leave the last record, or all that is behind the one before, without its bytes.
        boolean empty = length == 0 && sum == 0;
        for (int b = empty ? in.read() : -1; b >= 0; b = in.read()) {
            empty &= b == 0;
        }
        if (!empty && length != left - RECORD_HEADER) {
            throw new IOException(file.file + " is damaged " + left + " bytes before its end: restore it, or give the device another"
                    + " name and a new outbox");
        }
        return 0;
    }

    private boolean apply(ByteBuffer payload) {
        if (payload.remaining() < 9) {
            return false;
        }
        byte kind = payload.get();
        long number = payload.getLong();
        if (kind == BASE) {
            state.base = number;
        } else if (kind == REMOVE) {
            state.remove(number);
        } else if (kind == ADD && payload.remaining() >= 4) {
            int op = payload.getInt();
            byte[] body = new byte[payload.remaining()];
            payload.get(body);
            state.add(new OutboxMessage(number, op, body));
        } else {
            return false;
        }
        return true;
    }
}
