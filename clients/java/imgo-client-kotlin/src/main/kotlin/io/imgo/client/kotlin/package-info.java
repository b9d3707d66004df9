/** Coroutines for the imgo client. */
package io.imgo.client.kotlin;
