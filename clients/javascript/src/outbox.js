import { ImgoError, MAX_ID, Turn, limited, textOf, tooLarge } from './protocol.js';
import { MAX_TIMER, Timers } from './timers.js';

/** @import { ImgoOutbox, ImgoOutboxMessage, ImgoPublishedEvent, Settings } from './types.js' */
/** @import { Session } from './session.js' */

const MAX_MESSAGES = 1024;
/** Refusals that may pass. */
const BUSY = ['unavailable', 'rate_limited'];

/**
 * The client of an outbox.
 * @typedef {object} Host
 * @property {(event: ImgoPublishedEvent) => void} published A message has left the outbox.
 * @property {(failures: number) => number} span The largest wait after a number of failures, in milliseconds.
 * @property {(error: ImgoError) => void} error
 */

/**
 * Keeps published messages, and sends the oldest one until it has its reply, and then the next. A message has the
 * same id whenever it is sent, so that the server recognises it. The outbox outlives sessions. Without the option
 * `outbox` the messages are in memory only.
 */
export class Outbox {
  #settings;
  #host;
  #loaded = false;
  /** A message's id is #base + its number. It is null before the first session, and only grows. @type {bigint | null} */
  #base = null;
  #last = 0; // the number of the last message
  #sent = 0; // the number of the last message that can have been sent
  /** @type {ImgoOutboxMessage[]} */
  #queue = [];
  #adding = 0; // messages that are on their way into the queue
  #turn = new Turn(); // of the store
  /** What became of the oldest message, which is not removed yet. @type {ImgoPublishedEvent | null} */
  #outcome = null;
  /** @type {Session | null} */
  #session = null;
  #arrived = 0n; // the last id of this device that the server has told
  #failures = 0; // since a message has left
  #stopped = true;
  #due = false; // there may be something to do
  #running = false;
  /** The last #work(). @type {Promise<void>} */
  #run = Promise.resolve();
  #timers = new Timers(); // again: the wait after a failure

  /**
   * @param {Settings} settings
   * @param {Host} host
   */
  constructor(settings, host) {
    this.#settings = settings;
    this.#host = host;
  }

  /** Loads the messages of the store, unless that is done. It rejects with `storage` if the store fails. */
  load() {
    return this.#turn.run(() => this.#load());
  }

  /** Loads the messages again at the next time. Another client may use the store until then. Without a store they stay. */
  forget() {
    this.#loaded = false;
  }

