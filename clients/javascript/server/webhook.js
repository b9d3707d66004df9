import { PushError } from './error.js';

const TOLERANCE = 300; // seconds between the clocks, and for the way of a call

/**
 * Verifies the signature of a webhook that imgo has called (Standard Webhooks), and returns its JSON. It
 * rejects with PushError `signature` if the call is not from a holder of the secret, was changed, or is
 * old.
 *
 * @param {object} call
 * @param {string | string[]} call.secret the secret of the settings (`whsec_…`); two while one is replaced
 * @param {Headers | Record<string, string | string[] | undefined>} call.headers
 * @param {string | Uint8Array} call.body the body as it came, not parsed
 * @param {number} [call.tolerance] the largest age, in seconds (300)
 * @returns {Promise<any>}
 */
export async function verifyWebhook({ secret, headers, body, tolerance = TOLERANCE }) {
  const id = headerOf(headers, 'webhook-id');
  const timestamp = headerOf(headers, 'webhook-timestamp');
  const seconds = Number(timestamp);
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - seconds) > tolerance) {
    throw new PushError('signature', `the webhook-timestamp ${timestamp} is more than ${tolerance} s from this clock`);
  }
  const bytes = typeof body === 'string' ? new TextEncoder().encode(body) : body;
  const prefix = new TextEncoder().encode(`${id}.${timestamp}.`);
  const signed = new Uint8Array(prefix.length + bytes.length);
  signed.set(prefix);
  signed.set(bytes, prefix.length);
  const signatures = headerOf(headers, 'webhook-signature')
    .split(' ')
    .filter((part) => part.startsWith('v1,'))
    .map((part) => fromBase64(part.slice(3)));
  for (const one of [secret].flat()) {
    const raw = fromBase64(one.replace(/^whsec_/, ''));
    if (raw.length === 0) throw new PushError('invalid', 'secret must be whsec_ and base64');
    const key = await crypto.subtle.importKey('raw', raw, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify']);
    for (const signature of signatures) {
      // verify compares in constant time.
      if (await crypto.subtle.verify('HMAC', key, signature, signed)) return JSON.parse(new TextDecoder().decode(bytes));
    }
  }
  throw new PushError('signature', 'no webhook-signature is that of the secret');
}

/**
 * @param {Headers | Record<string, string | string[] | undefined>} headers
 * @param {string} name
 * @returns {string}
 */
function headerOf(headers, name) {
  const value = headers instanceof Headers ? headers.get(name) : headers[name];
  if (typeof value !== 'string' || value === '') throw new PushError('signature', `the call has no header ${name}`);
  return value;
}

/** Returns the bytes, or none if the text is no base64. @param {string} text */
function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text), (unit) => unit.charCodeAt(0));
  } catch {
    return new Uint8Array();
  }
}
