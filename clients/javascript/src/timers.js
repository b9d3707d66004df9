/** The longest time of a timer, in milliseconds. A longer one would fire at once. */
export const MAX_TIMER = 2 ** 31 - 1;

/** Timers with names. A name has at most one timer. */
export class Timers {
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #timers = new Map();

  /**
   * Calls f once after the time. It replaces an older timer of the same name.
   *
   * @param {string} name
   * @param {number} ms
   * @param {() => void} f
   */
  start(name, ms, f) {
    this.stop(name);
    const run = () => {
      this.#timers.delete(name);
      f();
    };
    this.#timers.set(name, setTimeout(run, ms));
  }

  /** @param {string} name */
  stop(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  /** @param {string} name */
  has(name) {
    return this.#timers.has(name);
  }

  stopAll() {
    for (const name of [...this.#timers.keys()]) this.stop(name);
  }
}
