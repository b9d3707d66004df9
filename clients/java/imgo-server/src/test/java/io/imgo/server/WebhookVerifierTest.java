package io.imgo.server;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.HashMap;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class WebhookVerifierTest {
    // The example of the specification of Standard Webhooks.
    private static final String SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    private static final String ID = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    private static final long TIME = 1614265330;
    private static final String SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    private static final byte[] BODY = "{\"test\": 2432232314}".getBytes(StandardCharsets.UTF_8);
    private static final String OTHER = "whsec_T3RoZXIgc2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZQ==";

    private static WebhookVerifier at(long seconds, String... secrets) {
        return new WebhookVerifier(Clock.fixed(Instant.ofEpochSecond(seconds), ZoneOffset.UTC), secrets);
    }

    private static Map<String, String> headers() {
        return new HashMap<>(Map.of("webhook-id", ID, "webhook-timestamp", "" + TIME, "webhook-signature", SIGNATURE));
    }

    @Test
    void acceptsTheExampleOfTheSpecification() throws WebhookException {
        assertThat(at(TIME, SECRET).verify(headers()::get, BODY)).isEqualTo(ID);
        assertThat(at(TIME, SECRET.substring(6)).verify(headers()::get, BODY)).isEqualTo(ID);
    }

    @Test
    void acceptsOneOfSeveralSecretsAndSignatures() throws WebhookException {
        Map<String, String> headers = headers();
        headers.put("webhook-signature", "v1a,xyz v1,AAAA " + SIGNATURE + " v1,BBBB");
        assertThat(at(TIME, OTHER, SECRET).verify(headers::get, BODY)).isEqualTo(ID);
    }

    @ParameterizedTest
    @CsvSource({"-300, true", "300, true", "-301, false", "301, false"})
    void accepts5MinutesOfDifference(int difference, boolean good) throws WebhookException {
        WebhookVerifier verifier = at(TIME + difference, SECRET);
        if (good) {
            verifier.verify(headers()::get, BODY);
        } else {
            assertThatThrownBy(() -> verifier.verify(headers()::get, BODY)).isInstanceOf(WebhookException.class)
                    .hasMessageContaining("compare the clocks");
        }
    }

    @ParameterizedTest
    @CsvSource({
        "webhook-id, other", "webhook-id,", "webhook-timestamp, 1614265331", "webhook-timestamp,", "webhook-timestamp, 1614265330.0",
        "webhook-timestamp, -1614265330", "webhook-timestamp, 99999999999999999999", "webhook-signature,", "webhook-signature, v1",
        "webhook-signature, g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        "webhook-signature, 'v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='",
        "webhook-signature, 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF='"
    })
    void refusesWrongHeaders(String name, String value) {
        Map<String, String> headers = headers();
        headers.put(name, value);
        assertThatThrownBy(() -> at(TIME, SECRET).verify(headers::get, BODY)).isInstanceOf(WebhookException.class);
    }

    @Test
    void refusesAnotherBodyOrSecret() {
        byte[] other = BODY.clone();
        other[0]++;
        assertThatThrownBy(() -> at(TIME, SECRET).verify(headers()::get, other)).hasMessageContaining("compare the secret");
        assertThatThrownBy(() -> at(TIME, OTHER).verify(headers()::get, BODY)).hasMessageContaining("compare the secret");
    }

    @Test
    void comparesABoundedNumberOfSignatures() {
        Map<String, String> headers = headers();
        headers.put("webhook-signature", "v1,x ".repeat(16) + SIGNATURE);
        assertThatThrownBy(() -> at(TIME, SECRET).verify(headers::get, BODY)).hasMessageContaining("more than 16");
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr_-"})
    void refusesABadSecretAndDoesNotShowIt(String secret) {
        assertThatThrownBy(() -> new WebhookVerifier(secret)).isInstanceOf(IllegalArgumentException.class).hasMessageContaining("secret")
                .hasNoCause().hasMessageNotContaining("MfKQ");
        assertThatThrownBy(WebhookVerifier::new).isInstanceOf(IllegalArgumentException.class);
    }
}
