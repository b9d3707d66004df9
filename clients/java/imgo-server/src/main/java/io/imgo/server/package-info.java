/**
 * The push client: a backend pushes messages through the HTTP API of imgo, and manages users, rooms and tokens.
 *
 * <pre>{@code
 * try (PushClient imgo = PushClient.builder().server("http://127.0.0.1:7172").build()) {
 *     imgo.push(Push.toUser("123").body(Map.of("hello", "world")));
 * }
 * }</pre>
 */
package io.imgo.server;
