/**
 * A client for the imgo push server, for browsers and Node. It is an ES module without
 * dependencies.
 *
 * The client keeps one WebSocket to the server (JSON frames, protocol version 2) and reconnects
 * when it is lost. It passes every message to the `message` listeners in order. It acknowledges a
 * kept message when the listeners are done with it. It recognises repeated kept messages by their
 * ids.
 *
 * The client never throws out of a socket event. A failure becomes an `error` event, a rejected
 * promise, or both. imgo.d.ts documents every option and event.
 */
import { Inbox } from './inbox.js';
import { ImgoError, Op, TOKEN_EXPIRED, VERSION, checkedRoom, deferred, denied, reconnects, textOf } from './protocol.js';
import { ask, discoverUrl, routeTo } from './route.js';

export { ImgoError, Op, compareIds, reconnects } from './protocol.js';

const DEFAULTS = {
  backoffBase: 500,
  backoffCap: 30_000,
  stableAfter: 10_000, // a connection of this length resets the backoff
  discoverTimeout: 3000, // after it the configured address is used
  connectTimeout: 10_000, // for token and socket together
  authTimeout: 40_000, // under load the server may queue a connection for up to 30 s
  heartbeatTimeout: 10_000, // the connection counts as dead after this silence
  requestTimeout: 10_000, // for the reply to join, leave and send
  ackDelay: 50,
  ackBatch: 500, // ids in a frame: 12 KiB, well below the server's body limit of 64 KiB
  seenLimit: 4096,
  inboxLimit: 10_000,
};
const DEFAULT_HEARTBEAT = 60_000; // used if the auth reply has none
const MAX_HEARTBEAT = 24 * 3600; // seconds; a timer of 25 days or more would fire at once
const MIN_REFRESH = 1000; // the least time between two attempts to replace the token
const MAX_TIMER = 2 ** 31 - 1; // a longer timer would fire at once
const MAX_CALLS = 1000; // bound on join, leave and send calls that wait for a reply

/** A client of one user. Methods may be called at any time, also from event listeners. */
export class ImgoClient {
  #options;
  #WebSocket;
  #token;
  #listeners = new Map(); // event -> Set of functions
  #rooms;
  #inbox;

  #state = 'idle';
  #wanted = false; // true from connect() until close() or a final refusal
  #discover = null; // asks the API for the best nodes
  #asking = null; // aborts the current discovery
  #route = []; // addresses of the next attempts, the configured one last
  #link = null; // the socket of this attempt and its state
  #attemptId = 0; // grows with every attempt, so that late results of old ones are ignored
  #attempt = 0; // attempts since the last stable connection
  #tokenRenewed = false; // a new token was requested since the last auth reply
  #seq = 0;
  #ready = null; // the pending promise of connect()
  #info = null;
  #unwatch = null; // removes the listeners on window and document
  #timers = new Map(); // name -> timer
  #requests = new Map(); // seq -> call that waits for a reply
  #waiters = []; // join and leave calls that the next auth packet covers

