import { ImgoError } from './protocol.js';

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
    if (!storage) throw new ImgoError('unsupported', 'there is no localStorage here: a worker needs a store of its own');
    this.#key = key;
    this.#storage = storage;
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

/** A page that may not use its storage throws when it looks. @returns {TextStorage | undefined} */
function localStorageHere() {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}
