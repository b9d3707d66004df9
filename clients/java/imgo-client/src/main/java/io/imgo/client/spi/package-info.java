/** What a transport implements. Applications need only {@link io.imgo.client.spi.Transport} as a type. */
package io.imgo.client.spi;
