import { Turn } from '../src/protocol.js';
import { append, readText, replace } from './files.js';

export { FileOutbox } from './file-outbox.js';

/**
 * Keeps handled ids in a file, so that a program does not handle a message twice after a restart. The
 * file has one id a line. Only one client at a time may use a file.
 */
export class FileStore {
  #path;
  #remember;
  /** The ids in the file, oldest first. @type {string[] | null} */
  #ids = null;
  /** A client calls one method at a time, but does not wait for ever. */
  #turn = new Turn();

  /**
   * @param {string} path
   * @param {{ remember?: number }} [options] the number of ids that are kept at least (8192). The file
   *   has at most twice as many.
   */
  constructor(path, { remember = 8192 } = {}) {
    this.#path = path;
    this.#remember = remember;
  }

  /** @returns {Promise<string[]>} */
  load() {
    return this.#turn.run(() => this.#load());
  }

  /**
   * @param {string[]} ids
   * @returns {Promise<void>}
   */
  add(ids) {
    return this.#turn.run(() => this.#add(ids));
  }

  async #load() {
    const text = await readText(this.#path);
    const lines = text.split('\n');
    const torn = lines.pop() !== ''; // a crash has left an incomplete line, which would spoil the next one
    const ids = lines.filter((line) => /^\d+$/.test(line));
    this.#ids = ids.slice(-this.#remember);
    if (torn || text === '') await this.#rewrite(this.#ids);
    return [...this.#ids];
  }

  /** @param {string[]} ids */
  async #add(ids) {
    if (!this.#ids) await this.#load();
    const all = [...(this.#ids ?? []), ...ids];
    this.#ids = null; // after a failure the file is read again
    if (all.length > 2 * this.#remember) {
      await this.#rewrite(all.slice(-this.#remember));
    } else {
      await append(this.#path, textOf(ids));
      this.#ids = all;
    }
  }

  /** @param {string[]} ids */
  async #rewrite(ids) {
    await replace(this.#path, textOf(ids));
    this.#ids = ids;
  }
}

/** @param {string[]} ids */
function textOf(ids) {
  return ids.map((id) => `${id}\n`).join('');
}
