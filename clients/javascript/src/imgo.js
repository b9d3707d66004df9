/**
 * A client for the imgo push server, for browsers, workers and Node. It is an ES module without
 * dependencies.
 *
 * The client keeps one WebSocket to the server (JSON frames, protocol version 2) and reconnects
 * when it is lost. It passes every message to the `message` listeners in order. It acknowledges a
 * kept message when the listeners are done with it. It recognises repeated kept messages by their
 * ids.
 *
 * The client never throws out of a socket event. A failure becomes an `error` event, a rejected
 * promise, or a state with its reason.
 *
 * @module
 */
import { Inbox } from './inbox.js';
import { checkedOptions, isCustomOp } from './options.js';
import * as Op from './op.js';
import { Outbox } from './outbox.js';
import { ImgoError, TOKEN_EXPIRED, checkedName, deferred, readId, readIds, reconnects } from './protocol.js';
import { textOf, tooLarge, within } from './protocol.js';
import { ask, routeTo } from './route.js';
import { Session, discard } from './session.js';
import { MAX_TIMER, Timers } from './timers.js';

/**
 * @import { WebSocketLike } from './types.js'
 * @import { End } from './session.js'
 */

export { ImgoError, compareIds } from './protocol.js';
export { LocalStorageOutbox, LocalStorageStore } from './local-storage-store.js';
/**
 * @typedef {import('./types.js').ImgoCounts} ImgoCounts
 * @typedef {import('./types.js').ImgoDismissEvent} ImgoDismissEvent
 * @typedef {import('./types.js').ImgoErrorCode} ImgoErrorCode
 * @typedef {import('./types.js').ImgoEvents} ImgoEvents
 * @typedef {import('./types.js').ImgoInfo} ImgoInfo
 * @typedef {import('./types.js').ImgoMessage} ImgoMessage
 * @typedef {import('./types.js').ImgoOptions} ImgoOptions
 * @typedef {import('./types.js').ImgoOutbox} ImgoOutbox
 * @typedef {import('./types.js').ImgoOutboxContent} ImgoOutboxContent
 * @typedef {import('./types.js').ImgoOutboxMessage} ImgoOutboxMessage
 * @typedef {import('./types.js').ImgoPublishedEvent} ImgoPublishedEvent
 * @typedef {import('./types.js').ImgoRoomEvent} ImgoRoomEvent
 * @typedef {import('./types.js').ImgoState} ImgoState
 * @typedef {import('./types.js').ImgoStateEvent} ImgoStateEvent
 * @typedef {import('./types.js').ImgoStore} ImgoStore
 * @typedef {import('./types.js').Json} Json
 */

const DISCOVER_TIMEOUT = 3000; // after it the configured address is used
const MIN_REFRESH = 1000; // the least time before a new token is requested
const MOVE_SPAN = 500; // a stopping server's clients spread over this time
const ACK_WAIT = 2000; // for the server's reply to the last acknowledgements
const MAX_READ = 500; // ids in a packet: 12 KiB, well below the server's body limit of 64 KiB

/** A client of one user. Methods may be called at any time, also from event listeners. */
export class ImgoClient {
  #settings;
  #inbox;
  #outbox;
  /** @type {Map<string, Set<(value: any) => unknown>>} */
  #listeners = new Map();
  /** Rooms that each session joins. @type {Set<string>} */
  #rooms;

  /** @type {ImgoState} */
  #state = 'idle';
  #wanted = false; // true from connect() until close() or a final refusal
  /** The graceful close that is under way. @type {Promise<void> | null} */
  #closing = null;
  #closes = 0; // calls of close()
  /** The replies to its acknowledgements. @type {Promise<unknown>[]} */
  #lastAcks = [];
  /** The current attempt. Late results of older ones are ignored. @type {AbortController | null} */
  #attempt = null;
  /** @type {Session | null} */
  #session = null;
  /** Addresses of the next attempts, the configured one last. @type {string[]} */
  #route = [];
  #failures = 0; // attempts and sessions since the last stable session
  #moved = false; // a server has named other addresses since then
  #tried = false; // the current attempt has tried an address
  #renewed = false; // a new token was requested since the last auth reply
  /** The pending promise of connect(). @type {ReturnType<typeof deferred<Readonly<ImgoInfo>>> | null} */
  #ready = null;
  /** @type {Readonly<ImgoInfo> | null} */
  #info = null;
  /** Removes the listeners of the browser's events. @type {() => void} */
  #unwatch = () => {};
  #timers = new Timers();

