/** The order of addresses: those of the server or the discovery, then the configured one. */
import { ImgoError } from './protocol.js';

const MAX_OTHERS = 5; // addresses that are tried before the configured one

/**
 * Returns the addresses of one round: the usable ones of the list, then the configured one.
 *
 * @param {unknown} addresses
 * @param {string} url
 * @returns {string[]}
 */
export function routeTo(addresses, url) {
  const others = Array.isArray(addresses) ? addresses : [];
  const usable = others.map((address) => otherUrl(address, url)).filter((other) => other !== null);
  return [...usable.slice(0, MAX_OTHERS), url];
}

/**
 * Returns the URL of another address that a server names: host:port, or a URL. A missing scheme or
 * path is taken from the configured URL. It returns null for an unusable address. If the configured
 * URL has TLS, an address without TLS is unusable, because the token would be sent in the clear.
 *
 * @param {unknown} address
 * @param {string} url
 */
function otherUrl(address, url) {
  if (typeof address !== 'string') return null;
  const own = new URL(url);
  const other = parsed(address.includes('://') ? address : `${own.protocol}//${address}`);
  if (other?.protocol !== 'wss:' && (other?.protocol !== 'ws:' || own.protocol === 'wss:')) return null;
  if (other.pathname === '/') {
    other.pathname = own.pathname;
    other.search = own.search;
  }
  other.hash = '';
  return other.href;
}

/** Returns the URL of a text, or null if it is none. @param {string} text */
export function parsed(text) {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

/**
 * Checks the discover option and adds the path and the transport.
 *
 * @param {string} discover
 * @param {string} url
 */
export function discoverUrl(discover, url) {
  const question = parsed(discover);
  if (question?.protocol !== 'http:' && question?.protocol !== 'https:') {
    throw new ImgoError('invalid', 'discover must be the address of the API such as https://host:7172');
  }
  if (/^wss:/i.test(url) && question.protocol !== 'https:') {
    // An attacker who changes the answer would receive the token.
    throw new ImgoError('invalid', 'discover must be https:// since url is wss://');
  }
  if (question.pathname === '/') question.pathname = '/v1/nodes/best';
  question.searchParams.set('transport', 'ws');
  return question.href;
}

/**
 * Returns the addresses of the best nodes. It rejects if there is no successful answer.
 *
 * @param {typeof globalThis.fetch} fetch
 * @param {string} question
 * @param {AbortSignal} signal
 * @returns {Promise<unknown>}
 */
export async function ask(fetch, question, signal) {
  const response = await fetch(question, { signal, cache: 'no-store', credentials: 'omit', redirect: 'error' });
  if (!response.ok) throw new Error(`the answer is ${response.status}`);
  return (await response.json())?.addresses;
}
