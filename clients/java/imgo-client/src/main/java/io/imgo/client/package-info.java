/** Receives messages of the imgo push server over TCP and TLS. */
package io.imgo.client;
