package io.imgo.server;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Clock;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.function.UnaryOperator;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * Checks that a webhook call comes from imgo: its signature by <a href="https://www.standardwebhooks.com">Standard Webhooks</a>,
 * and its age. A WebhookVerifier is safe for concurrent use.
 */
public final class WebhookVerifier {
    /** A call that is older or newer than this is refused, so that a recorded call cannot be sent again much later. */
    private static final Duration TOLERANCE = Duration.ofMinutes(5);

    private static final String ALGORITHM = "HmacSHA256";
    private static final String PREFIX = "whsec_";
    private static final int SHORTEST_SECRET = 24;
    /** The most signatures that are compared. A call has one for each secret. */
    private static final int MAX_SIGNATURES = 16;

    private final List<SecretKeySpec> keys = new ArrayList<>();
    private final Clock clock;

    /**
     * Makes a verifier. While a secret is replaced there are two.
     *
     * @param secrets the secrets of the server's settings, such as {@code whsec_…}
     * @throws IllegalArgumentException if there is no secret, or one is no base64 of at least 24 bytes
     */
    public WebhookVerifier(String... secrets) {
        this(Clock.systemUTC(), secrets);
    }

    WebhookVerifier(Clock clock, String... secrets) {
        this.clock = clock;
        for (String secret : Arguments.notNull("secrets", secrets)) {
            keys.add(new SecretKeySpec(decode(Arguments.notNull("secret", secret)), ALGORITHM));
        }
        if (keys.isEmpty()) {
            throw new IllegalArgumentException("secrets is empty: give the server's secret of the webhook");
        }
    }

    private static byte[] decode(String secret) {
        byte[] key;
        try {
            key = Base64.getDecoder().decode(secret.startsWith(PREFIX) ? secret.substring(PREFIX.length()) : secret);
        } catch (IllegalArgumentException e) {
            throw new IllegalArgumentException("a secret of the webhook is no base64: make one with: echo whsec_$(openssl rand"
                    + " -base64 32)"); // without the cause, which shows characters of the secret
        }
        if (key.length < SHORTEST_SECRET) {
            throw new IllegalArgumentException("a secret of the webhook has " + key.length + " bytes: it needs at least "
                    + SHORTEST_SECRET);
        }
        return key;
    }

    /**
     * Checks a call. The same call can come again: its id is then the same.
     *
     * @param header returns the value of a header, or null, such as {@code request::getHeader}
     * @param body the bytes of the body, as they came
     * @return the id of the call
     * @throws WebhookException if the call must not be believed
     */
    public String verify(UnaryOperator<String> header, byte[] body) throws WebhookException {
        String id = required(header, "webhook-id");
        String timestamp = required(header, "webhook-timestamp");
        String signatures = required(header, "webhook-signature");
        checkAge(timestamp);
        byte[] content = (id + "." + timestamp + ".").getBytes(StandardCharsets.UTF_8);
        String[] candidates = signatures.split(" ", MAX_SIGNATURES + 1);
        if (candidates.length > MAX_SIGNATURES) {
            throw new WebhookException("the header webhook-signature has more than " + MAX_SIGNATURES + " signatures");
        }
        for (SecretKeySpec key : keys) {
            byte[] want = ("v1," + Base64.getEncoder().encodeToString(sign(key, content, body))).getBytes(StandardCharsets.UTF_8);
            for (String candidate : candidates) {
                if (MessageDigest.isEqual(want, candidate.getBytes(StandardCharsets.UTF_8))) { // in constant time
                    return id;
                }
            }
        }
        throw new WebhookException("no signature of the call is right: compare the secret with the server's");
    }

    private static String required(UnaryOperator<String> header, String name) throws WebhookException {
        String value = header.apply(name);
        if (value == null || value.isEmpty()) {
            throw new WebhookException("the header " + name + " is missing");
        }
        return value;
    }

    private void checkAge(String timestamp) throws WebhookException {
        if (!timestamp.matches("[0-9]{1,12}")) {
            throw new WebhookException("the header webhook-timestamp is no number of seconds");
        }
        long age = clock.instant().getEpochSecond() - Long.parseLong(timestamp);
        if (Math.abs(age) > TOLERANCE.getSeconds()) {
            throw new WebhookException("the call was signed " + age + " s ago: compare the clocks, or it is a repeated call");
        }
    }

    private static byte[] sign(SecretKeySpec key, byte[] content, byte[] body) {
        try {
            Mac mac = Mac.getInstance(ALGORITHM);
            mac.init(key);
            mac.update(content);
            return mac.doFinal(body);
        } catch (GeneralSecurityException e) { // every JDK has the algorithm
            throw new IllegalStateException(e);
        }
    }
}
