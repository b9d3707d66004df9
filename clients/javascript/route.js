/** Where to connect: what the server or the discovery names, then the configured address. */
import { ImgoError } from './protocol.js';

const MAX_OTHERS = 5; // addresses that are tried before the configured one

/**
 * The addresses of one round: those of the list that are of use, then the
 * configured one.
 */
export function routeTo(addresses, url) {
  const others = Array.isArray(addresses) ? addresses : [];
  const usable = others.map((address) => otherUrl(address, url)).filter((other) => other !== null);
  return [...usable.slice(0, MAX_OTHERS), url];
}

/**
 * Another address as a server names it: host:port, or with scheme and path;
 * what it lacks is the configured one's. null where it is of no use, above all
 * where it has no TLS and the configured one has: the token would be sent in
 * the clear.
 */
function otherUrl(address, url) {
  if (typeof address !== 'string' || address === '') return null;
  try {
    const own = new URL(url);
    const other = new URL(address.includes('://') ? address : `${own.protocol}//${address}`);
    if (other.protocol !== 'wss:' && (other.protocol !== 'ws:' || own.protocol === 'wss:')) return null;
    if (other.pathname === '/') {
      other.pathname = own.pathname;
      other.search = own.search;
    }
    other.hash = '';
    return other.href;
  } catch {
    return null;
  }
}

/** Checks the discover option and completes it. */
export function discoverUrl(discover, url) {
  let question;
  try {
    question = new URL(discover);
  } catch {
    question = null;
  }
  if (question?.protocol !== 'http:' && question?.protocol !== 'https:') {
    throw new ImgoError('invalid', 'discover must be the address of the API such as https://host:7172');
  }
  if (/^wss:/i.test(url) && question.protocol !== 'https:') {
    // Who can change the answer would get the token.
    throw new ImgoError('invalid', 'discover must be https:// since url is wss://');
  }
  if (question.pathname === '/') question.pathname = '/v1/nodes/best';
  question.searchParams.set('transport', 'ws');
  return question.href;
}

/** Asks which nodes are best; rejects without an answer. */
export async function ask(fetch, question, signal) {
  const response = await fetch(question, { signal, cache: 'no-store', credentials: 'omit', redirect: 'error' });
  if (!response.ok) throw new Error(`the answer is ${response.status}`);
  return (await response.json())?.addresses;
}
