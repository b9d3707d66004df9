import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Keeps handled ids in a file, so that a program does not handle a message twice after a restart. The
 * file has one id a line. Only one client at a time may use a file.
 */
export class FileStore {
  #path;
  #remember;
  /** The ids in the file, oldest first. @type {string[] | null} */
  #ids = null;

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
  async load() {
    /** @param {NodeJS.ErrnoException} error */
    const missing = (error) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    };
    const text = await readFile(this.#path, 'utf8').catch(missing);
    const lines = text.split('\n');
    const torn = lines.pop() !== ''; // a crash has left an incomplete line, which would spoil the next one
    const ids = lines.filter((line) => /^\d+$/.test(line));
    this.#ids = ids.slice(-this.#remember);
    if (torn || text === '') await this.#rewrite(this.#ids);
    return [...this.#ids];
  }

  /** @param {string[]} ids */
  async add(ids) {
    if (!this.#ids) await this.load();
    const all = [...(this.#ids ?? []), ...ids];
    this.#ids = null; // after a failure the file is read again
    if (all.length > 2 * this.#remember) {
      await this.#rewrite(all.slice(-this.#remember));
    } else {
      await write(this.#path, 'a', ids);
      this.#ids = all;
    }
  }

  /** @param {string[]} ids */
  async #rewrite(ids) {
    const part = `${this.#path}.new`;
    await write(part, 'w', ids);
    await rename(part, this.#path);
    await syncFolder(dirname(this.#path));
    this.#ids = ids;
  }
}

/**
 * Writes the ids, and returns when they are on the disk.
 *
 * @param {string} path
 * @param {'a' | 'w'} flags
 * @param {string[]} ids
 */
async function write(path, flags, ids) {
  const file = await open(path, flags, 0o600);
  try {
    await file.writeFile(ids.map((id) => `${id}\n`).join(''));
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** @param {string} path */
async function syncFolder(path) {
  const folder = await open(path, 'r').catch(() => null); // Windows cannot open a folder
  try {
    await folder?.sync();
  } catch {
    // Some file systems cannot sync a folder.
  } finally {
    await folder?.close();
  }
}
