/** Pushes messages through an imgo server, and manages its users, rooms and tokens. */
package io.imgo.server;