  async #load() {
    if (this.#loaded || this.#settings.device === undefined) return; // without a device nothing is published
    let take = () => {};
    await this.#call('load', async (outbox) => {
      const { base, last, messages } = await outbox.load();
      if (!Number.isSafeInteger(last) || !Array.isArray(messages)) throw new Error('load() must return base, last and messages');
      const number = base === null ? null : BigInt(base);
      take = () => {
        this.#base = number;
        this.#last = last;
        this.#queue = [...messages];
        this.#sent = messages[0]?.number ?? last; // each one is removed before the next is sent
        this.#outcome = null; // if the message is still there, it is sent again with the same id
      };
    });
    take(); // it was in time
    this.#loaded = true;
  }

  /**
   * Adds a message, and resolves with its number when it is durable.
   *
   * @param {number} op
   * @param {unknown} body
   * @returns {Promise<number>}
   */
  async publish(op, body) {
    checkSpace(this.#queue.length + this.#adding);
    this.#adding++;
    try {
      return await this.#turn.run(async () => {
        await this.#load();
        checkSpace(this.#queue.length); // the store had messages
        const message = Object.freeze({ number: this.#last + 1, op, body });
        await this.#call('add to', (outbox) => outbox.add(message)).catch((error) => {
          this.forget(); // another client may have added a message
          throw error;
        });
        this.#last = message.number;
        this.#queue.push(message);
        this.#wake();
        return message.number;
      });
    } finally {
      this.#adding--;
    }
  }

  /**
   * Begins a session.
   *
   * @param {Session} session
   * @param {bigint} arrived the last id of this device that the server has
   */
  begin(session, arrived) {
    if (this.#settings.device === undefined) return;
    this.#stopped = false;
    this.#session = session;
    this.#arrived = arrived;
    this.#timers.stopAll();
    this.#wake();
  }

  /** Stops sending. The promise resolves when the store has done its work, and the open call has ended. */
  stop() {
    this.#stopped = true;
    this.#timers.stopAll();
    return this.#run;
  }

  #wake() {
    this.#due = true;
    if (this.#running) return;
    this.#running = true;
    this.#run = this.#work();
  }

  async #work() {
    while (this.#due) {
      this.#due = false;
      try {
        while (await this.#step());
      } catch (error) {
        this.#again();
        this.#host.error(/** @type {ImgoError} */ (error));
      }
    }
    this.#running = false;
  }

  /** Does what is next, and reports whether it did something. It rejects if the store fails. */
  async #step() {
    if (this.#timers.has('again')) return false;
    if (this.#outcome) {
      await this.#remove(this.#outcome);
      return true;
    }
    if (this.#stopped || !this.#session?.live) return false;
    // If the server has more than was sent, the outbox is an old copy, or another client uses the device.
    if (this.#base === null || this.#arrived > this.#base + BigInt(this.#sent)) {
      // Messages of an earlier process may still be under way. Their ids are above #arrived and below the clock.
      const clock = BigInt(Date.now()) * 1000n;
      const base = clock > this.#arrived ? clock : this.#arrived;
      await this.#turn.run(async () => {
        await this.#call('set the base of', (outbox) => outbox.setBase(String(base)));
        this.#base = base;
      });
      return true;
    }
    const [message] = this.#queue;
    if (!message) return false;
    const id = this.#base + BigInt(message.number);
    const { maxBody } = this.#session;
    if (id === this.#arrived) this.#outcome = { number: message.number, body: undefined };
    else if (id > MAX_ID) this.#refuse(message, 'all ids of the device are used');
    else if (tooLarge(message.body, maxBody)) this.#refuse(message, `the body is larger than ${maxBody} bytes`, 'too_large');
    else await this.#send(this.#session, message, String(id));
    return true;
  }

  /**
   * @param {ImgoOutboxMessage} message the oldest one
   * @param {string} text
   * @param {string} [serverCode]
   */
  #refuse({ number }, text, serverCode) {
    const error = new ImgoError('denied', `message ${number} of the outbox: ${text}`, { serverCode });
    this.#outcome = { number, body: undefined, error };
  }

  /** @param {ImgoPublishedEvent} outcome of the oldest message */
  async #remove(outcome) {
    const removed = await this.#turn.run(async () => {
      if (this.#outcome !== outcome) return false; // the messages were loaded again
      await this.#call('remove from', (outbox) => outbox.remove(outcome.number));
      this.#outcome = null;
      this.#queue = this.#queue.filter((message) => message.number > outcome.number); // it may have been loaded anew
      return true;
    });
    if (!removed) return;
    this.#failures = 0;
    this.#host.published(outcome);
  }

  /**
   * Sends a message and waits for the reply. Without a reply the message is sent again, in this session or the next.
   *
   * @param {Session} session
   * @param {ImgoOutboxMessage} message
   * @param {string} id
   */
  async #send(session, { number, op, body }, id) {
    this.#sent = number;
    try {
      this.#outcome = { number, body: await session.call(op, op, body, `message ${number} of the outbox`, id, true) };
    } catch (cause) {
      const error = /** @type {ImgoError} */ (cause);
      if (error.code === 'too_many') this.#again();
      else if (error.code === 'timeout') return; // it is sent again
      else if (error.code !== 'denied') this.#lost(session); // the next session sends it again
      else if (error.retryAfter !== undefined || BUSY.includes(error.serverCode ?? '')) this.#again(error.retryAfter);
      else this.#outcome = { number, body: undefined, error };
    }
  }

  /** @param {Session} session */
  #lost(session) {
    if (this.#session === session) this.#session = null;
  }

  /** Waits before the next step: for a time, or by the backoff. @param {number} [ms] */
  #again(ms) {
    if (this.#stopped) return; // the next session begins anew
    const wait = ms || Math.random() * this.#host.span(this.#failures++);
    this.#timers.start('again', Math.min(wait, MAX_TIMER), () => this.#wake());
  }

  /**
   * Calls the store, if there is one. It rejects with `storage` if the store fails or takes too long.
   *
   * @param {string} what
   * @param {(outbox: ImgoOutbox) => void | Promise<void>} f
   */
  async #call(what, f) {
    const { outbox, requestTimeout } = this.#settings;
    try {
      if (outbox) await limited(f(outbox), requestTimeout);
    } catch (cause) {
      throw new ImgoError('storage', `cannot ${what} the outbox: ${textOf(cause)}`, { cause });
    }
  }
}

/** Throws if no further message may be added. @param {number} count how many there are */
function checkSpace(count) {
  if (count < MAX_MESSAGES) return;
  throw new ImgoError('too_many', `publish: ${MAX_MESSAGES} messages wait for a reply`);
}
