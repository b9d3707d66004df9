package io.imgo.client.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class JsonTest {
    @Test
    void readsEveryKindOfValue() {
        Map<String, Object> want = new LinkedHashMap<>();
        want.put("a", Arrays.asList(1L, -2.5, 1e3, true, false, null, "x", List.of(), Map.of()));
        want.put("größe", "\uD83D\uDE00\"\\/\b\f\n\r\té");
        assertThat(Json.parse(" {\"a\" : [ 1 ,-2.5,1E+3,true,false,null,\"x\",[ ],{ }],\r\n\t"
                        + "\"größe\":\"\\ud83d\\uDE00\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"} "))
                .isEqualTo(want);
    }

    @ParameterizedTest
    @CsvSource({
        "0, 0", "-0, 0", "999999999999999999, 999999999999999999", "9223372036854775807, 9223372036854775807",
        "-9223372036854775808, -9223372036854775808"
    })
    void readsIntegersAsLong(String text, long want) {
        assertThat(Json.parse(text)).isEqualTo(want);
    }

    @Test
    void readsLargeIntegersExactly() {
        assertThat(Json.parse("18446744073709551615")).isEqualTo(new BigInteger("18446744073709551615"));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", " ", "{", "}", "[1,]", "[,1]", "[1 2]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{'a':1}", "01", "-", "+1",
        "1.", ".5", "1e", "1e+", "NaN", "Infinity", "tru", "nulll", "true false", "\"", "\"\\\"", "\"\\x\"", "\"\\u12\"",
        "\"\\u12g4\"", "\"\\u٠٠٠٠\"", "\"\n\"", "\"\t\"", "\"\\ud800\"", "\"\\udc00\\ud800\"", "\"\\ud800x\"", "1 //", "\u00a01",
        "\ufeff1", "{\"a\":1,\"a\":1}", "{\"a\":null,\"\\u0061\":null}", "1e999", "1} "
    })
    void refusesOtherText(String text) {
        assertThatThrownBy(() -> Json.parse(text)).isInstanceOf(Json.JsonException.class);
        assertThatThrownBy(() -> new Json.Raw(text)).isInstanceOf(Json.JsonException.class);
    }

    @Test
    void refusesBytesThatAreNoText() {
        assertThatThrownBy(() -> Json.parse(new byte[] {'"', (byte) 0xff, '"'})).hasMessageContaining("UTF-8");
        assertThat(Json.parse("\"ü\"".getBytes(StandardCharsets.UTF_8))).isEqualTo("ü");
    }

    @Test
    void hasABoundOnDepthAndDigits() {
        String deep = "[".repeat(Json.MAX_DEPTH + 1) + "]".repeat(Json.MAX_DEPTH + 1);
        Object value = Json.parse(deep.substring(1, deep.length() - 1));
        assertThat(Json.write(value)).hasSize(2 * Json.MAX_DEPTH);
        assertThatThrownBy(() -> Json.parse("[" + deep + "]")).hasMessageContaining("nested");
        assertThatThrownBy(() -> Json.write(List.of(List.of(value)))).hasMessageContaining("nested");
        assertThatThrownBy(() -> Json.parse("1".repeat(100_000))).hasMessageContaining("digits");
    }

    @Test
    void writesAndReadsBack() {
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("text", "quote \" backslash \\ zero \u0000 line \n emoji \uD83D\uDE00");
        value.put("numbers", Arrays.asList(1L, -1.5, new BigInteger("18446744073709551615")));
        value.put("none", null);
        value.put("empty", Arrays.asList(List.of(), Map.of()));
        assertThat(Json.parse(Json.write(value))).isEqualTo(value);
        assertThat(Json.write(List.of(1, (short) 2, "a", new Json.Raw("{ \"x\": 1 }")))).isEqualTo("[1,2,\"a\",{ \"x\": 1 }]");
    }

    @Test
    void refusesValuesWithoutJson() {
        for (Object value : Arrays.asList(Double.NaN, Float.POSITIVE_INFINITY, new Object(), 'c', Map.of(1, 2), "\ud800", "\udc00",
                Collections.singletonMap(null, 1), new java.util.concurrent.atomic.AtomicInteger())) {
            assertThatThrownBy(() -> Json.write(value)).as("%s", value).isInstanceOf(Json.JsonException.class);
        }
    }

    /** Reading never ends in another way than with a value that is written and read back, or with a JsonException. */
    @Test
    void survivesBrokenText() {
        Random random = new Random(1);
        String good = "{\"a\":[1,-2.5e3,true,null,\"\\u00e9\\n\"],\"b\":{\"c\":\"\uD83D\uDE00\"}}";
        int read = 0;
        for (int i = 0; i < 20_000; i++) {
            StringBuilder text = new StringBuilder(good);
            for (int n = random.nextInt(3); n >= 0; n--) {
                int at = random.nextInt(text.length());
                text.setCharAt(at, random.nextBoolean() ? good.charAt(random.nextInt(good.length())) : (char) random.nextInt(0x10000));
            }
            try {
                Object value = Json.parse(text.toString());
                assertThat(Json.parse(Json.write(value))).isEqualTo(value);
                read++;
            } catch (Json.JsonException expected) {
                // broken
            }
        }
        assertThat(read).isPositive();
    }
}
