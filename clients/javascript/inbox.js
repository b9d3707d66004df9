import { ImgoError, compareIds, textOf } from './protocol.js';

/** The newest `limit` ids that were handled, optionally remembered in a storage. */
class SeenIds {
  #ids = new Set(); // in the order of use: the first is the one to forget
  #limit;
  #storage;
  #key;
  #dirty = false;

  constructor(limit, storage, key) {
    this.#limit = limit;
    this.#storage = storage;
    this.#key = key;
    if (!storage) return;
    try {
      const saved = JSON.parse(storage.getItem(key) ?? '[]');
      for (const id of Array.isArray(saved) ? saved : []) this.add(BigInt(id).toString());
    } catch {
      this.#ids.clear(); // not ours or damaged: at worst a message is handled twice
    }
    this.#dirty = false;
  }

  has(id) {
    return this.#ids.has(id);
  }

  add(id) {
    this.#ids.delete(id);
    this.#ids.add(id);
    if (this.#ids.size > this.#limit) this.#ids.delete(this.#ids.values().next().value);
    this.#dirty = true;
  }

  clear() {
    this.#ids.clear();
    this.#dirty = true;
  }

  /** Writes what changed; throws what the storage throws. */
  save() {
    if (!this.#storage || !this.#dirty) return;
    this.#dirty = false;
    this.#storage.setItem(this.#key, JSON.stringify([...this.#ids]));
  }
}

/**
 * Everything between a message frame and its acknowledgement: recognises
 * duplicates by id, hands messages out one at a time, gathers the acks.
 *
 * `host` is the connection: listeners() gives the functions that take a
 * message, sendAcks(ids) writes one ack frame and says whether it could,
 * live() whether acks may be sent now, error(e) takes what went wrong.
 */
export class Inbox {
  #options;
  #host;
  #seen;
  #queue = [];
  #inFlight = new Set(); // ids in the queue or with a listener
  #pumping = false;
  #acks = new Set();
  #ackTimer = null;
  #lastId = null;
  #counts = { received: 0, duplicates: 0, dropped: 0, failed: 0, acked: 0 };

  constructor(options, storageKey, host) {
    this.#options = options;
    this.#host = host;
    this.#seen = new SeenIds(options.seenLimit, options.storage, storageKey);
  }

  get lastId() {
    return this.#lastId;
  }

  get counts() {
    return { ...this.#counts };
  }

  /**
   * Takes one message frame. False means that a kept message found the queue
   * full: the connection must end, so that it comes again in its place later.
   */
  take(op, rawId, body) {
    let id = null;
    try {
      const number = BigInt(rawId ?? 0); // a decimal string; 0: not kept
      if (number > 0n) id = number.toString();
    } catch {
      this.#host.error(new ImgoError('protocol', `a message has the id ${JSON.stringify(rawId)}, which is not a number`));
      return true;
    }
    if (id !== null) {
      if (this.#inFlight.has(id)) {
        this.#counts.duplicates++;
        return true; // its ack follows when the listeners are done with the first
      }
      if (this.#seen.has(id)) {
        this.#counts.duplicates++;
        this.#seen.add(id);
        this.#queueAck(id); // the server asks again: our first ack did not arrive
        return true;
      }
    }
    if (this.#queue.length >= this.#options.inboxLimit) {
      this.#counts.dropped++;
      return id === null; // one that is not kept is not worth the connection
    }
    if (id !== null) this.#inFlight.add(id);
    this.#counts.received++;
    this.#queue.push(Object.freeze({ id, op, body, kept: id !== null }));
    this.pump();
    return true;
  }

  /** Hands out what waits, in order; a listener's promise holds up the next message. */
  async pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.#queue.length > 0 && this.#host.listeners().length > 0) {
      const message = this.#queue.shift();
      try {
        const waits = [];
        for (const listener of this.#host.listeners()) {
          const result = listener(message);
          if (typeof result?.then === 'function') waits.push(result);
        }
        if (waits.length > 0) await Promise.all(waits); // nothing to wait for: no turn of the event loop
        this.#done(message);
      } catch (cause) {
        this.#counts.failed++;
        this.#inFlight.delete(message.id); // not acknowledged: it comes again at the next session
        const what = message.kept ? `message ${message.id}` : 'a message that is not kept';
        this.#host.error(new ImgoError('handler', `a listener failed on ${what}: ${textOf(cause)}`, { cause }));
      }
    }
    this.#pumping = false;
  }

  /**
   * Forgets what no listener has had yet. The message that one has now is
   * still acknowledged when it is done.
   */
  discard() {
    for (const message of this.#queue.splice(0)) this.#inFlight.delete(message.id);
  }

  /** Forgets which ids were handled. */
  forget() {
    this.#seen.clear();
    this.#acks.clear();
    this.#lastId = null;
    this.save();
  }

  /** Sends the acks that are due, if there is a connection. */
  flush() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    this.save(); // first: what was acknowledged must be known after a crash
    const { ackBatch } = this.#options;
    while (this.#acks.size > 0 && this.#host.live()) {
      const batch = [...this.#acks].slice(0, ackBatch);
      if (!this.#host.sendAcks(batch)) return;
      this.#counts.acked += batch.length;
      for (const id of batch) this.#acks.delete(id);
    }
  }

  /** Writes the handled ids to the storage. */
  save() {
    try {
      this.#seen.save();
    } catch (cause) {
      this.#host.error(new ImgoError('storage', `cannot remember handled ids: ${textOf(cause)}`, { cause }));
    }
  }

  #done(message) {
    if (!message.kept) return;
    const { id } = message;
    this.#inFlight.delete(id);
    this.#seen.add(id);
    if (this.#lastId === null || compareIds(id, this.#lastId) > 0) this.#lastId = id;
    this.#queueAck(id);
  }

  #queueAck(id) {
    this.#acks.add(id);
    // Without a connection they wait for the next one. What falls out here is
    // sent again by the server, and acknowledged then.
    if (this.#acks.size > this.#options.seenLimit) this.#acks.delete(this.#acks.values().next().value);
    if (this.#acks.size >= this.#options.ackBatch) {
      this.flush();
    } else if (this.#ackTimer === null) {
      this.#ackTimer = setTimeout(() => this.flush(), this.#options.ackDelay);
    }
  }
}
