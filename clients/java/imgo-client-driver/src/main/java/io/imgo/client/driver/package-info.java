/** Lets the conformance tests drive the client by lines of JSON. */
package io.imgo.client.driver;
