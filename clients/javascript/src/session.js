import * as Op from './op.js';
import { ImgoError, MIN_CUSTOM_OP, VERSION, deferred, denied, readId, readIds, sizeOf, textOf, within } from './protocol.js';
import { Timers } from './timers.js';

/** @import { ImgoInfo, Settings, WebSocketLike } from './types.js' */

const DEFAULT_HEARTBEAT = 60_000; // used if the auth reply has none
const MAX_HEARTBEAT = 24 * 3600; // seconds; a timer of 25 days or more would fire at once
const MAX_CALLS = 256; // bound on calls that wait for a reply
const CLOSE_WAIT = 2000; // for the WebSocket's closing handshake
const OPEN = 1; // WebSocket.OPEN
const NO_CODES = [1005, 1006, 1015]; // what a WebSocket says if the server gave no code
/** A body has at most three bytes of UTF-8 for each unit of its text. */
const BYTES_PER_UNIT = 3;

/**
 * Why a session ended. `reconnect` is undefined if only the code tells.
 * @typedef {{ code: number, reason: string, reconnect?: boolean, addresses?: unknown }} End
 */

/**
 * The client of a session. A session calls `ended` at most once, and nothing after it.
 * @typedef {object} Host
 * @property {() => void} opened The socket is open.
 * @property {(info: Readonly<ImgoInfo>, reply: any) => void} accepted
 * @property {(op: number, id: string | null, body: any) => void} message
 * @property {(change: any) => void} roomChanged
 * @property {(ids: string[], upTo: string | null) => void} dismissed
 * @property {(error: ImgoError) => void} error
 * @property {(end: End) => void} ended
 */

/**
 * One connection: its socket, authentication, heartbeats, and calls that wait for a reply.
 */
export class Session {
  /** The largest body that the server takes, in bytes. It is Infinity if the server has not named it. */
  maxBody = Infinity;
  /** @type {WebSocketLike} */
  #ws;
  #settings;
  #host;
  #timers = new Timers();
  #seq = 0;
  /** The id of the published message that was sent last. @type {string | undefined} */
  #published;
  #publishedSeq = 0; // of its packets
  /** @type {Map<number, { what: string, reply: number, timer: ReturnType<typeof setTimeout>, resolve: (body: any) => void, reject: (error: unknown) => void }>} */
  #calls = new Map();
  #live = false;
  #over = false;
  #paused = false;
  #heartbeat = DEFAULT_HEARTBEAT;
  #failure = ''; // what the socket said before it closed
  /** @type {{ promise: Promise<void>, resolve: (value: void) => void }} */
  #socketClosed = deferred();

