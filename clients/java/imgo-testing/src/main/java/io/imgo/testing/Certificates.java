package io.imgo.testing;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Certificates for tests of TLS. */
public final class Certificates {
    private static final String PASSWORD = "changeit";
    private static final long LIMIT_SECONDS = 60;

    private Certificates() {}

    /**
     * Makes a key and its certificate, and returns a context that has the key and trusts the certificate.
     *
     * @param folder a folder for temporary files
     * @param alias a name for the files
     * @param names what the certificate is for, as keytool has it, such as {@code san=ip:127.0.0.1}
     * @return the context
     * @throws IOException if the JDK's keytool fails
     * @throws GeneralSecurityException if the key cannot be read
     * @throws InterruptedException if the thread is interrupted
     */
    public static SSLContext context(Path folder, String alias, String names)
            throws IOException, GeneralSecurityException, InterruptedException {
        Path file = folder.resolve(alias + ".p12");
        Path log = folder.resolve(alias + ".log");
        Process keytool = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "keytool").toString(), "-genkeypair",
                "-alias", alias, "-keyalg", "EC", "-dname", "CN=" + alias, "-ext", names, "-validity", "2", "-storetype", "PKCS12",
                "-keystore", file.toString(), "-storepass", PASSWORD).redirectErrorStream(true).redirectOutput(log.toFile()).start();
        if (!keytool.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS) || keytool.exitValue() != 0) {
            keytool.destroyForcibly();
            throw new IOException("keytool failed:\n" + Files.readString(log));
        }
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream in = Files.newInputStream(file)) {
            keys.load(in, PASSWORD.toCharArray());
        }
        KeyManagerFactory own = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        own.init(keys, PASSWORD.toCharArray());
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        trusted.setCertificateEntry(alias, keys.getCertificate(alias));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(own.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }
}
