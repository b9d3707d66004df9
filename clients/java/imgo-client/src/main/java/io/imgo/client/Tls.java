package io.imgo.client;

import io.imgo.client.internal.NewerAndroid;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLEngineResult;
import javax.net.ssl.SSLEngineResult.HandshakeStatus;
import javax.net.ssl.SSLEngineResult.Status;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLPeerUnverifiedException;

/** The client's side of TLS, between bytes of the network and bytes of packets. One thread uses it. */
final class Tls {
    private final SSLEngine engine;
    private final String host;
    private final boolean verifyByPlatform;
    private ByteBuffer networkIn; // always ready to be read from
    private ByteBuffer plainIn; // likewise
    private boolean open;
    private boolean ended; // the peer has said that nothing follows

    Tls(SSLContext context, String host, int port) {
        this.host = host;
        engine = context.createSSLEngine(host, port);
        engine.setUseClientMode(true);
        boolean verifies = true;
        try {
            verifyInHandshake(engine);
        } catch (NoSuchMethodError e) {
            verifies = false;
        }
        verifyByPlatform = !verifies;
        networkIn = empty(engine.getSession().getPacketBufferSize());
        plainIn = empty(engine.getSession().getApplicationBufferSize());
    }

    /** Makes the handshake check the name of the server. Android has this from API level 24 on. */
    @NewerAndroid
    private static void verifyInHandshake(SSLEngine engine) {
        SSLParameters parameters = engine.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        engine.setSSLParameters(parameters);
    }

    /** Reports whether the handshake is complete. */
    boolean isOpen() {
        return open;
    }

    boolean hasEnded() {
        return ended;
    }

    /** Reports whether bytes wait that read would not need the network for. */
    boolean hasUnread() {
        return plainIn.hasRemaining() || networkIn.hasRemaining();
    }

    /** Returns a buffer for bytes of the network. The caller fills it and calls filled. */
    ByteBuffer toFill() {
        networkIn.compact();
        return networkIn;
    }

    void filled() {
        Buffers.flip(networkIn);
    }

    /**
     * Decrypts as far as possible, and does steps of the handshake, whose bytes are added to out. It returns the decrypted
     * bytes, which are valid until the next call. They are empty if more bytes of the network are needed.
     */
    ByteBuffer read(Bytes out) throws IOException {
        while (!plainIn.hasRemaining() && !ended) {
            if (!handshakeStep(out)) {
                break;
            }
            Buffers.clear(plainIn);
            SSLEngineResult result;
            try {
                result = engine.unwrap(networkIn, plainIn);
            } finally {
                Buffers.flip(plainIn);
            }
            noteHandshake(result);
            if (result.getStatus() == Status.BUFFER_OVERFLOW) {
                plainIn = empty(Math.max(engine.getSession().getApplicationBufferSize(), 2 * plainIn.capacity()));
            } else if (result.getStatus() == Status.BUFFER_UNDERFLOW) {
                networkIn = grown(networkIn, engine.getSession().getPacketBufferSize());
                break;
            } else if (result.getStatus() == Status.CLOSED) {
                ended = true;
            } else if (result.bytesConsumed() == 0 && result.bytesProduced() == 0 && engine.getHandshakeStatus() == HandshakeStatus.NOT_HANDSHAKING) {
                break;
            }
        }
        // A step may be due that needs no input, such as the answer to a new key.
        if (!ended) {
            handshakeStep(out);
        }
        return plainIn;
    }

    /** Does the steps of the handshake that need no input. It reports whether unwrap may be called now. */
    private boolean handshakeStep(Bytes out) throws IOException {
        while (true) {
            switch (engine.getHandshakeStatus()) {
                case NEED_TASK:
                    for (Runnable task = engine.getDelegatedTask(); task != null; task = engine.getDelegatedTask()) {
                        task.run(); // checks of certificates; they are short
                    }
                    break;
                case NEED_WRAP:
                    if (wrap(empty(0), out) == Status.CLOSED) {
                        ended = true;
                        return false;
                    }
                    break;
                case NEED_UNWRAP:
                    return true;
                default: // NOT_HANDSHAKING, or FINISHED; newer platforms have NEED_UNWRAP_AGAIN for DTLS only
                    return true;
            }
        }
    }

    /** Begins the handshake. */
    void begin(Bytes out) throws IOException {
        engine.beginHandshake();
        handshakeStep(out);
    }

    /** Encrypts all of the bytes. */
    void write(ByteBuffer plain, Bytes out) throws IOException {
        while (plain.hasRemaining()) {
            if (wrap(plain, out) == Status.CLOSED) {
                throw new EOFException("the server ended the TLS connection");
            }
        }
    }

    /** Adds the bytes that tell the peer that nothing follows. */
    void end(Bytes out) {
        try {
            engine.closeOutbound();
            wrap(empty(0), out);
        } catch (IOException e) {
            // The connection ends without them.
        }
    }

    private Status wrap(ByteBuffer plain, Bytes out) throws IOException {
        while (true) {
            ByteBuffer room = out.room(engine.getSession().getPacketBufferSize());
            int start = room.position();
            SSLEngineResult result = engine.wrap(plain, room);
            out.added(room.position() - start);
            noteHandshake(result);
            if (result.getStatus() == Status.BUFFER_OVERFLOW) {
                throw new SSLException("the TLS engine needs more room than it said");
            }
            return result.getStatus();
        }
    }

    private void noteHandshake(SSLEngineResult result) throws SSLPeerUnverifiedException {
        if (open || result.getHandshakeStatus() != HandshakeStatus.FINISHED) {
            return;
        }
        if (verifyByPlatform && !HttpsURLConnection.getDefaultHostnameVerifier().verify(host, engine.getSession())) {
            throw new SSLPeerUnverifiedException("the certificate is not one of " + host);
        }
        open = true;
    }

    private static ByteBuffer empty(int size) {
        ByteBuffer buffer = ByteBuffer.allocate(size);
        Buffers.limit(buffer, 0);
        return buffer;
    }

    /** Returns a buffer with the same bytes that can hold at least size bytes. */
    private static ByteBuffer grown(ByteBuffer old, int size) {
        if (old.capacity() >= size) {
            return old;
        }
        ByteBuffer buffer = ByteBuffer.allocate(size);
        buffer.put(old);
        Buffers.flip(buffer);
        return buffer;
    }
}