  /**
   * @param {WebSocketLike} ws
   * @param {() => object} auth makes the body of the auth packet when the socket is open
   * @param {Settings} settings
   * @param {Host} host
   */
  constructor(ws, auth, settings, host) {
    this.#ws = ws;
    this.#settings = settings;
    this.#host = host;
    ws.onopen = () => {
      if (this.#over) return;
      this.#timers.start('auth', settings.authTimeout, () => {
        this.#end({ code: 0, reason: `no auth reply within ${settings.authTimeout} ms` });
      });
      host.opened();
      this.write(Op.auth, auth(), this.#nextSeq());
    };
    ws.onmessage = (event) => {
      if (!this.#over) this.#receive(event.data);
    };
    ws.onerror = (event) => {
      this.#failure = event?.message || event?.error?.message || ''; // browsers give no reason
      // ws closes after such an error, but waits for the server's part of the closing handshake.
      if (String(event?.error?.code).startsWith('WS_ERR_')) this.#broken(event.error);
    };
    ws.onclose = (event) => {
      this.#socketClosed.resolve();
      const silent = this.#live ? 'the connection was lost' : 'the server cannot be reached';
      const code = NO_CODES.includes(event?.code) ? 0 : Number(event?.code) || 0;
      this.#end({ code, reason: event?.reason || this.#failure || silent });
    };
  }

  /** Whether the server has accepted the client on this connection. */
  get live() {
    return this.#live && !this.#over;
  }

  /** Whether this connection can stop reading. */
  get pausable() {
    return typeof this.#ws.pause === 'function' && typeof this.#ws.resume === 'function';
  }

  pause() {
    if (this.#paused || this.#over) return;
    this.#paused = true;
    this.#ws.pause?.();
  }

  resume() {
    if (!this.#paused || this.#over) return;
    this.#paused = false;
    this.#ws.resume?.();
  }

  /** Drops the connection without a word. Open calls fail with the error. @param {ImgoError} error */
  abort(error) {
    if (this.#over) return;
    this.#release(error);
    discard(this.#ws);
  }

  /** Closes the connection in order. Open calls fail with the error. @param {ImgoError} error */
  async close(error) {
    this.resume(); // the peer's part of the closing handshake must be read
    if (this.#over) return;
    this.#release(error);
    try {
      this.#ws.close(1000);
    } catch {
      return; // it never opened
    }
    await within(this.#socketClosed.promise, CLOSE_WAIT);
    discard(this.#ws);
  }

  /**
   * Writes one packet and reports whether that was possible.
   *
   * @param {number} op
   * @param {unknown} body
   * @param {number} seq
   * @param {string} [id]
   */
  write(op, body, seq, id) {
    if (this.#over || this.#ws.readyState !== OPEN) return false;
    try {
      this.#ws.send(JSON.stringify({ ver: VERSION, op, seq, id, body }));
      return true;
    } catch (cause) {
      this.#end({ code: 0, reason: `cannot write to the socket: ${textOf(cause)}` });
      return false;
    }
  }

  /** @param {string} room */
  join(room) {
    return this.call(Op.joinRoom, Op.joinRoomReply, room, `join room ${room}`);
  }

  /** @param {string} room */
  leave(room) {
    return this.call(Op.leaveRoom, Op.leaveRoomReply, room, `leave room ${room}`);
  }

  /**
   * Sends a request and resolves with the body of the reply.
   *
   * @param {number} op
   * @param {number} reply the operation of the reply
   * @param {unknown} body
   * @param {string} what names the call in errors
   * @param {string} [id]
   * @param {boolean} [published] Each try of a published message counts the reply to an earlier one. On a slow network all
   *   replies may be late. A further try writes nothing while the socket has bytes to send.
   * @returns {Promise<any>}
   */
  call(op, reply, body, what, id, published) {
    if (this.#calls.size >= MAX_CALLS) {
      return Promise.reject(new ImgoError('too_many', `${what}: ${MAX_CALLS} calls wait for a reply`));
    }
    const { promise, resolve, reject } = /** @type {ReturnType<typeof deferred<any>>} */ (deferred());
    const again = published && id === this.#published;
    const seq = again ? this.#publishedSeq : this.#nextSeq();
    if (published) [this.#published, this.#publishedSeq] = [id, seq];
    const { requestTimeout } = this.#settings;
    const timer = setTimeout(() => {
      this.#calls.delete(seq);
      reject(new ImgoError('timeout', `${what}: no reply within ${requestTimeout} ms`));
    }, requestTimeout);
    this.#calls.set(seq, { what, reply, timer, resolve, reject });
    if (!(again && this.#ws.bufferedAmount) && !this.write(op, body, seq, id) && this.#calls.delete(seq)) {
      clearTimeout(timer);
      reject(new ImgoError('lost', `${what}: the connection was lost while sending`));
    }
    return promise;
  }

  /** Sends a heartbeat now, and expects a sign of life. */
  beat() {
    if (!this.live) return;
    this.write(Op.heartbeat, undefined, this.#nextSeq());
    if (this.#over) return; // the socket could not write
    this.#beatLater();
    if (!this.#timers.has('silence')) this.#watch(); // a running watch must not be delayed
  }

  /**
   * Starts the time until the next heartbeat. The reply to a heartbeat starts it again: in a hidden page a browser runs a timer
   * that a timer has started only once a minute.
   */
  #beatLater() {
    this.#timers.start('heartbeat', this.#heartbeat, () => this.beat());
  }

  #watch() {
    const { heartbeatTimeout: timeout } = this.#settings;
    const check = () => {
      if (this.#bytesWait()) this.#watch();
      else this.#end({ code: 0, reason: `no sign of the server for ${timeout} ms after a heartbeat` });
    };
    // If this process could not run for a while, its timers come before what the sockets have received.
    this.#timers.start('silence', timeout, () => this.#timers.start('silence', 0, check));
  }

  /** Reports whether the socket has bytes that were not read, because the listeners are slow. */
  #bytesWait() {
    if (!this.#paused) return false;
    // The socket of ws goes on reading into this buffer. Its size is 0 only if nothing has arrived.
    const { _socket: socket } = /** @type {{ _socket?: { readableLength?: number } }} */ (this.#ws);
    return (socket?.readableLength ?? 1) > 0;
  }

  #nextSeq() {
    this.#seq = (this.#seq % 0x7fffffff) + 1; // an int32; 0 asks for no reply
    return this.#seq;
  }

  /** @param {End} end */
  #end(end) {
    if (this.#over) return;
    this.abort(new ImgoError('lost', `the connection was lost before the reply: ${end.reason}`));
    this.#host.ended(end);
  }

  /** Ends timers and calls. The socket is left to the caller. @param {ImgoError} error */
  #release(error) {
    if (this.#over) return;
    this.#over = true;
    this.#timers.stopAll();
    this.#ws.onopen = this.#ws.onmessage = null;
    this.#ws.onclose = () => this.#socketClosed.resolve();
    for (const call of this.#calls.values()) {
      clearTimeout(call.timer);
      call.reject(new ImgoError(error.code, `${call.what}: ${error.message}`));
    }
    this.#calls.clear();
  }

  /** @param {unknown} data */
  #receive(data) {
    this.#timers.stop('silence'); // any frame shows that the server is alive
    try {
      if (typeof data !== 'string') throw new Error('a binary frame where text was expected');
      const frames = JSON.parse(data);
      if (!Array.isArray(frames)) throw new Error('a frame that is not an array');
      const { maxBody } = this.#settings;
      const large = data.length * BYTES_PER_UNIT > maxBody;
      for (const frame of frames) {
        if (this.#over) return; // a listener has closed or replaced the connection
        if (frame === null || typeof frame !== 'object') continue;
        if (large && sizeOf(frame.body) > maxBody) throw new Error(`a body is larger than ${maxBody} bytes (maxBody)`);
        this.#take(frame);
      }
    } catch (cause) {
      this.#broken(cause);
    }
  }

  /** Ends the connection with the error `protocol`. @param {unknown} cause */
  #broken(cause) {
    if (this.#over) return;
    const error = new ImgoError('protocol', `the server broke the protocol: ${textOf(cause)}`, { cause });
    this.#host.error(error);
    this.#end({ code: 0, reason: error.message });
  }

  /** Handles one frame. It throws if the server broke the protocol. */
/** @param {{ op: number, seq: number, id: unknown, body: any }} frame */
  #take({ op, seq, id, body }) {
    if (op === Op.disconnect) {
      const reconnect = typeof body?.reconnect === 'boolean' ? body.reconnect : undefined;
      const code = Number(body?.code) || 0;
      this.#end({ code, reason: String(body?.reason ?? ''), reconnect, addresses: body?.addresses });
    } else if (!this.#live) {
      if (op === Op.authReply) this.#accept(body); // anything else before the auth reply is ignored
    } else if (seq) {
      if (op === Op.heartbeatReply) this.#beatLater();
      const call = this.#calls.get(seq); // pushes have seq 0
      if (!call || (op !== call.reply && op !== Op.refused)) return;
      this.#calls.delete(seq);
      clearTimeout(call.timer);
      if (op === Op.refused) call.reject(denied(call.what, body));
      else call.resolve(body);
    } else if (op === Op.roomChanged) {
      if (typeof body?.room !== 'string') throw new Error('a change of a room without a room');
      this.#host.roomChanged(body);
    } else if (op === Op.dismiss) {
      const empty = JSON.stringify(body ?? {}) === '{}'; // a frame has {} for an empty body
      this.#host.dismissed(empty ? [] : readIds(body), readId(id));
    } else if (op === Op.message || op >= MIN_CUSTOM_OP) {
      this.#host.message(op, readId(id), body);
    }
  }

  /** @param {any} body */
  #accept(body) {
    checkAuthReply(body);
    this.#live = true;
    this.#timers.stop('auth');
    const seconds = Number(body?.heartbeat);
    if (seconds > 0 && seconds < MAX_HEARTBEAT) this.#heartbeat = seconds * 1000;
    this.#beatLater();
    if (body?.max_body > 0) this.maxBody = body.max_body;
    const rooms = Array.isArray(body?.rooms) ? body.rooms.map(String) : [];
    const info = {
      session: String(body?.session ?? ''),
      user: String(body?.user ?? ''),
      heartbeat: this.#heartbeat,
      pending: Number(body?.pending) || 0,
      rooms: Object.freeze(rooms),
    };
    this.#host.accepted(Object.freeze(info), body);
  }
}

/**
 * Throws if the auth reply cannot be read. An old server has an empty one.
 *
 * @param {any} body
 */
function checkAuthReply(body) {
  if (body === undefined || body === null || body === '') return;
  if (typeof body !== 'object' || Array.isArray(body)) throw new Error('the auth reply is no object');
  for (const key of ['heartbeat', 'pending', 'expires_in', 'max_body']) {
    if (body[key] !== undefined && typeof body[key] !== 'number') throw new Error(`${key} of the auth reply is no number`);
  }
  readId(body.published);
}

/**
 * Drops a socket without a word.
 *
 * @param {WebSocketLike} ws
 */
export function discard(ws) {
  ws.onerror = () => {}; // some implementations throw without an error listener
  try {
    if (ws.terminate) ws.terminate();
    else ws.close();
  } catch {
    // It never opened, so there is nothing to close.
  }
}
