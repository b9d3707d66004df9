/**
 * The client for backends: it pushes, makes tokens, manages users and rooms, and verifies webhooks. It
 * needs fetch and Web Crypto, so it runs in Node 20 and newer, Deno, Bun and on edge runtimes.
 *
 * @module
 */

export { verifyWebhook } from './webhook.js';
export { PushError } from './error.js';
import { PushError } from './error.js';

/** @import { components } from './api.js' */

/**
 * A push: one of `user`, `users`, `keys`, `room` and `all`, one of `body`, `body_text` and `body_base64`, and
 * options.
 * @typedef {components['schemas']['Push']} Push
 */
/** @typedef {components['schemas']['PushResult']} PushResult */
/** @typedef {components['schemas']['BatchResult']} BatchResult */
/** @typedef {components['schemas']['User']} User */
/** @typedef {components['schemas']['Room']} Room */
/** @typedef {components['schemas']['Member']} Member */
/** @typedef {Omit<components['schemas']['NewToken'], 'user'>} TokenOptions */
/** @typedef {components['schemas']['Token']} Token */
/** @typedef {components['schemas']['Kick']} KickOptions */
/** @typedef {components['schemas']['Read']} Read */

/**
 * @typedef {object} PushClientOptions
 * @property {string[]} servers The addresses of the HTTP API: http://host:port or https://host. Calls go
 *   to them in turn.
 * @property {string} [key] The API key.
 * @property {number} [timeout] For one call, with its repetitions, in milliseconds (15000).
 * @property {typeof globalThis.fetch} [fetch] The fetch function. Default: that of the runtime.
 */

const AVOID = 1000; // a server that did not answer is avoided for this time, if there are others
const PAUSE = 100; // between two rounds over the servers
const ROUNDS = 3;
const MAX_ANSWER = 4 << 20; // bytes
/** What Node says if no connection was made, so that the server cannot have received the call. */
const NOT_SENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
  // The server's certificate was refused.
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_REVOKED',
  'CERT_REJECTED',
  'CERT_UNTRUSTED',
  'CERT_SIGNATURE_FAILURE',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'HOSTNAME_MISMATCH',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  // The server does not speak TLS, or no version or cipher of this client.
  'ERR_SSL_WRONG_VERSION_NUMBER',
  'ERR_SSL_PACKET_LENGTH_TOO_LONG',
  'ERR_SSL_UNSUPPORTED_PROTOCOL',
  'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION',
  'ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE',
]);

/**
 * Calls the HTTP API of one or more servers. It repeats a call at another server only if the call has
 * an idempotency key (in a batch: each push), if it asks or sets only (user, read, room, addToRoom,
 * removeFromRoom), or if the first server cannot have received it. A connection that is reset during the TLS handshake counts as
 * one that may have received the call, because fetch does not tell.
 */
export class PushClient {
  #servers;
  #key;
  #timeout;
  #fetch;
  #next = 0;
  /** Until when a server is avoided, in milliseconds of the monotonic clock. @type {Map<string, number>} */
  #avoided = new Map();

