/** Addresses of this server for clients, and checks of names that a person may type. */

const DEFAULT_PORT = ':8090';
const ANY_HOST = new Set(['', '0.0.0.0', '[::]', '::', '*']);

/**
 * Turns an address from the server or a person into a WebSocket URL: ":8090", "host", "host:8090",
 * "[::1]:8090", "ws://host:8090/sub". An address without a host is on the host of the page. Throws
 * an Error with a message for the person.
 */
export function webSocketURL(address, location) {
  let text = address.trim() || DEFAULT_PORT;
  const secure = location.protocol === 'https:';
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(text)?.[0].toLowerCase();
  if (scheme) text = text.slice(scheme.length);
  const kind = { 'ws://': 'ws:', 'wss://': 'wss:', 'http://': 'ws:', 'https://': 'wss:' }[scheme ?? (secure ? 'wss://' : 'ws://')];
  const [, authority, path] = /^([^/?#]*)(.*)$/s.exec(text);
  const [, host, port] = /^(.*?)(:\d*)?$/s.exec(authority);
  const at = ANY_HOST.has(host) ? location.hostname || 'localhost' : host;
  let url;
  try {
    if (!kind) throw new Error('scheme');
    url = new URL(`${kind}//${at}${port ?? (scheme ? '' : DEFAULT_PORT)}${path}`);
  } catch {
    throw new Error(`${address} is not a WebSocket address: it looks like ws://host:8090/sub.`);
  }
  if (url.pathname === '/') url.pathname = '/sub';
  url.hash = ''; // a WebSocket URL must not have a fragment
  return url.href;
}

/** Returns the error in the name of a user, a device or a room, or "" if the name is valid. */
export function nameProblem(what, name) {
  if (name === '') return `Enter a ${what}.`;
  if (new TextEncoder().encode(name).length > 128) return `The ${what} is too long: at most 128 bytes.`;
  if (/\p{Cc}/u.test(name)) return `The ${what} has a control character in it.`;
  return '';
}
