package io.imgo.client;

import static org.assertj.core.api.Assertions.assertThat;

import io.imgo.client.spi.PacketException;
import java.nio.ByteBuffer;
import java.util.Random;
import org.junit.jupiter.api.Test;

class PacketFuzzTest {
    @Test
    void whatIsWrittenIsReadBack() throws PacketException {
        Random random = new Random(1);
        for (int i = 0; i < 2000; i++) {
            byte[] body = new byte[random.nextInt(100)];
            random.nextBytes(body);
            int op = random.nextInt();
            int seq = random.nextInt();
            Packet packet = Packet.decode(Packet.encode(op, seq, body), 100);
            assertThat(packet.op).isEqualTo(op);
            assertThat(packet.seq).isEqualTo(seq);
            assertThat(packet.id).isZero();
            assertThat(packet.body).isEqualTo(body);
        }
    }

    /** Any bytes end in a packet or in a PacketException, and never in a large allocation. */
    @Test
    void survivesAnyBytes() {
        Random random = new Random(2);
        int packets = 0;
        for (int i = 0; i < 100_000; i++) {
            byte[] bytes = new byte[random.nextInt(64)];
            random.nextBytes(bytes);
            if (bytes.length > 6 && random.nextBoolean()) { // near to a packet
                bytes[0] = bytes[1] = bytes[2] = bytes[4] = 0;
                bytes[3] = (byte) random.nextInt(64);
                bytes[5] = (byte) (random.nextBoolean() ? 16 : 24);
            }
            try {
                Packet packet = Packet.decode(ByteBuffer.wrap(bytes), 40);
                assertThat(packet.body.length).isLessThanOrEqualTo(40);
                packets++;
            } catch (PacketException expected) {
                // no packet
            }
        }
        assertThat(packets).isPositive();
    }

    @Test
    void idsAreUnsigned() {
        Random random = new Random(3);
        for (int i = 0; i < 1000; i++) {
            long a = random.nextLong();
            long b = random.nextBoolean() ? a : random.nextLong();
            assertThat(Ids.parse(Ids.text(a))).isEqualTo(a);
            assertThat(Ids.text(a)).isEqualTo(Long.toUnsignedString(a));
            assertThat(Integer.signum(Message.compareIds(a, b))).isEqualTo(Integer.signum(Long.compareUnsigned(a, b)));
        }
        for (String text : new String[] {"", "-1", "+1", " 1", "1x", "18446744073709551616", "123456789012345678901", "\u0661"}) {
            assertThat(org.assertj.core.api.Assertions.catchThrowable(() -> Ids.parse(text))).as(text)
                    .isInstanceOf(NumberFormatException.class);
        }
    }
}
