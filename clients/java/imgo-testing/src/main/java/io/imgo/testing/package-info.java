/** A real imgo server for tests. */
package io.imgo.testing;