  constructor(options) {
    if (typeof options?.url !== 'string' || !/^wss?:\/\//i.test(options.url)) {
      throw new ImgoError('invalid', 'url must be a WebSocket address such as ws://host:8090/sub');
    }
    if (typeof options.token !== 'string' && typeof options.getToken !== 'function') {
      throw new ImgoError('invalid', 'token (a string) or getToken (a function) is needed');
    }
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (typeof this.#WebSocket !== 'function') {
      const mend = 'pass one as the WebSocket option (in Node 20 for instance that of the ws package)';
      throw new ImgoError('unsupported', `there is no WebSocket here: ${mend}`);
    }
    if (options.discover !== undefined) {
      const question = discoverUrl(options.discover, options.url);
      const fetch = options.fetch ?? globalThis.fetch;
      if (typeof fetch !== 'function') throw new ImgoError('unsupported', 'discover needs fetch: pass one as an option');
      this.#discover = (signal) => ask(fetch, question, signal);
    }
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, ...Object.fromEntries(given) };
    this.#token = options.token ?? null;
    this.#rooms = new Set((options.rooms ?? []).map(checkedRoom));
    const storageKey = options.storageKey ?? `imgo:seen:${options.url}:${options.device ?? ''}`;
    this.#inbox = new Inbox(this.#options, storageKey, {
      listeners: () => [...(this.#listeners.get('message') ?? [])],
      live: () => this.#state === 'live',
      sendAcks: (ids) => this.#write(Op.ack, ids, 0),
      error: (error) => this.#emitError(error),
    });
  }

  get state() {
    return this.#state;
  }

  get info() {
    return this.#info;
  }

  get rooms() {
    return [...this.#rooms];
  }

  get lastId() {
    return this.#inbox.lastId;
  }

  get counts() {
    return this.#inbox.counts;
  }

  on(event, listener) {
    let set = this.#listeners.get(event);
    if (!set) this.#listeners.set(event, (set = new Set()));
    set.add(listener);
    if (event === 'message') this.#inbox.pump(); // messages wait for the first listener
    return () => this.off(event, listener);
  }

  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }

  connect() {
    if (this.#state === 'live') return Promise.resolve(this.#info);
    if (!this.#ready) {
      this.#ready = deferred();
      this.#ready.promise.catch(() => {}); // the error is also an event, so an unused promise must not warn
    }
    const { promise } = this.#ready;
    if (!this.#wanted) {
      this.#wanted = true;
      this.#attempt = 0;
      this.#tokenRenewed = false;
      this.#route = [];
      this.#watchBrowser();
      this.#dial();
    } else if (this.#state === 'waiting') {
      this.#dial();
    }
    return promise;
  }

  close() {
    if (this.#wanted) this.#finish(new ImgoError('closed', 'close() was called'), false);
  }

  async join(room) {
    this.#rooms.add(checkedRoom(room));
    if (!this.#wanted) return;
    try {
      await this.#call(Op.joinRoom, Op.joinRoomReply, room, room);
    } catch (error) {
      if (error.code === 'denied') this.#rooms.delete(room); // the next connection must not ask again
      throw error;
    }
  }

  async leave(room) {
    this.#rooms.delete(checkedRoom(room));
    if (this.#wanted) await this.#call(Op.leaveRoom, Op.leaveRoomReply, room, room);
  }

  async send(body, { op = Op.send } = {}) {
    if (op !== Op.send && !(Number.isInteger(op) && op >= 1000)) {
      throw new ImgoError('invalid', 'op must be 4 or a whole number from 1000');
    }
    if (JSON.stringify(body) === undefined) throw new ImgoError('invalid', 'body must be a JSON value');
    if (this.#state !== 'live') {
      throw new ImgoError('not_live', `cannot send while ${this.#state}: wait for the state to be live`);
    }
    await this.#call(op, op, body, null);
  }

  forget() {
    this.#inbox.forget();
  }

  // ------------------------------------------------------------ connection

  #dial() {
    const attemptId = ++this.#attemptId;
    this.#stopTimer('retry');
    this.#startTimer('connect', this.#options.connectTimeout, () => {
      this.#lost(0, `no connection within ${this.#options.connectTimeout} ms`);
    });
    this.#setState('connecting', { attempt: this.#attempt });
    if (attemptId !== this.#attemptId) return; // a listener called close()
    if (this.#token !== null) {
      this.#choose(attemptId);
      return;
    }
    const taken = (token) => {
      if (attemptId !== this.#attemptId) return;
      if (typeof token !== 'string' || token === '') {
        this.#finish(new ImgoError('token', 'getToken() must give a string that is not empty'), true);
        return;
      }
      this.#token = token;
      this.#choose(attemptId);
    };
    const failed = (cause) => {
      if (attemptId !== this.#attemptId) return;
      const error = new ImgoError('token', `getToken() failed: ${textOf(cause)}`, { cause });
      if (cause?.final === true) {
        this.#finish(error, true);
        return;
      }
      this.#emitError(error);
      if (attemptId === this.#attemptId) this.#lost(0, error.message);
    };
    Promise.resolve().then(() => this.#options.getToken()).then(taken, failed);
  }

  /** Finds the address for this attempt, by discovery if the route is empty, and connects. */
  #choose(attemptId) {
    const go = (addresses) => {
      if (attemptId !== this.#attemptId || this.#link) return;
      this.#stopTimer('discover');
      this.#route = routeTo(addresses, this.#options.url);
      this.#open(attemptId);
    };
    if (this.#route.length > 0) {
      this.#open(attemptId);
    } else if (!this.#discover) {
      go([]);
    } else {
      const asking = new AbortController();
      this.#asking = asking;
      this.#startTimer('discover', this.#options.discoverTimeout, () => {
        asking.abort();
        go([]);
      });
      this.#discover(asking.signal).then(go, () => go([])); // without an answer only the configured address is used
    }
  }

  #open(attemptId) {
    const { device, platform, accepts } = this.#options;
    const url = this.#route.shift();
    let ws;
    try {
      ws = new this.#WebSocket(url);
    } catch (cause) {
      if (this.#route.length > 0) {
        this.#lost(0, `cannot open ${url}: ${textOf(cause)}`);
        return;
      }
      // The address is bad, or it is ws:// on an https page. Another attempt would fail too.
      this.#finish(new ImgoError('invalid', `cannot open ${url}: ${textOf(cause)}`, { cause }), true);
      return;
    }
    const link = { ws, authed: false, failure: '' };
    this.#link = link;
    const current = () => this.#link === link && attemptId === this.#attemptId;
    ws.onopen = () => {
      if (!current()) return;
      const body = { token: this.#token, ack: true };
      if (device) body.device = device;
      if (platform) body.platform = platform;
      if (accepts) body.accepts = accepts;
      if (this.#rooms.size > 0) body.rooms = [...this.#rooms];
      this.#write(Op.auth, body, this.#nextSeq());
      if (!current()) return;
      this.#startTimer('connect', this.#options.authTimeout, () => {
        this.#lost(0, `no answer within ${this.#options.authTimeout} ms`);
      });
    };
    ws.onmessage = (event) => {
      if (current()) this.#receive(link, event.data);
    };
    ws.onerror = (event) => {
      link.failure = event?.message || event?.error?.message || ''; // browsers give no reason
    };
    ws.onclose = (event) => {
      if (!current()) return;
      const silent = link.authed ? 'the connection was lost' : 'the server cannot be reached';
      this.#lost(event?.code ?? 1006, event?.reason || link.failure || silent);
    };
  }

  #live(link, body) {
    if (link.authed) return;
    link.authed = true;
    this.#stopTimer('connect');
    this.#tokenRenewed = false;
    const seconds = Number(body?.heartbeat);
    const info = {
      session: String(body?.session ?? ''),
      user: String(body?.user ?? ''),
      heartbeat: seconds > 0 && seconds < MAX_HEARTBEAT ? seconds * 1000 : DEFAULT_HEARTBEAT,
      pending: Number(body?.pending) || 0,
    };
    if (Array.isArray(body?.rooms)) info.rooms = Object.freeze(body.rooms.map(String));
    this.#info = Object.freeze(info);
    const refused = new Map(); // room -> why the server did not let this client in
    if (Array.isArray(body?.refused)) for (const refusal of body.refused) refused.set(String(refusal?.room), refusal);
    this.#startTimer('stable', this.#options.stableAfter, () => {
      this.#attempt = 0;
    });
    this.#startTimer('heartbeat', this.#info.heartbeat, () => this.#beat());
    const ready = this.#ready;
    this.#ready = null;
    for (const waiter of this.#waiters.splice(0)) {
      // The auth packet contained the change of the room.
      if (waiter.op === Op.joinRoom && refused.has(waiter.room)) waiter.reject(denied(refused.get(waiter.room)));
      else waiter.resolve();
    }
    this.#refreshLater(link, body);
    this.#setState('live', this.#info);
    ready?.resolve(this.#info);
    for (const refusal of refused.values()) if (this.#link === link) this.#roomChanged({ ...refusal, joined: false });
    if (this.#link === link) this.#inbox.flush(); // acks that the last connection did not send
  }

  /** Takes note that the server has changed the rooms of this session. */
  #roomChanged(body) {
    const change = { room: String(body?.room ?? ''), joined: body?.joined === true, reason: String(body?.reason ?? '') };
    if (body?.code !== undefined) change.code = String(body.code);
    // A server that could not decide may do so next time.
    if (!change.joined && change.code !== 'unavailable') this.#rooms.delete(change.room);
    this.#emit('room', Object.freeze(change));
  }

  /** Replaces the token before it ends. body is the reply that says when that is. */
  #refreshLater(link, body) {
    const seconds = Number(body?.expires_in);
    if (!(seconds > 0) || typeof this.#options.getToken !== 'function') return;
    let left = seconds * 1000;
    const later = () => {
      // At four fifths of the time that is left: after a failure there is room for another attempt.
      const wait = Math.min(Math.max(left * 0.8, MIN_REFRESH), MAX_TIMER);
      left -= wait;
      this.#startTimer('refresh', wait, refresh);
    };
    const refresh = () => {
      Promise.resolve()
        .then(() => this.#options.getToken())
        .then((token) => {
          if (this.#link !== link) return undefined;
          if (typeof token !== 'string' || token === '') throw new Error('getToken() must give a string that is not empty');
          return this.#call(Op.auth, Op.authReply, { token }, null).then((reply) => {
            this.#token = token;
            this.#refreshLater(link, reply);
          });
        })
        .catch((cause) => {
          if (this.#link !== link) return;
          if (left > 0) later(); // otherwise the server closes the connection if it wants to
          this.#emitError(new ImgoError('token', `the token could not be replaced: ${textOf(cause)}`, { cause }));
        });
    };
    later();
  }

  /**
   * Handles the end of a connection or attempt: refreshes the token, gives up, or schedules a
   * retry.
   */
  #lost(code, reason, reconnect = reconnects(code), addresses = []) {
    const accepted = this.#link?.authed === true;
    this.#drop();
    if (!this.#wanted) return;
    if (code === TOKEN_EXPIRED && typeof this.#options.getToken === 'function' && !this.#tokenRenewed) {
      this.#tokenRenewed = true; // a refusal of the new token is final
      this.#token = null;
      this.#state = 'connecting';
      const attemptId = this.#attemptId;
      this.#emit('disconnect', { code, reason, reconnect: true, retryInMs: 0 });
      if (this.#wanted && attemptId === this.#attemptId) this.#dial();
      return;
    }
    if (!reconnect) {
      const message = `the server refused: ${reason || `close code ${code}`}`;
      this.#finish(new ImgoError('refused', message, { closeCode: code }), true);
      return;
    }
    const sent = Array.isArray(addresses) && addresses.length > 0; // the server named other addresses
    if (sent) this.#route = routeTo(addresses, this.#options.url);
    else if (accepted) this.#route = [];
    // The next address of a round is tried after the shortest backoff. New addresses from a server
    // wait for the full one, because two servers may send clients to each other without end.
    const next = !sent && this.#route.length > 0;
    // Full jitter: after a server failure the reconnects of its clients spread over the window.
    const { backoffBase, backoffCap } = this.#options;
    const window = Math.min(backoffCap, backoffBase * 2 ** (next ? 0 : this.#attempt));
    // If the browser is offline, its online event starts the next attempt. The timer runs too,
    // because loopback addresses need no network.
    const offline = globalThis.navigator?.onLine === false;
    const retryInMs = offline ? backoffCap : Math.floor(Math.random() * window);
    if (!next) this.#attempt++;
    this.#startTimer('retry', retryInMs, () => this.#dial());
    this.#setState('waiting', { attempt: this.#attempt, retryInMs, code, reason });
    this.#emit('disconnect', { code, reason, reconnect: true, retryInMs });
  }

  /** Ends the client: after close(), or if another attempt would not help. */
  #finish(error, failed) {
    this.#inbox.flush();
    this.#wanted = false;
    this.#drop();
    this.#stopTimer('retry');
    this.#unwatch?.();
    this.#unwatch = null;
    this.#inbox.discard();
    if (failed && typeof this.#options.getToken === 'function') this.#token = null;
    const ready = this.#ready;
    this.#ready = null;
    const waiters = this.#waiters.splice(0);
    const code = error.closeCode ?? 0;
    this.#setState('closed', { code, reason: error.message, failed });
    if (failed) {
      this.#emit('disconnect', { code, reason: error.message, reconnect: false, retryInMs: 0 });
      this.#emitError(error);
    }
    for (const waiter of waiters) {
      // The server may have refused this room. It must not fail the next auth too.
      if (failed && waiter.op === Op.joinRoom) this.#rooms.delete(waiter.room);
      waiter.reject(error);
    }
    ready?.reject(error);
  }

  /** Closes the socket. Calls that wait for a reply fail, or wait for the next connection. */
  #drop() {
    this.#attemptId++;
    for (const name of ['connect', 'discover', 'stable', 'heartbeat', 'watchdog', 'refresh']) this.#stopTimer(name);
    this.#asking?.abort();
    this.#asking = null;
    const link = this.#link;
    this.#link = null;
    if (link) {
      const { ws } = link;
      ws.onopen = ws.onmessage = ws.onclose = null;
      ws.onerror = () => {}; // some implementations throw without an error listener
      try {
        ws.close();
      } catch {
        // It never opened, so there is nothing to close.
      }
    }
    for (const call of this.#requests.values()) {
      clearTimeout(call.timer);
      if (call.room !== null) this.#waiters.push(call);
      else call.reject(new ImgoError('lost', 'the connection was lost before the server answered'));
    }
    this.#requests.clear();
    this.#inbox.save();
  }

  #beat() {
    this.#write(Op.heartbeat, undefined, this.#nextSeq());
    this.#startTimer('heartbeat', this.#info.heartbeat, () => this.#beat());
    if (this.#timers.has('watchdog')) return; // the running watchdog must not be delayed
    const timeout = Math.min(this.#options.heartbeatTimeout, this.#info.heartbeat);
    this.#startTimer('watchdog', timeout, () => {
      this.#lost(0, `no sign of the server for ${timeout} ms after a heartbeat`);
    });
  }

  /** Watches for the network or the user to come back. Only browsers have these events. */
  #watchBrowser() {
    const undo = [];
    const listen = (target, event, listener) => {
      if (typeof target?.addEventListener !== 'function') return;
      target.addEventListener(event, listener);
      undo.push(() => target.removeEventListener(event, listener));
    };
    const check = () => {
      if (this.#state === 'live') this.#beat(); // after a laptop's sleep a socket may be dead without an event
    };
    const wake = () => {
      if (this.#state === 'waiting') this.#dial();
      else check();
    };
    const { document } = globalThis;
    listen(globalThis, 'online', wake);
    listen(globalThis, 'offline', check);
    listen(globalThis, 'pagehide', () => this.#inbox.flush());
    listen(document, 'visibilitychange', () => {
      if (document.visibilityState === 'visible') wake();
      else this.#inbox.flush(); // a phone may never run this page again
    });
    this.#unwatch = () => undo.forEach((f) => f());
  }

  // ---------------------------------------------------------------- frames

  #write(op, body, seq) {
    const ws = this.#link?.ws;
    if (!ws || ws.readyState !== 1) return false;
    try {
      ws.send(JSON.stringify({ ver: VERSION, op, seq, body }));
      return true;
    } catch (cause) {
      this.#emitError(new ImgoError('lost', `cannot write to the socket: ${textOf(cause)}`, { cause }));
      return false;
    }
  }

  #nextSeq() {
    this.#seq = (this.#seq % 0x7fffffff) + 1; // an int32; 0 asks for no reply
    return this.#seq;
  }

  #receive(link, data) {
    this.#stopTimer('watchdog'); // any frame shows that the server is alive
    let frames;
    try {
      if (typeof data !== 'string') throw new Error('a binary frame where text was expected');
      frames = JSON.parse(data);
      if (!Array.isArray(frames)) throw new Error('a frame that is not an array');
    } catch (cause) {
      const error = new ImgoError('protocol', `the server does not speak the protocol: ${textOf(cause)}`, { cause });
      this.#emitError(error);
      if (this.#link === link) this.#lost(0, error.message);
      return;
    }
    for (const frame of frames) {
      if (this.#link !== link) return; // a listener closed or replaced the connection
      if (frame !== null && typeof frame === 'object') this.#take(link, frame);
    }
  }

  #take(link, { op, seq, id, body }) {
    if (op === Op.authReply && !link.authed) {
      this.#live(link, body);
    } else if (op === Op.disconnect) {
      const says = typeof body?.reconnect === 'boolean' ? body.reconnect : undefined;
      this.#lost(Number(body?.code) || 0, String(body?.reason ?? ''), says, body?.addresses);
    } else if (!link.authed) {
      return; // ignore everything before the auth reply
    } else if (seq > 0) {
      const call = this.#requests.get(seq); // pushes have seq 0
      if (!call || (op !== call.reply && op !== Op.error)) return;
      this.#requests.delete(seq);
      clearTimeout(call.timer);
      if (op === Op.error) call.reject(denied(body));
      else call.resolve(body);
    } else if (op === Op.roomChanged) {
      this.#roomChanged(body);
    } else if (op === Op.message || op >= 1000) {
      if (!this.#inbox.take(op, id, body)) this.#lost(0, 'the message listeners are too slow');
    }
  }

  /**
   * Sends a request and resolves with the reply. A join or leave without a connection waits for the
   * next auth.
   */
  #call(op, reply, body, room) {
    if (this.#requests.size + this.#waiters.length >= MAX_CALLS) {
      throw new ImgoError('too_many', `${MAX_CALLS} calls wait for an answer already`);
    }
    const call = { op, reply, room, timer: null, ...deferred() };
    const seq = this.#nextSeq();
    if (this.#state === 'live' && this.#write(op, body, seq)) {
      const { requestTimeout } = this.#options;
      call.timer = setTimeout(() => {
        this.#requests.delete(seq);
        const what = room === null ? 'the message' : `the room ${room}`;
        call.reject(new ImgoError('timeout', `no answer about ${what} within ${requestTimeout} ms`));
      }, requestTimeout);
      this.#requests.set(seq, call);
    } else if (room !== null) {
      this.#waiters.push(call);
    } else {
      call.reject(new ImgoError('lost', 'the connection was lost while sending'));
    }
    return call.promise;
  }

  // ------------------------------------------------------- events and timers

  #setState(state, detail) {
    this.#state = state;
    this.#emit('state', { state, ...detail });
  }

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

  #emitError(error) {
    if (this.#listeners.get('error')?.size > 0) this.#emit('error', error);
    else globalThis.console?.error(error); // an error without a listener must stay visible
  }

  #startTimer(name, ms, f) {
    this.#stopTimer(name);
    const run = () => {
      this.#timers.delete(name);
      f();
    };
    this.#timers.set(name, setTimeout(run, ms));
  }

  #stopTimer(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