  /** @param {PushClientOptions} options */
  constructor({ servers, key, timeout = 15_000, fetch = globalThis.fetch }) {
    this.#servers = Array.isArray(servers) ? [...new Set(servers.map(checkedServer))] : [];
    if (this.#servers.length === 0) throw new PushError('invalid', 'servers must have at least one address of the HTTP API');
    if (!(timeout > 0 && timeout < 2 ** 31)) throw new PushError('invalid', 'timeout must be a number of milliseconds above 0');
    if (typeof fetch !== 'function') throw new PushError('unsupported', 'there is no fetch here: pass one as the option fetch');
    this.#key = key;
    this.#timeout = timeout;
    this.#fetch = fetch;
  }

  /**
   * Pushes a message. For a kept push it resolves when the message is on the disk. With an
   * `idempotency_key` the call may be repeated, also by the caller.
   *
   * @param {Push} push
   * @returns {Promise<PushResult>}
   */
  push(push) {
    return this.#call('POST', '/v1/push', push, Boolean(push?.idempotency_key));
  }

  /**
   * Makes up to 1,000 pushes in one call. Each has a result of its own with a status.
   *
   * @param {Push[]} pushes
   * @returns {Promise<BatchResult[]>}
   */
  async pushBatch(pushes) {
    const repeatable = pushes.every((push) => push?.idempotency_key);
    const { results } = await this.#call('POST', '/v1/push/batch', { pushes }, repeatable);
    if (!Array.isArray(results) || results.length !== pushes.length) {
      throw new PushError('unexpected', `POST /v1/push/batch: the answer has not one result for each of ${pushes.length} pushes`);
    }
    return results;
  }

  /**
   * Returns the sessions, devices and waiting messages of a user.
   *
   * @param {string} user
   * @returns {Promise<User>}
   */
  user(user) {
    return this.#call('GET', `/v1/user?${new URLSearchParams({ user })}`, undefined, true);
  }

  /**
   * Closes the sessions of a user, or those that match. It resolves with their number.
   *
   * @param {string} user
   * @param {KickOptions} [options]
   * @returns {Promise<number>}
   */
  async kick(user, options = {}) {
    return (await this.#call('POST', `/v1/user/kick?${new URLSearchParams({ user })}`, options)).sessions;
  }

  /**
   * Tells that a user has read messages: all up to the id `up_to`, and those of `ids` (at most 500). All devices have
   * acknowledged them when it resolves. It resolves with the number of sessions that are told to dismiss them.
   *
   * @param {string} user
   * @param {Read} messages
   * @returns {Promise<number>}
   */
  async read(user, messages) {
    return (await this.#call('POST', `/v1/user/read?${new URLSearchParams({ user })}`, messages, true)).sessions;
  }

  /**
   * Makes a client token for a user. Without a `ttl` it never ends.
   *
   * @param {string} user
   * @param {TokenOptions} [options]
   * @returns {Promise<Token>}
   */
  newToken(user, options = {}) {
    return this.#call('POST', '/v1/tokens', { ...options, user });
  }

  /**
   * Revokes a token, and closes the sessions of its user unless `close` is false. It resolves with the
   * number of revoked tokens.
   *
   * @param {string} token
   * @param {{ close?: boolean }} [options]
   * @returns {Promise<number>}
   */
  async revokeToken(token, { close } = {}) {
    return (await this.#call('POST', '/v1/tokens/revoke', { token, close })).revoked;
  }

  /**
   * Puts a user into a room, with all present and future sessions.
   *
   * @param {string} room
   * @param {string} user
   * @returns {Promise<Member>}
   */
  addToRoom(room, user) {
    return this.#call('PUT', `/v1/memberships?${new URLSearchParams({ room, user })}`, undefined, true);
  }

  /**
   * Takes a user out of a room.
   *
   * @param {string} room
   * @param {string} user
   * @returns {Promise<Member>}
   */
  removeFromRoom(room, user) {
    return this.#call('DELETE', `/v1/memberships?${new URLSearchParams({ room, user })}`, undefined, true);
  }

  /**
   * Returns the members of a room. `limit` is how many to list (100).
   *
   * @param {string} room
   * @param {{ limit?: number }} [options]
   * @returns {Promise<Room>}
   */
  room(room, { limit = 100 } = {}) {
    return this.#call('GET', `/v1/room?${new URLSearchParams({ room, limit: String(limit) })}`, undefined, true);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body]
   * @param {boolean} [repeatable] whether a server may get the call twice
   * @returns {Promise<any>}
   */
  async #call(method, path, body, repeatable = false) {
    const signal = AbortSignal.timeout(this.#timeout);
    // A server that hangs must leave time for another one.
    const others = repeatable && this.#servers.length > 1;
    const first = this.#next++;
    for (let attempt = 0; ; attempt++) {
      const server = this.#server(first + attempt);
      try {
        const limit = others ? AbortSignal.any([signal, AbortSignal.timeout(this.#timeout / 2)]) : signal;
        return await this.#ask(server, method, path, body, limit);
      } catch (error) {
        if (!(error instanceof PushError)) throw error;
        const again = error.code === 'unreachable' || (repeatable && (error.status === 0 || error.status >= 500));
        if (!again || signal.aborted || attempt + 1 >= ROUNDS * this.#servers.length) throw error;
        if ((attempt + 1) % this.#servers.length === 0) await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    }
  }

  /** Returns the first server from an index on that is not avoided. @param {number} index */
  #server(index) {
    const count = this.#servers.length;
    const order = this.#servers.map((_, i) => /** @type {string} */ (this.#servers[(index + i) % count]));
    return order.find((server) => (this.#avoided.get(server) ?? 0) <= performance.now()) ?? /** @type {string} */ (order[0]);
  }

  /**
   * @param {string} server
   * @param {string} method
   * @param {string} path
   * @param {unknown} body
   * @param {AbortSignal} signal
   */
  async #ask(server, method, path, body, signal) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    if (this.#key !== undefined) headers.Authorization = `Bearer ${this.#key}`;
    let response;
    let text;
    try {
      const sent = body === undefined ? undefined : JSON.stringify(body);
      response = await this.#fetch(server + path, { method, headers, body: sent, signal, redirect: 'error' });
      text = await readText(response);
    } catch (cause) {
      if (cause instanceof PushError) throw cause;
      this.#avoided.set(server, performance.now() + AVOID);
      throw noAnswer(server, method, path, this.#timeout, cause);
    }
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      answer = undefined;
    }
    if (response.ok && answer !== null && typeof answer === 'object') return answer;
    const { code = 'unexpected', message = text.slice(0, 300), field } = answer?.error ?? {};
    throw new PushError(code, `${method} ${server}${path} answered ${response.status}: ${message}`, {
      status: response.status,
      field,
      server,
    });
  }
}

/** Reads an answer of at most MAX_ANSWER bytes. @param {Response} response */
async function readText(response) {
  const decoder = new TextDecoder();
  let text = '';
  let bytes = 0;
  const reader = response.body?.getReader();
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
    bytes += part.value.byteLength;
    if (bytes > MAX_ANSWER) {
      reader?.cancel().catch(() => {}); // the connection is of no use any more
      throw new PushError('unexpected', `${response.url}: the answer is larger than ${MAX_ANSWER} bytes`, { status: response.status });
    }
    text += decoder.decode(part.value, { stream: true });
  }
  return text + decoder.decode();
}

/**
 * @param {string} server
 * @param {string} method
 * @param {string} path
 * @param {number} timeout
 * @param {any} cause
 */
function noAnswer(server, method, path, timeout, cause) {
  const call = `${method} ${server}${path}`;
  if (cause?.name === 'TimeoutError') {
    return new PushError('timeout', `${call}: no answer in time (${timeout} ms); the effect is unknown`, { server, cause });
  }
  const reason = cause?.cause?.code ?? cause?.message ?? String(cause);
  if (NOT_SENT.has(cause?.cause?.code)) {
    return new PushError('unreachable', `${call}: the server cannot be reached: ${reason}`, { server, cause });
  }
  return new PushError('lost', `${call}: there is no answer: ${reason}; the effect is unknown`, { server, cause });
}

/** @param {unknown} server */
function checkedServer(server) {
  let url;
  try {
    url = new URL(String(server));
  } catch {
    url = null;
  }
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new PushError('invalid', `servers has ${JSON.stringify(server)}: write http://host:port or https://host`);
  }
  return url.href.replace(/\/+$/, '');
}
