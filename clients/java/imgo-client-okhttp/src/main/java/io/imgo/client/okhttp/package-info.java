/** Connects an imgo client over WebSocket. */
package io.imgo.client.okhttp;
