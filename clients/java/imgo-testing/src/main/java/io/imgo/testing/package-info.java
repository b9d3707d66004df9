/** What tests of several modules use: a real imgo server, and certificates. */
package io.imgo.testing;
