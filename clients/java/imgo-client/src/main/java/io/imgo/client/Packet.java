package io.imgo.client;

import io.imgo.client.spi.PacketException;
import java.nio.ByteBuffer;

/** One packet: a header in big-endian order, and a body. */
final class Packet {
    final int op;
    final int seq;
    final long id; // 0 if the header has none
    final byte[] body;

    Packet(int op, int seq, long id, byte[] body) {
        this.op = op;
        this.seq = seq;
        this.id = id;
        this.body = body;
    }

    /** Returns a packet of a client without an id, which has the short header. */
    static ByteBuffer encode(int op, int seq, byte[] body) {
        return encode(op, seq, 0, body);
    }

    /** Returns a packet of a client. Its header is short if the id is 0. */
    static ByteBuffer encode(int op, int seq, long id, byte[] body) {
        int header = id == 0 ? Protocol.HEADER_V1 : Protocol.HEADER_V2;
        ByteBuffer packet = ByteBuffer.allocate(header + body.length);
        packet.putInt(header + body.length);
        packet.putShort((short) header);
        packet.putShort(Protocol.VERSION);
        packet.putInt(op);
        packet.putInt(seq);
        if (id != 0) {
            packet.putLong(id);
        }
        packet.put(body);
        Buffers.flip(packet);
        return packet;
    }

    /**
     * Returns the length of the packet that begins at the position, or 0 if its first 6 bytes are not there yet. The whole
     * packet may be missing.
     */
    static int length(ByteBuffer in, int maxBody) throws PacketException {
        if (in.remaining() < 6) {
            return 0;
        }
        int length = in.getInt(in.position());
        int header = in.getShort(in.position() + 4);
        if (length == 0x48545450) {
            throw new PacketException("the server answers in HTTP, so this is not its TCP port for clients");
        }
        if (header != Protocol.HEADER_V1 && header != Protocol.HEADER_V2) {
            throw new PacketException("a packet has a header of " + header + " bytes: 16 or 24 are allowed");
        }
        if (length < header) {
            throw new PacketException("a packet has a length of " + length + ", less than its header");
        }
        if (length - header > maxBody) {
            throw new PacketException(
                    "a packet has a body of " + (length - header) + " bytes: maxBody allows " + maxBody);
        }
        return length;
    }

    /** Takes a whole packet from the position on. */
    static Packet decode(ByteBuffer in, int maxBody) throws PacketException {
        int length = length(in, maxBody);
        if (length == 0 || length > in.remaining()) {
            throw new PacketException("a packet is cut off: " + in.remaining() + " bytes of " + length);
        }
        int start = in.position();
        int header = in.getShort(start + 4);
        int op = in.getInt(start + 8);
        int seq = in.getInt(start + 12);
        long id = header == Protocol.HEADER_V2 ? in.getLong(start + 16) : 0;
        byte[] body = new byte[length - header];
        Buffers.position(in, start + header);
        in.get(body);
        return new Packet(op, seq, id, body);
    }
}
