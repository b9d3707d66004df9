import { Turn } from '../src/protocol.js';
import { append, readText, replace } from './files.js';

/** @import { ImgoOutboxContent, ImgoOutboxMessage } from '../src/types.js' */

/**
 * A line of the file: the base was set, all messages up to a number were removed, or a message was added.
 * @typedef {{ base: string } | { removed: number } | ImgoOutboxMessage} Line
 */

const MIN_LIMIT = 64 << 10; // a smaller file is not worth a rewrite

/**
 * Keeps published messages in a file, so that a program sends them after a restart. A change is a line of JSON at the end
 * of the file, which is on the disk when the method returns. The file is replaced in one step when what is no longer
 * needed is about half of it. Only one client at a time may use a file.
 */
export class FileOutbox {
  #path;
  /** What the file has. @type {ImgoOutboxContent | null} */
  #content = null;
  #size = 0; // of the file, in characters
  #limit = 0; // the size from which on the file is replaced
  /** A client calls one method at a time, but does not wait for ever. */
  #turn = new Turn();

  /** @param {string} path */
  constructor(path) {
    this.#path = path;
  }

  /** @returns {Promise<ImgoOutboxContent>} */
  load() {
    return this.#turn.run(() => {
      this.#content = null; // another client may have changed the file
      return this.#open();
    });
  }

  /**
   * @param {string} base
   * @returns {Promise<void>}
   */
  setBase(base) {
    return this.#change({ base });
  }

  /**
   * @param {ImgoOutboxMessage} message
   * @returns {Promise<void>}
   */
  add({ number, op, body }) {
    return this.#change({ number, op, body });
  }

  /**
   * @param {number} number
   * @returns {Promise<void>}
   */
  remove(number) {
    return this.#change({ removed: number });
  }

  /** Reads the file, unless its content is known. */
  async #open() {
    if (this.#content) return this.#content;
    const text = await readText(this.#path);
    const lines = text.split('\n');
    const torn = lines.pop() !== ''; // a crash has left an incomplete line, whose change was not complete
    /** @type {ImgoOutboxContent} */
    let content = { base: null, last: 0, messages: [] };
    for (const [index, line] of lines.entries()) content = changed(content, this.#parsed(line, index + 1));
    this.#size = torn || text === '' ? Infinity : text.length; // the next change replaces the file
    this.#limit = limitOf(textOf(content));
    this.#content = content;
    return content;
  }

  /**
   * @param {string} text
   * @param {number} number
   * @returns {Line}
   */
  #parsed(text, number) {
    try {
      const line = JSON.parse(text);
      const known = typeof line.base === 'string' ? /^\d+$/.test(line.base) : Number.isSafeInteger(line.removed ?? line.number);
      if (known) return line;
    } catch {
      // It is no JSON object.
    }
    throw new Error(`line ${number} of ${this.#path} is not of an outbox: remove the file, or name another one`);
  }

  /**
   * @param {Line} line
   * @returns {Promise<void>}
   */
  #change(line) {
    return this.#turn.run(async () => {
      const before = await this.#open();
      const after = changed(before, line);
      const text = `${JSON.stringify(line)}\n`;
      try {
        if (this.#size + text.length > this.#limit) {
          await this.#replace(after);
        } else {
          await append(this.#path, text);
          this.#size += text.length;
        }
      } catch (error) {
        // The file may have the line, or a part of it. If it cannot be replaced now, the next change does so.
        this.#size = Infinity;
        await this.#replace(before).catch(() => {});
        throw error;
      }
      this.#content = after;
    });
  }

  /** @param {ImgoOutboxContent} content */
  async #replace(content) {
    const text = textOf(content);
    await replace(this.#path, text);
    this.#size = text.length;
    this.#limit = limitOf(text);
  }
}

/**
 * @param {ImgoOutboxContent} content
 * @param {Line} line
 * @returns {ImgoOutboxContent}
 */
function changed({ base, last, messages }, line) {
  if ('base' in line) return { base: line.base, last, messages };
  if ('removed' in line) {
    return { base, last: Math.max(last, line.removed), messages: messages.filter(({ number }) => number > line.removed) };
  }
  return { base, last: line.number, messages: [...messages.filter(({ number }) => number < line.number), line] };
}

/** Returns the shortest text of a file with the content. @param {ImgoOutboxContent} content */
function textOf({ base, last, messages }) {
  /** @type {Line[]} */
  const lines = base === null ? [] : [{ base }];
  lines.push({ removed: (messages[0]?.number ?? last + 1) - 1 }, ...messages);
  return lines.map((line) => `${JSON.stringify(line)}\n`).join('');
}

/** @param {string} text */
function limitOf(text) {
  return Math.max(2 * text.length, MIN_LIMIT);
}
