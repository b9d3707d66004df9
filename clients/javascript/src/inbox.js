import { ImgoError, limited, textOf } from './protocol.js';
import { Timers } from './timers.js';

/** @import { ImgoCounts, ImgoEvents, ImgoMessage, Settings } from './types.js' */

const MIN_DUE = 8192; // ids that may wait for the store or a connection, also if fewer are remembered
const ACK_BATCH = 500; // ids in a packet, at most
const ID_BYTES = 24; // of an id in a list, at most

/** A set of strings that forgets the oldest ones. */
class BoundedSet {
  /** @type {Set<string>} */
  #items = new Set(); // in the order of use, oldest first
  #limit;

  /** @param {number} limit */
  constructor(limit) {
    this.#limit = limit;
  }

  get size() {
    return this.#items.size;
  }

  /** @param {string} item */
  has(item) {
    return this.#items.has(item);
  }

  /** Adds an item, or makes it the newest. @param {string} item */
  add(item) {
    this.#items.delete(item);
    this.#items.add(item);
    const oldest = this.#items.values().next().value;
    if (this.#items.size > this.#limit && oldest !== undefined) this.#items.delete(oldest);
  }

  /** @param {Iterable<string>} items */
  deleteAll(items) {
    for (const item of items) this.#items.delete(item);
  }

  /** Returns the oldest items. @param {number} [count] */
  oldest(count = Infinity) {
    return [...this.#items].slice(0, count);
  }
}

/**
 * The client of an inbox.
 * @typedef {object} Host
 * @property {() => ImgoEvents['message'][]} listeners The message listeners.
 * @property {() => number} maxBody The largest body that may be sent, in bytes.
 * @property {(ids: string[]) => boolean} sendAcks Writes one packet and reports whether it was written.
 * @property {() => void} spacious The queue was full, and is half empty now.
 * @property {(error: ImgoError) => void} error
 */

/**
 * The way of a message from its frame to its acknowledgement. The inbox recognises duplicates by id,
 * passes messages on one at a time, saves handled ids, and gathers acknowledgements. It outlives
 * sessions.
 */
export class Inbox {
  #settings;
  #host;
  #loaded = false;
  /** Handled ids. @type {BoundedSet} */
  #handled;
  /** Handled ids that the store does not have yet. @type {BoundedSet} */
  #unsaved;
  /** Ids to acknowledge. The server repeats the messages of forgotten ones. @type {BoundedSet} */
  #acks;
  /** @type {Readonly<ImgoMessage>[]} */
  #queue = [];
  /** Ids that are queued or being handled. @type {Set<string>} */
  #inFlight = new Set();
  #running = false; // a message is with the listeners
  /** The last run of the listeners. @type {Promise<void> | undefined} */
  #run;
  #stopped = false;
  #overflowing = false; // drops were reported, and the queue had no room since
  #full = false; // the host waits for spacious()
  #timers = new Timers(); // ack: acknowledgements are due; save: the store has failed
  /** The call of store.add that is under way. @type {Promise<void> | null} */
  #saving = null;
  #counts = { received: 0, duplicates: 0, dropped: 0, failed: 0, acked: 0 };

  /**
   * @param {Settings} settings
   * @param {Host} host
   */
  constructor(settings, host) {
    this.#settings = settings;
    this.#host = host;
    this.#handled = new BoundedSet(settings.remember);
    const due = Math.max(settings.remember, MIN_DUE);
    this.#unsaved = new BoundedSet(due);
    this.#acks = new BoundedSet(due);
  }

  /** @returns {ImgoCounts} */
  get counts() {
    return { ...this.#counts };
  }

  /** Whether the queue has no room for another message. */
  get full() {
    return this.#queue.length >= this.#settings.queue;
  }

  /** Loads the ids of the store again at the next time. Another client may have added some. */
  forget() {
    this.#loaded = false;
  }

  /** Loads the ids of the store, unless that is done. It rejects with an ImgoError if the store fails. */
  async load() {
    const { store } = this.#settings;
    if (this.#loaded || !store) return;
    try {
      const ids = await store.load();
      if (!Array.isArray(ids)) throw new Error('load() must return an array of ids');
      for (const id of [...ids.slice(-this.#settings.remember), ...this.#unsaved.oldest()]) this.#handled.add(String(id));
    } catch (cause) {
      throw new ImgoError('storage', `cannot load the handled ids: ${textOf(cause)}`, { cause });
    }
    this.#loaded = true;
  }

  /** Begins a session: the server repeats, in order, what no listener has received yet. */
  begin() {
    this.#stopped = false;
    this.#drop((message) => message.kept);
    this.flush(); // acknowledgements that the last session did not send
  }

  /**
   * Takes one message. It returns false if the message is kept and has no room. The caller must then
   * end the connection, so that the message comes again later in its order.
   *
   * @param {number} op
   * @param {string | null} id
   * @param {any} body
   * @param {boolean} pausable whether the caller stops reading when the inbox is full. Then what was
   *   read already is taken all the same.
   */
  take(op, id, body, pausable) {
    if (id !== null && (this.#inFlight.has(id) || this.#handled.has(id))) {
      this.#counts.duplicates++;
      if (!this.#inFlight.has(id)) this.#acknowledge(id); // the first acknowledgement was lost
      return true;
    }
    if (this.full) {
      this.#full = true;
      if (!pausable) return this.#overflow(id);
    }
    if (id !== null) this.#inFlight.add(id);
    this.#counts.received++;
    this.#queue.push(Object.freeze({ id, op, body, kept: id !== null }));
    this.pump();
    if (this.full) this.#full = true;
    return true;
  }

  /** @param {string | null} id */
  #overflow(id) {
    this.#counts.dropped++;
    if (id !== null) return false;
    if (!this.#overflowing) {
      this.#overflowing = true;
      const { queue } = this.#settings;
      const text = `messages that are not kept are dropped: ${queue} wait for the listeners already (queue)`;
      this.#host.error(new ImgoError('overflow', text));
    }
    return true;
  }

  /** Passes waiting messages to the listeners, one at a time and in order. */
  pump() {
    if (this.#running) return;
    this.#running = true;
    this.#run = this.#handle();
  }

  async #handle() {
    while (!this.#stopped && this.#queue.length > 0 && this.#host.listeners().length > 0) {
      const message = /** @type {Readonly<ImgoMessage>} */ (this.#queue.shift());
      if (this.#queue.length <= this.#settings.queue / 2) this.#space();
      const waits = [];
      const failures = [];
      for (const listener of this.#host.listeners()) {
        try {
          const result = listener(message);
          if (typeof (/** @type {any} */ (result)?.then) === 'function') waits.push(result);
        } catch (cause) {
          failures.push(cause);
        }
      }
      if (waits.length > 0) { // without promises, stay in this turn of the event loop
        for (const end of await Promise.allSettled(waits)) if (end.status === 'rejected') failures.push(end.reason);
      }
      if (failures.length === 0) this.#done(message);
      else this.#failed(message, failures[0]);
    }
    this.#running = false;
  }

  #space() {
    this.#overflowing = false;
    if (!this.#full) return;
    this.#full = false;
    this.#host.spacious();
  }

  /** Stops calling listeners. The promise resolves when the running ones are done. */
  async stop() {
    this.#stopped = true;
    await undefined; // if a listener called this, it returns first, and #run is up to date
    if (this.#running) await this.#run;
  }

  /** Drops the waiting messages, which come again with the next session if they are kept. */
  discard() {
    this.#drop(() => true);
  }

  /** @param {(message: Readonly<ImgoMessage>) => boolean} which */
  #drop(which) {
    const rest = [];
    for (const message of this.#queue.splice(0)) {
      if (!which(message)) rest.push(message);
      else if (message.id !== null) this.#inFlight.delete(message.id);
    }
    this.#queue.push(...rest);
    if (!this.full) this.#space();
    this.pump();
  }

  /**
   * Saves the handled ids, and sends the due acknowledgements if there is a connection. Without a
   * store, or with one that is synchronous, all is done when it returns.
   *
   * @returns {void | Promise<void>}
   */
  flush() {
    this.#timers.stopAll();
    if (this.#saving) return this.#saving.then(() => this.flush());
    const saved = this.#save();
    if (!saved) return this.#send();
    this.#saving = saved.then(() => {
      this.#saving = null;
      this.#send();
    });
    return this.#saving;
  }

  /** @returns {void | Promise<void>} */
  #save() {
    const ids = this.#unsaved.oldest();
    if (ids.length === 0) return;
    const saved = () => {
      this.#unsaved.deleteAll(ids);
      for (const id of ids) this.#acks.add(id);
    };
    /** @param {unknown} cause */
    const failed = (cause) => {
      // The ids are acknowledged after a later save only.
      if (!this.#stopped) this.#timers.start('save', this.#settings.maxBackoff, () => this.flush());
      this.#host.error(new ImgoError('storage', `cannot save ${ids.length} handled ids: ${textOf(cause)}`, { cause }));
    };
    try {
      const { store, requestTimeout } = this.#settings;
      const result = store?.add(ids);
      if (typeof result?.then === 'function') return limited(result, requestTimeout).then(saved, failed);
      saved();
    } catch (cause) {
      failed(cause);
    }
  }

  #send() {
    const most = Math.max(1, Math.min(ACK_BATCH, this.#host.maxBody() / ID_BYTES));
    while (this.#acks.size > 0) {
      const batch = this.#acks.oldest(most);
      if (!this.#host.sendAcks(batch)) return;
      this.#counts.acked += batch.length;
      this.#acks.deleteAll(batch);
    }
  }

  /**
   * @param {Readonly<ImgoMessage>} message
   * @param {unknown} cause
   */
  #failed({ id, kept }, cause) {
    this.#counts.failed++;
    if (id !== null) this.#inFlight.delete(id); // not acknowledged: it comes again in the next session
    const what = kept ? `message ${id}` : 'a message that is not kept';
    this.#host.error(new ImgoError('handler', `a listener failed on ${what}: ${textOf(cause)}`, { cause }));
  }

  /** @param {Readonly<ImgoMessage>} message */
  #done({ id }) {
    if (id === null) return;
    this.#inFlight.delete(id);
    if (this.#settings.store) this.#unsaved.add(id);
    this.#acknowledge(id);
  }

  /** @param {string} id */
  #acknowledge(id) {
    this.#handled.add(id); // makes it the newest
    if (this.#unsaved.has(id)) this.#unsaved.add(id); // as new as there: what this set forgets is no duplicate any more
    else this.#acks.add(id);
    const many = this.#acks.size >= ACK_BATCH || (this.#unsaved.size >= ACK_BATCH && !this.#timers.has('save'));
    if (this.#stopped || (many && !this.#saving)) this.flush(); // a stopped inbox has no timers
    else if (!this.#timers.has('ack')) this.#timers.start('ack', this.#settings.ackDelay, () => this.flush());
  }
}
