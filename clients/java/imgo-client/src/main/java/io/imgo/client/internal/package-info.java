/** What the modules of imgo share. Applications must not use it: it changes without notice. */
package io.imgo.client.internal;
