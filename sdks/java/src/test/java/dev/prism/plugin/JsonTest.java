package dev.prism.plugin;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.math.BigInteger;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class JsonTest {
    @Test
    void values() {
        assertEquals(Arrays.asList(1L, -0.5e3, "ü😀\n", true, false, null, Map.of("a", List.of())),
                Json.parse(" [1, -0.5E+3, \"\\u00fc\\ud83d\\ude00\\n\", true, false, null, {\"a\" : [ ] }]\n"));
        assertEquals(Map.of("a", 2L), Json.parse("{\"a\":1,\"a\":2}"));
        assertEquals(Long.MIN_VALUE, Json.parse("-9223372036854775808"));
        assertEquals(new BigInteger("9223372036854775808"), Json.parse("9223372036854775808"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", " ", "{", "[1,]", "{\"a\":1,}", "{a:1}", "01", "-", "1.", ".5", "1e", "+1", "\"\t\"", "\"\\x\"", "\"\\u00g0\"",
            "\"open", "nul", "{} {}", "[1 2]", "{\"a\" 1}", "'a'", "NaN", "\u00a01", "\"\\u00\u0661\u0661\""})
    void noJson(String text) {
        assertThrows(IllegalArgumentException.class, () -> Json.parse(text));
    }

    @Test
    void depthIsBounded() {
        Json.parse("[".repeat(100) + "]".repeat(100));
        assertThrows(IllegalArgumentException.class, () -> Json.parse("[".repeat(1_000_000)));
    }

    @ParameterizedTest
    @ValueSource(strings = {"{\"a\":[1,2.5,\"\\\"\\\\\\n\\u0000ü😀\",null,true,{}],\"b\":12345678901234567890}", "[]", "\"\\ud800\""})
    void whatIsWrittenIsReadAlike(String text) {
        assertEquals(text, Json.write(Json.parse(text)));
    }

    @Test
    void whatJsonHasNot() {
        assertThrows(IllegalArgumentException.class, () -> Json.write(Double.NaN));
        assertThrows(IllegalArgumentException.class, () -> Json.write(new Object()));
        assertThrows(IllegalArgumentException.class, () -> new Json.Raw("{"));
        assertEquals("[1,2]", Json.write(new int[] {1, 2}));
    }
}
