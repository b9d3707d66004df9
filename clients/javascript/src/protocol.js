/** Definitions that all parts of the client share: errors, names and message ids. */

/** @import { ImgoErrorCode } from './types.js' */

/** The lowest operation that a push or an application may choose. */
export const MIN_CUSTOM_OP = 1000;

/** The protocol version of this client. */
export const VERSION = 2;

/** The close code for an expired token. */
export const TOKEN_EXPIRED = 3502;

const MAX_NAME_BYTES = 128;
/** The highest id of a message. */
export const MAX_ID = 2n ** 64n - 1n;

/** The error class of this package. `code` is for programs, `message` for people. */
export class ImgoError extends Error {
  /**
   * @param {ImgoErrorCode} code
   * @param {string} message
   * @param {{ closeCode?: number, serverCode?: string, retryAfter?: number, cause?: unknown }} [details]
   */
  constructor(code, message, details = {}) {
    super(message, details);
    const { closeCode, serverCode, retryAfter } = details;
    this.name = 'ImgoError';
    /** @readonly */
    this.code = code;
    /**
     * For `refused`: the close code of the server. Otherwise undefined.
     * @readonly
     */
    this.closeCode = closeCode;
    /**
     * For `denied`: `forbidden`, `too_many`, `unavailable`, `unsupported` or another word of the
     * protocol. Otherwise undefined.
     * @readonly
     */
    this.serverCode = serverCode;
    /**
     * For `denied`: after how many milliseconds another try may succeed, if the server said so.
     * @readonly
     */
    this.retryAfter = retryAfter;
  }
}

/**
 * Compares two message ids for sorting. Ids are decimal strings of up to 64 bits, which a Number
 * cannot hold exactly.
 *
 * @param {string} a
 * @param {string} b
 * @returns {-1 | 0 | 1}
 */
export function compareIds(a, b) {
  const x = BigInt(a);
  const y = BigInt(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

/**
 * Returns the id of a message in its shortest form, or null for the id 0 of a message that is not
 * kept. It throws if the value is no unsigned number of 64 bits.
 *
 * @param {unknown} raw
 * @returns {string | null}
 */
export function readId(raw) {
  if (raw === undefined) return null;
  if (typeof raw !== 'string' || !/^\d{1,40}$/.test(raw)) throw new Error(`the message id ${JSON.stringify(raw)} is no decimal number`);
  const id = BigInt(raw);
  if (id > MAX_ID) throw new Error(`the message id ${raw} has more than 64 bits`);
  return id === 0n ? null : id.toString();
}

/**
 * Returns ids of messages in their shortest form. It throws if one of them is no number above 0 of 64 bits.
 *
 * @param {unknown} raw
 */
export function readIds(raw) {
  if (!Array.isArray(raw)) throw new Error('the ids are no array');
  return raw.map((id) => {
    const good = readId(id);
    if (good === null) throw new Error('the message id 0 in a list of ids');
    return good;
  });
}

/**
 * Reports whether a client reconnects by itself after a close code.
 *
 * @param {number} code
 */
export function reconnects(code) {
  return code < 3500;
}

/**
 * Returns the name, or throws an ImgoError that names the field if the name is not valid.
 *
 * @param {string} field
 * @param {unknown} name
 * @returns {string}
 */
export function checkedName(field, name) {
  // eslint-disable-next-line no-control-regex -- control characters are what this looks for
  if (typeof name !== 'string' || !name || sizeOf(name) > MAX_NAME_BYTES || /[\u0000-\u001f\u007f-\u009f]/.test(name)) {
    throw new ImgoError('invalid', `${field} must be a string of 1 to ${MAX_NAME_BYTES} bytes without control characters`);
  }
  return name;
}

/**
 * Returns the error for a call that the server refused.
 *
 * @param {string} what
 * @param {any} body
 */
export function denied(what, body) {
  const serverCode = String(body?.code ?? '');
  const retryAfter = typeof body?.retry_ms === 'number' ? Math.max(body.retry_ms, 0) : undefined;
  return new ImgoError('denied', `the server refused ${what}: ${body?.reason || serverCode}`, { serverCode, retryAfter });
}

/**
 * Returns the message of any thrown value.
 *
 * @param {unknown} cause
 */
export function textOf(cause) {
  return cause instanceof Error ? cause.message : String(cause);
}

/**
 * Returns a promise with its resolve and reject functions.
 *
 * @template T
 * @returns {{ promise: Promise<T>, resolve: (value: T) => void, reject: (error: unknown) => void }}
 */
export function deferred() {
  /** @type {any} */
  let resolve;
  /** @type {any} */
  let reject;
  const promise = new Promise((a, b) => {
    resolve = a;
    reject = b;
  });
  return { promise, resolve, reject };
}

/**
 * Waits for a promise, but not longer than a time. It resolves with undefined after that time, or
 * if the promise is rejected.
 *
 * @template T
 * @param {Promise<T> | T} promise
 * @param {number} ms
 * @returns {Promise<T | undefined>}
 */
export function within(promise, ms) {
  return limited(promise, ms).catch(() => undefined);
}

/**
 * Waits for a promise, but not longer than a time. After that it rejects.
 *
 * @template T
 * @param {Promise<T> | T} promise
 * @param {number} ms
 * @returns {Promise<T>}
 */
export async function limited(promise, ms) {
  const late = deferred();
  const timer = setTimeout(() => late.reject(new Error(`no result within ${ms} ms`)), ms);
  try {
    return /** @type {T} */ (await Promise.race([promise, late.promise]));
  } finally {
    clearTimeout(timer);
  }
}

/** Calls functions one at a time, in their order. */
export class Turn {
  /** The end of the last call. @type {Promise<unknown>} */
  #last = Promise.resolve();

  /**
   * @template T
   * @param {() => Promise<T>} f
   * @returns {Promise<T>}
   */
  run(f) {
    const result = this.#last.then(f);
    this.#last = result.catch(() => {});
    return result;
  }
}

/**
 * Returns the size in bytes of a body as the server has it.
 *
 * @param {any} body
 */
export function sizeOf(body) {
  if (typeof body?.base64 === 'string' && Object.keys(body).length === 1) return Math.floor((body.base64.replace(/=/g, '').length * 3) / 4);
  const text = typeof body === 'string' ? body : (JSON.stringify(body) ?? '');
  return new TextEncoder().encode(text).length;
}

/**
 * Reports whether a body is too large for a server. The server also bounds the text of a frame, which has twice the size at most.
 *
 * @param {any} body
 * @param {number} limit in bytes
 */
export function tooLarge(body, limit) {
  return sizeOf(body) > limit || sizeOf([body]) > 2 * limit;
}