  /**
   * Makes a client. It does not connect yet. It throws ImgoError `invalid` for a bad option.
   *
   * @param {ImgoOptions} options
   */
  constructor(options) {
    this.#settings = checkedOptions(options);
    this.#rooms = new Set(this.#settings.rooms);
    this.#inbox = new Inbox(this.#settings, {
      listeners: () => [...(this.#listeners.get('message') ?? [])],
      maxBody: () => this.#most(),
      sendAcks: (ids) => this.#sendAcks(ids),
      spacious: () => this.#session?.resume(),
      error: (error) => this.#emitError(error),
    });
    this.#outbox = new Outbox(this.#settings, {
      published: (event) => this.#emit('published', Object.freeze(event)),
      span: (failures) => this.#span(failures),
      error: (error) => this.#emitError(error),
    });
  }

  /** @returns {ImgoState} */
  get state() {
    return this.#state;
  }

  /** What the server returned when it last accepted this client. It is null before that. */
  get info() {
    return this.#info;
  }

  /** The rooms that the client asks for: those of the options and of join(). */
  get rooms() {
    return [...this.#rooms];
  }

  /** @returns {ImgoCounts} */
  get counts() {
    return this.#inbox.counts;
  }

  /**
   * Adds a listener. The returned function removes it.
   *
   * @template {keyof ImgoEvents} E
   * @param {E} event
   * @param {ImgoEvents[E]} listener
   * @returns {() => void}
   */
  on(event, listener) {
    let set = this.#listeners.get(event);
    if (!set) this.#listeners.set(event, (set = new Set()));
    set.add(listener);
    if (event === 'message') this.#inbox.pump(); // messages wait for the first listener
    return () => this.off(event, listener);
  }

  /**
   * Removes a listener.
   *
   * @template {keyof ImgoEvents} E
   * @param {E} event
   * @param {ImgoEvents[E]} listener
   */
  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }

  /**
   * Connects, and stays connected until close(). While the client waits for the next attempt,
   * connect() starts it now.
   *
   * The promise resolves when the client is live, even after failed attempts. It rejects with
   * ImgoError `refused`, `invalid`, `unsupported` or `closed`. The caller may ignore it. During a close
   * it waits for the end of it; a further close() has it reject with `closed`.
   *
   * @returns {Promise<Readonly<ImgoInfo>>}
   */
  connect() {
    if (this.#closing) {
      const closes = this.#closes;
      const again = this.#closing.then(() => {
        if (this.#closes !== closes) throw new ImgoError('closed', 'the client was closed');
        return this.connect();
      });
      again.catch(() => {}); // the state has the reason, so an unused promise must not warn
      return again;
    }
    if (this.#state === 'live' && this.#info) return Promise.resolve(this.#info);
    if (!this.#ready) {
      this.#ready = deferred();
      this.#ready.promise.catch(() => {});
    }
    const { promise } = this.#ready;
    if (!this.#wanted) {
      this.#wanted = true;
      this.#failures = 0;
      this.#moved = false;
      this.#renewed = false;
      this.#route = [];
      this.#inbox.forget();
      this.#outbox.forget();
      this.#watchBrowser();
      this.#dial();
    } else if (this.#state === 'waiting') {
      this.#dial();
    }
    return promise;
  }

  /**
   * Ends gracefully. The client calls no further listener with a message, waits for the running one
   * (closeTimeout), sends the due acknowledgements, and closes the connection. Messages that were not
   * handled come again with the next session. The promise never rejects.
   *
   * A `message` listener must not wait for it, because close() waits for the listener.
   *
   * @returns {Promise<void>}
   */
  close() {
    this.#closes++;
    if (this.#closing) return this.#closing;
    if (!this.#wanted) return Promise.resolve();
    this.#closing = this.#shutDown().finally(() => {
      this.#closing = null;
    });
    return this.#closing;
  }

  /**
   * Joins a room, now and with each later session. In a live session it waits for the reply. It
   * rejects with `denied` if the server does not let the client in. The room is then not asked for
   * again. Without a live session the event `room` tells of a refusal.
   *
   * @param {string} room
   * @returns {Promise<void>}
   */
  async join(room) {
    this.#rooms.add(checkedName('room', room));
    if (!this.#session?.live || this.#closing) return;
    try {
      await this.#session.join(room);
    } catch (error) {
      if (error instanceof ImgoError && error.code === 'denied') this.#rooms.delete(room);
      throw error;
    }
  }

  /**
   * Leaves a room, now and with each later session. In a live session it waits for the reply.
   *
   * @param {string} room
   * @returns {Promise<void>}
   */
  async leave(room) {
    this.#rooms.delete(checkedName('room', room));
    if (!this.#session?.live || this.#closing) return;
    await this.#session.leave(room);
  }

  /**
   * Sends a message to the backend, and resolves with the body of the reply. A server that has no
   * receiver for it refuses it: `denied` with the serverCode `unsupported`.
   *
   * It rejects with `not_live`, `invalid`, `too_many` or `denied` if the message had no effect, and
   * with `lost`, `timeout` or `closed` if that is unknown. A body that is larger than the server takes
   * is `invalid`. `op` is 4 (the default) or from 1000 on.
   *
   * @param {Json} body
   * @param {{ op?: number }} [options]
   * @returns {Promise<any>}
   */
  async send(body, { op = Op.send } = {}) {
    const json = this.#checkedJson(op, body);
    return this.#liveSession('send a message').call(op, op, json, 'send a message');
  }

  /**
   * Puts a message for the backend into the outbox, and resolves with its number. The message is kept until the server has
   * answered it, and reaches the backend once. The event `published` tells. With the option `outbox` it is durable when
   * the promise resolves. The client may be in any state. It needs the option `device`.
   *
   * It rejects with `invalid`, with `too_many` if 1,024 messages wait, and with `storage` if the outbox failed. A body that
   * is larger than the server takes is `invalid`. Without a session its size is not known: the event `published` then has the
   * error `denied` with the serverCode `too_large`. `op` is 4 (the default) or from 1000 on.
   *
   * @param {Json} body
   * @param {{ op?: number }} [options]
   * @returns {Promise<number>}
   */
  async publish(body, { op = Op.send } = {}) {
    const json = this.#checkedJson(op, body);
    if (this.#settings.device === undefined) throw new ImgoError('invalid', 'device: publish needs this option');
    return this.#outbox.publish(op, json);
  }

  /**
   * Tells the server that the user has read messages: those of `ids` (at most 500), and all up to the id `upTo`. It
   * resolves when all devices of the user have acknowledged them. The other devices get the event `dismiss`.
   *
   * It rejects with `not_live`, `invalid`, `too_many` or `denied` if the call had no effect, and with `lost`, `timeout`
   * or `closed` if that is unknown.
   *
   * @param {{ ids?: readonly string[], upTo?: string }} messages
   * @returns {Promise<void>}
   */
  async read({ ids = [], upTo }) {
    let list;
    let id;
    try {
      list = readIds(ids);
      id = readId(upTo) ?? undefined;
    } catch (cause) {
      throw new ImgoError('invalid', `ids and upTo must be ids of messages: ${textOf(cause)}`, { cause });
    }
    if (list.length === 0 && id === undefined) throw new ImgoError('invalid', 'ids or upTo must name a message');
    if (list.length > MAX_READ) throw new ImgoError('invalid', `ids must have at most ${MAX_READ} ids: upTo names older ones`);
    const what = 'tell what was read';
    const session = this.#liveSession(what);
    this.#checkSize('ids', list);
    await session.call(Op.read, Op.readReply, list, what, id);
  }

  /**
   * Returns the body as the server will have it. Later changes of the given one do not change it.
   *
   * @param {number} op
   * @param {unknown} body
   */
  #checkedJson(op, body) {
    if (op !== Op.send && !isCustomOp(op)) throw new ImgoError('invalid', 'op must be 4 or a whole number from 1000 on');
    let json;
    try {
      json = JSON.parse(JSON.stringify(body));
    } catch (cause) {
      throw new ImgoError('invalid', `body must be a JSON value: ${textOf(cause)}`, { cause });
    }
    this.#checkSize('body', json);
    return json;
  }

  /** The largest body that may be sent, in bytes. */
  #most() {
    return Math.min(this.#settings.maxBody, this.#session?.maxBody ?? Infinity);
  }

  /**
   * @param {string} what names the body
   * @param {unknown} body
   */
  #checkSize(what, body) {
    const most = this.#most();
    if (tooLarge(body, most)) throw new ImgoError('invalid', `${what} is larger than ${most} bytes (maxBody)`);
  }

  /** Returns the live session, or throws `not_live`. @param {string} what names the call */
  #liveSession(what) {
    if (this.#session?.live && !this.#closing) return this.#session;
    throw new ImgoError('not_live', `${what}: the client is ${this.#closing ? 'closing' : this.#state}`);
  }

  /**
   * Opens a socket. The Node entry of this package replaces this method.
   *
   * @protected
   * @param {string} url
   * @param {ImgoOptions} options
   * @returns {WebSocketLike | Promise<WebSocketLike>}
   */
  openSocket(url, options) {
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (typeof WebSocket !== 'function') {
      throw new ImgoError('unsupported', 'there is no WebSocket here: pass a class as the option WebSocket');
    }
    return new WebSocket(url);
  }

  // ------------------------------------------------------------ connection

  async #dial() {
    this.#timers.stop('retry');
    const attempt = (this.#attempt = new AbortController());
    this.#tried = false;
    const over = () => this.#attempt !== attempt;
    const { connectTimeout, url } = this.#settings;
    let step = 'connection';
    this.#timers.start('connect', connectTimeout, () => {
      const reason = `no ${step} within ${connectTimeout} ms`;
      if (step === 'token') this.#emitError(new ImgoError('token', `tokenSource failed: ${reason}`));
      if (!over()) this.#lost({ code: 0, reason });
    });
    this.#setState({ state: 'connecting' });
    try {
      if (over()) return; // a listener has called close()
      await Promise.all([this.#inbox.load(), this.#outbox.load()]);
      if (over()) return;
      step = 'token';
      const token = await this.#token();
      if (over()) return;
      step = 'connection';
      if (this.#route.length === 0) this.#route = routeTo(await this.#discover(attempt.signal), url);
      if (over()) return;
      this.#tried = true;
      const ws = await this.#open(this.#route.shift() ?? url);
      if (over()) {
        discard(ws);
        return;
      }
      this.#begin(ws, token);
    } catch (cause) {
      if (over()) return;
      const error = cause instanceof ImgoError ? cause : new ImgoError('invalid', textOf(cause), { cause });
      if (error.code === 'invalid' || error.code === 'unsupported') {
        this.#finish(error, true); // another attempt would fail too
        return;
      }
      if (error.code !== 'lost') this.#emitError(error);
      if (!over()) this.#lost({ code: 0, reason: error.message });
    }
  }

  async #token() {
    const { token, tokenSource } = this.#settings;
    if (!tokenSource) return token;
    try {
      const made = await tokenSource();
      if (typeof made !== 'string' || made === '') throw new Error('it must return a string that is not empty');
      return made;
    } catch (cause) {
      throw new ImgoError('token', `tokenSource failed: ${textOf(cause)}`, { cause });
    }
  }

  /** Returns the addresses of the best nodes, or nothing if nobody knows them. @param {AbortSignal} signal */
  async #discover(signal) {
    const { discover, fetch, connectTimeout } = this.#settings;
    if (!discover || !fetch) return [];
    const stop = new AbortController();
    signal.addEventListener('abort', () => stop.abort());
    const addresses = await within(ask(fetch, discover, stop.signal), Math.min(DISCOVER_TIMEOUT, connectTimeout / 2));
    stop.abort();
    return addresses;
  }

  /** @param {string} url */
  async #open(url) {
    this.#log('debug', `connecting to ${url}`);
    try {
      return await this.openSocket(url, this.#settings);
    } catch (cause) {
      if (cause instanceof ImgoError) throw cause;
      // The address is bad, or it is ws:// on an https page.
      const code = url === this.#settings.url ? 'invalid' : 'lost';
      throw new ImgoError(code, `cannot open ${url}: ${textOf(cause)}`, { cause });
    }
  }

  /**
   * @param {WebSocketLike} ws
   * @param {string | undefined} token
   */
  #begin(ws, token) {
    /** The rooms of the auth packet. @type {string[]} */
    let asked = [];
    const auth = () => {
      const { device, platform } = this.#settings;
      const accepts = this.#settings.accepts?.length ? this.#settings.accepts : undefined;
      asked = this.rooms;
      return { token, ack: true, device, platform, accepts, rooms: asked.length > 0 ? asked : undefined };
    };
    const session = new Session(ws, auth, this.#settings, {
      opened: () => this.#timers.stop('connect'),
      accepted: (info, reply) => this.#live(session, info, reply, asked),
      message: (op, id, body) => {
        if (this.#closing) return; // it comes again with the next session
        if (!this.#inbox.take(op, id, body, session.pausable)) {
          const { queue } = this.#settings;
          this.#lost({ code: 0, reason: `the message listeners are too slow: ${queue} messages wait already (queue)` });
        } else if (this.#inbox.full && this.#session === session) {
          session.pause();
        }
      },
      roomChanged: (change) => this.#roomChanged(change),
      dismissed: (ids, upTo) => this.#emit('dismiss', Object.freeze({ ids: Object.freeze(ids), upTo })),
      error: (error) => this.#emitError(error),
      ended: (end) => this.#lost(end),
    });
    this.#session = session;
  }

  /**
   * @param {Session} session
   * @param {Readonly<ImgoInfo>} info
   * @param {any} reply
   * @param {string[]} asked the rooms of the auth packet
   */
  #live(session, info, reply, asked) {
    this.#info = info;
    this.#renewed = false;
    this.#timers.start('stable', this.#settings.stableAfter, () => {
      this.#failures = 0;
      this.#moved = false;
    });
    this.#refreshLater(session, reply);
    const changed = new Set([...asked, ...this.#rooms].filter((room) => asked.includes(room) !== this.#rooms.has(room)));
    this.#setState({ state: 'live', ...info });
    const goesOn = () => session.live && !this.#closing; // a listener may have ended it
    if (goesOn()) {
      this.#ready?.resolve(info);
      this.#ready = null;
    }
    const refused = Array.isArray(reply?.refused) ? reply.refused : [];
    for (const change of refused) if (goesOn()) this.#roomChanged({ ...change, joined: false });
    if (!goesOn()) return;
    this.#changeRooms(session, changed);
    this.#inbox.begin();
    if (goesOn()) this.#outbox.begin(session, BigInt(reply?.published ?? 0));
  }

  /**
   * Joins and leaves what the application has joined and left since the auth packet was sent.
   *
   * @param {Session} session
   * @param {Iterable<string>} rooms
   */
  async #changeRooms(session, rooms) {
    for (const room of rooms) {
      if (!session.live) return; // the next session has the rooms
      const joined = this.#rooms.has(room);
      try {
        await (joined ? session.join(room) : session.leave(room));
      } catch (cause) {
        const { code, serverCode, message } = /** @type {ImgoError} */ (cause);
        if (joined && code === 'denied') this.#roomChanged({ room, joined: false, code: serverCode, reason: message });
        else this.#log('warn', message);
      }
    }
  }

  /** Takes note that the server has changed the rooms of this session. @param {any} body */
  #roomChanged(body) {
    const change = {
      room: String(body?.room ?? ''),
      joined: body?.joined === true,
      code: String(body?.code ?? ''),
      reason: String(body?.reason ?? ''),
    };
    // A server that could not decide may do so next time.
    if (!change.joined && change.code !== 'unavailable') this.#rooms.delete(change.room);
    this.#emit('room', Object.freeze(change));
  }

  /**
   * Replaces the token before it ends.
   *
   * @param {Session} session
   * @param {any} reply says when the token ends
   */
  #refreshLater(session, reply) {
    const seconds = Number(reply?.expires_in);
    if (!(seconds > 0) || !this.#settings.tokenSource) return;
    let failures = 0;
    const refresh = async () => {
      try {
        const { connectTimeout } = this.#settings;
        const token = await within(
          this.#token().catch((error) => error),
          connectTimeout,
        );
        if (!session.live) return;
        if (token === undefined) throw new ImgoError('token', `tokenSource gave no token within ${connectTimeout} ms`);
        if (token instanceof Error) throw token;
        this.#refreshLater(session, await session.call(Op.auth, Op.authReply, { token }, 'replace the token'));
      } catch (cause) {
        if (!session.live) return;
        const wait = Math.random() * this.#span(failures++);
        this.#timers.start('refresh', wait, refresh); // until the server ends the session
        const text = `the token could not be replaced: ${textOf(cause)}`;
        this.#emitError(new ImgoError('token', text, { cause }));
      }
    };
    const wait = Math.max(seconds * 1000 * 0.8, MIN_REFRESH);
    this.#timers.start('refresh', Math.min(wait, MAX_TIMER), refresh);
  }

  /** The largest wait after a number of failures. @param {number} failures */
  #span(failures) {
    const { minBackoff, maxBackoff } = this.#settings;
    return Math.min(maxBackoff, minBackoff * 2 ** failures);
  }

  /** Handles the end of a session or attempt: gives up, or schedules the next attempt. @param {End} end */
  #lost({ code, reason, reconnect = reconnects(code), addresses }) {
    const accepted = this.#state === 'live';
    this.#drop(new ImgoError('lost', `the connection was lost before the reply: ${reason}`));
    if (!this.#wanted || this.#closing) return; // #shutDown does the rest
    if (code === TOKEN_EXPIRED && this.#settings.tokenSource && !this.#renewed) {
      this.#renewed = true; // a refusal of the new token is final
    } else if (!reconnect) {
      const message = `the server refused the client: ${reason || `close code ${code}`}`;
      this.#finish(new ImgoError('refused', message, { closeCode: code }), true, reason);
      return;
    }
    const moves = Array.isArray(addresses) && addresses.length > 0; // the server named other addresses
    if (moves) this.#route = routeTo(addresses, this.#settings.url);
    else if (accepted) this.#route = [];
    // Full jitter: after a server failure the reconnects of its clients spread over the span.
    let span = this.#span(this.#failures);
    if (moves && !this.#moved) span = MOVE_SPAN;
    else if (!moves && this.#tried && this.#route.length > 0) span = this.#span(0); // the next address of a round
    else this.#failures++; // also if two servers send the client to each other
    this.#moved ||= moves;
    // If the browser is offline, its online event starts the next attempt. The timer runs too,
    // because loopback addresses need no network.
    const offline = globalThis.navigator?.onLine === false;
    const retryIn = offline ? this.#settings.maxBackoff : Math.floor(Math.random() * span);
    this.#timers.start('retry', retryIn, () => this.#dial());
    this.#setState({ state: 'waiting', retryIn, code, reason });
  }

  /** Ends the attempt or session. @param {ImgoError} error is that of the open calls */
  #drop(error) {
    this.#attempt?.abort();
    this.#attempt = null;
    for (const name of ['connect', 'stable', 'refresh']) this.#timers.stop(name);
    const session = this.#session;
    this.#session = null;
    session?.abort(error);
  }

  /** Ends the client gracefully. */
  async #shutDown() {
    this.#timers.stopAll();
    const idle = this.#outbox.stop();
    const error = new ImgoError('closed', 'the client was closed');
    if (!this.#session?.live) this.#drop(error);
    const { closeTimeout } = this.#settings;
    await within(this.#inbox.stop(), closeTimeout);
    this.#session?.resume(); // the replies must be read; messages are left to the next session
    await within(this.#inbox.flush(), closeTimeout);
    await within(Promise.allSettled(this.#lastAcks.splice(0)), ACK_WAIT);
    await this.#session?.close(error);
    await within(idle, closeTimeout); // a store is at work
    this.#finish(error, false);
  }

  /**
   * Writes one packet of acknowledgements, and reports whether that was possible. The last ones ask
   * for a reply: without the wait for it, closing the connection could discard them.
   *
   * @param {string[]} ids
   */
  #sendAcks(ids) {
    const session = this.#session;
    if (!session?.live) return false;
    if (!this.#closing) return session.write(Op.ack, ids, 0);
    const reply = session.call(Op.ack, Op.ackReply, ids, 'acknowledge');
    reply.catch(() => {}); // #shutDown may wait for something else when it fails
    this.#lastAcks.push(reply);
    return session.live;
  }

  /**
   * Ends the client: after close(), or if another attempt would not help.
   *
   * @param {ImgoError} error
   * @param {boolean} failed
   * @param {string} [reason]
   */
  #finish(error, failed, reason = error.message) {
    this.#wanted = false;
    this.#drop(error);
    this.#timers.stopAll();
    this.#unwatch();
    this.#outbox.stop();
    this.#outbox.forget();
    this.#inbox.stop();
    this.#inbox.discard();
    this.#inbox.flush(); // saves
    const ready = this.#ready;
    this.#ready = null;
    this.#setState({ state: 'closed', code: error.closeCode ?? 0, reason, failed });
    ready?.reject(error);
  }

  /** Watches for the network or the user to come back. Only browsers have these events. */
  #watchBrowser() {
    /** @type {(() => void)[]} */
    const undo = [];
    /**
     * @param {any} target
     * @param {string} event
     * @param {(event: any) => void} listener
     */
    const listen = (target, event, listener) => {
      if (typeof target?.addEventListener !== 'function') return;
      target.addEventListener(event, listener);
      undo.push(() => target.removeEventListener(event, listener));
    };
    const check = () => this.#session?.beat(); // after a laptop's sleep a socket may be dead without an event
    const wake = () => {
      if (this.#state === 'waiting' && !this.#closing) this.#dial();
      else check();
    };
    const { document } = globalThis;
    listen(globalThis, 'online', wake);
    listen(globalThis, 'offline', check);
    listen(globalThis, 'pageshow', wake);
    listen(globalThis, 'pagehide', ({ persisted }) => {
      this.#inbox.flush();
      if (!persisted) return;
      // The page may come back, and another client may use the stores until then.
      this.#lost({ code: 0, reason: 'the page is hidden' });
      this.#timers.stop('retry');
      this.#inbox.forget();
      this.#outbox.forget();
    });
    listen(document, 'visibilitychange', () => {
      if (document.visibilityState === 'visible') wake();
      else this.#inbox.flush(); // a phone may never run this page again
    });
    this.#unwatch = () => undo.splice(0).forEach((f) => f());
  }

  // ----------------------------------------------------------------- events

  /** @param {ImgoStateEvent} event */
  #setState(event) {
    this.#state = event.state;
    const { state, ...detail } = event;
    this.#log(state === 'live' || state === 'waiting' ? 'info' : 'debug', `${state} ${JSON.stringify(detail)}`);
    this.#emit('state', Object.freeze(event));
  }

  /**
   * @template {keyof ImgoEvents} E
   * @param {E} event
   * @param {Parameters<ImgoEvents[E]>[0]} value
   */
  #emit(event, value) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (cause) {
        const error = new ImgoError('handler', `a listener of ${event} failed: ${textOf(cause)}`, { cause });
        if (event === 'error') globalThis.console?.error(error);
        else this.#emitError(error);
      }
    }
  }

  /** @param {ImgoError} error */
  #emitError(error) {
    this.#log('warn', `${error.code}: ${error.message}`);
    if ((this.#listeners.get('error')?.size ?? 0) > 0) this.#emit('error', error);
    else if (!this.#settings.log) globalThis.console?.error(error); // an error without a listener must stay visible
  }

  /**
   * @param {'debug' | 'info' | 'warn'} level
   * @param {string} line
   */
  #log(level, line) {
    try {
      this.#settings.log?.(level, line);
    } catch (cause) {
      globalThis.console?.error(cause);
    }
  }
}
