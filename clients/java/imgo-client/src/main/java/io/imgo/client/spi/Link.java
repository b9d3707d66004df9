package io.imgo.client.spi;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.Selector;

/**
 * One connection that carries packets. Only the client's thread calls it, and no method blocks. When something happens that
 * lets the caller go on, the link either makes a key of the selector ready or calls {@link Selector#wakeup}.
 */
public interface Link extends Closeable {
    /**
     * Gives the link the selector that the client's thread waits on. It is called once, before the other methods.
     *
     * @param selector the selector
     * @throws IOException if the connection is lost
     */
    void begin(Selector selector) throws IOException;

    /**
     * Does what can be done without waiting: the handshake, and writing.
     *
     * @throws IOException if the connection is lost
     */
    void process() throws IOException;

    /**
     * Reports whether the handshake is complete. Only an open link sends and receives.
     *
     * @return true if it is
     */
    boolean isOpen();

    /**
     * Returns one or more whole packets that have arrived. Packets that arrived before the end of the connection come first.
     *
     * @return the packets, valid until the next call; null if none has arrived
     * @throws LinkClosedException if the server has closed the connection with a code of its own
     * @throws PacketException if the server sent what is no packet
     * @throws IOException if the connection is lost
     */
    ByteBuffer receive() throws IOException;

    /**
     * Says whether the caller wants to receive. Without that the link reads nothing, and the server's writes stop in time.
     *
     * @param wanted false to stop reading
     */
    void setReading(boolean wanted);

    /**
     * Returns a number that grows whenever something has arrived.
     *
     * @return the number
     */
    long arrived();

    /**
     * Reports whether something has arrived that {@link #receive} has not returned, even if reading is not wanted.
     *
     * @return true if something waits
     * @throws IOException if the connection is lost
     */
    boolean hasUnread() throws IOException;

    /**
     * Takes a packet to send. {@link #process} and {@link #receive} do the rest.
     *
     * @param packet a whole packet; the link owns it from now on
     * @throws IOException if the connection is lost
     */
    void send(ByteBuffer packet) throws IOException;

    /**
     * Returns how much the network has not taken yet.
     *
     * @return the number of bytes
     */
    long unsent();

    /**
     * Reports whether the link ends by itself if the network takes no bytes within {@link Endpoint#writeTimeoutMillis}. Otherwise
     * the client ends a link whose {@link #unsent} does not fall in this time.
     *
     * @return true if {@link #unsent} does not fall while the network takes a part of a packet
     */
    default boolean boundsWrites() {
        return false;
    }

    /** Ends the connection at once. It may be called again. */
    @Override
    void close();
}
