import { ImgoError } from './protocol.js';

/** @import { ImgoOutboxContent, ImgoOutboxMessage } from './types.js' */

/**
 * The part of localStorage that the store uses.
 * @typedef {{ getItem(key: string): string | null, setItem(key: string, value: string): void }} TextStorage
 */

/**
 * Keeps handled ids in localStorage, so that a page does not handle a message twice after a reload.
 * Only one client at a time may use a key: give it the names of the user and the device.
 */
export class LocalStorageStore {
  #key;
  #storage;
  #remember;

  /**
   * @param {string} key the key in the storage, such as `imgo:ana:laptop`
   * @param {{ storage?: TextStorage, remember?: number }} [options] another
   *   storage than localStorage, and the number of ids that are kept (8192)
   */
  constructor(key, { storage = localStorageHere(), remember = 8192 } = {}) {
    this.#key = key;
    this.#storage = checkedStorage(storage);
    this.#remember = remember;
  }

  /** @returns {string[]} */
  load() {
    const saved = this.#storage.getItem(this.#key) ?? '';
    return saved.split(' ').filter((id) => /^\d+$/.test(id)); // foreign data; at worst a message is handled twice
  }

  /** @param {string[]} ids */
  add(ids) {
    const all = [...this.load(), ...ids];
    this.#storage.setItem(this.#key, all.slice(-this.#remember).join(' '));
  }
}

/**
 * Keeps published messages in localStorage, so that a page sends them after a reload. All of them are in one value, and
 * a browser grants an origin about 5 MB. Only one client at a time may use a key: give it the names of the user and the
 * device, and each tab a device of its own.
 */
export class LocalStorageOutbox {
  #key;
  #storage;

  /**
   * @param {string} key the key in the storage, such as `imgo-outbox:ana:laptop`
   * @param {{ storage?: TextStorage }} [options] another storage than localStorage
   */
  constructor(key, { storage = localStorageHere() } = {}) {
    this.#key = key;
    this.#storage = checkedStorage(storage);
  }

  /** @returns {ImgoOutboxContent} */
  load() {
    return { base: null, last: 0, messages: [], ...JSON.parse(this.#storage.getItem(this.#key) ?? '{}') };
  }

  /** @param {string} base */
  setBase(base) {
    this.#save({ ...this.load(), base });
  }

  /** Adds a message. It throws if another client has added one meanwhile. @param {ImgoOutboxMessage} message */
  add(message) {
    const { base, last, messages } = this.load();
    if (message.number <= last) throw new Error('another client uses it');
    this.#save({ base, last: message.number, messages: [...messages, message] });
  }

  /** @param {number} number */
  remove(number) {
    const { messages, ...rest } = this.load();
    this.#save({ ...rest, messages: messages.filter((message) => message.number > number) });
  }

  /** @param {ImgoOutboxContent} content */
  #save(content) {
    this.#storage.setItem(this.#key, JSON.stringify(content));
  }
}

/** @param {TextStorage | undefined} storage */
function checkedStorage(storage) {
  if (storage) return storage;
  throw new ImgoError('unsupported', 'there is no localStorage here: a worker needs a store of its own');
}

/** A page that may not use its storage throws when it looks. @returns {TextStorage | undefined} */
function localStorageHere() {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}
