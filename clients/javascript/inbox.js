import { ImgoError, compareIds, textOf } from './protocol.js';

/** The newest `limit` handled ids, saved in a storage if there is one. */
class SeenIds {
  #ids = new Set(); // in the order of use, oldest first
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
      this.#ids.clear(); // foreign or damaged data; at worst a message is handled twice
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

  /** Saves the ids if they changed. It throws the errors of the storage. */
  save() {
    if (!this.#storage || !this.#dirty) return;
    this.#dirty = false;
    this.#storage.setItem(this.#key, JSON.stringify([...this.#ids]));
  }
}

/**
 * The way of a message from its frame to its acknowledgement. The inbox recognises duplicates by
 * id, passes messages on one at a time, and gathers acknowledgements.
 *
 * `host` is the connection. listeners() returns the message listeners. sendAcks(ids) writes one ack
 * frame and reports whether it was written. live() reports whether acks may be sent now. error(e)
 * reports a failure.
 */
export class Inbox {
  #options;
  #host;
  #seen;
  #queue = [];
  #inFlight = new Set(); // ids that are queued or being handled
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
   * Handles one message frame. It returns false if the queue is full and the message is kept. The
   * caller must then end the connection, so that the message comes again later in its order.
   */
  take(op, rawId, body) {
    let id = null;
    try {
      const number = BigInt(rawId ?? 0); // a decimal string; 0 if not kept
      if (number > 0n) id = number.toString();
    } catch {
      this.#host.error(new ImgoError('protocol', `a message has the id ${JSON.stringify(rawId)}, which is not a number`));
      return true;
    }
    if (id !== null) {
      if (this.#inFlight.has(id)) {
        this.#counts.duplicates++;
        return true; // acknowledged when the first copy is handled
      }
      if (this.#seen.has(id)) {
        this.#counts.duplicates++;
        this.#seen.add(id);
        this.#queueAck(id); // the server repeats it because the first ack was lost
        return true;
      }
    }
    if (this.#queue.length >= this.#options.inboxLimit) {
      this.#counts.dropped++;
      return id === null; // a message that is not kept does not justify a reconnect
    }
    if (id !== null) this.#inFlight.add(id);
    this.#counts.received++;
    this.#queue.push(Object.freeze({ id, op, body, kept: id !== null }));
    this.pump();
    return true;
  }

  /**
   * Passes waiting messages to the listeners in order. The promise of a listener delays the next
   * message.
   */
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
        if (waits.length > 0) await Promise.all(waits); // without promises, stay in this turn of the event loop
        this.#done(message);
      } catch (cause) {
        this.#counts.failed++;
        this.#inFlight.delete(message.id); // not acknowledged, so it comes again in the next session
        const what = message.kept ? `message ${message.id}` : 'a message that is not kept';
        this.#host.error(new ImgoError('handler', `a listener failed on ${what}: ${textOf(cause)}`, { cause }));
      }
    }
    this.#pumping = false;
  }

  /**
   * Drops the messages that no listener has received yet. A message that is being handled is still
   * acknowledged afterwards.
   */
  discard() {
    for (const message of this.#queue.splice(0)) this.#inFlight.delete(message.id);
  }

  /** Forgets all handled ids and due acks. */
  forget() {
    this.#seen.clear();
    this.#acks.clear();
    this.#lastId = null;
    this.save();
  }

  /** Sends the due acks if there is a connection. */
  flush() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    this.save(); // save first: acknowledged ids must be known after a crash
    const { ackBatch } = this.#options;
    while (this.#acks.size > 0 && this.#host.live()) {
      const batch = [...this.#acks].slice(0, ackBatch);
      if (!this.#host.sendAcks(batch)) return;
      this.#counts.acked += batch.length;
      for (const id of batch) this.#acks.delete(id);
    }
  }

  /** Saves the handled ids to the storage. A failure becomes an error event. */
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
    // Acks wait for the next connection. The server repeats the messages of dropped acks, and they
    // are acknowledged then.
    if (this.#acks.size > this.#options.seenLimit) this.#acks.delete(this.#acks.values().next().value);
    if (this.#acks.size >= this.#options.ackBatch) {
      this.flush();
    } else if (this.#ackTimer === null) {
      this.#ackTimer = setTimeout(() => this.flush(), this.#options.ackDelay);
    }
  }
}
