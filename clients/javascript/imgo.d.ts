/** Types of the imgo client. README.md has a first example. */

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** One pushed message. Frozen. */
export interface ImgoMessage {
  /**
   * The id in the user's mailbox, a decimal string that grows from message to
   * message (compareIds); null when the message is not kept.
   */
  readonly id: string | null;
  /** 5, or the operation from 1000 up that the push named. */
  readonly op: number;
  /**
   * The body: the JSON value that was pushed, a string when it was text, and
   * { base64: "…" } when it was neither.
   */
  readonly body: Json;
  /** Whether the server keeps the message until this device has acknowledged it. */
  readonly kept: boolean;
}

/** What the server said when it accepted the client. */
export interface ImgoInfo {
  /** The server's name for this session; empty when it gave none. */
  readonly session: string;
  /** The user that the token stands for; empty when the server did not say. */
  readonly user: string;
  /** How often the client gives a sign of life, in milliseconds. */
  readonly heartbeat: number;
  /** How many kept messages were waiting for this device. */
  readonly pending: number;
}

export type ImgoState =
  /** Made, and connect() was not called yet. */
  | 'idle'
  /** An attempt is under way. */
  | 'connecting'
  /** Accepted by the server. */
  | 'live'
  /** Between two attempts. */
  | 'waiting'
  /** close() was called, or the server refused for good. connect() starts anew. */
  | 'closed';

export type ImgoStateEvent =
  | { readonly state: 'connecting'; /** Attempts since the last stable connection. */ readonly attempt: number }
  | ({ readonly state: 'live' } & ImgoInfo)
  | {
      readonly state: 'waiting';
      readonly attempt: number;
      /** Milliseconds until the next attempt. */
      readonly retryInMs: number;
      /** The close code, 0 when the client itself gave the connection up. */
      readonly code: number;
      readonly reason: string;
    }
  | {
      readonly state: 'closed';
      readonly code: number;
      readonly reason: string;
      /** False after close(), true when the server refused for good. */
      readonly failed: boolean;
    };

export interface ImgoDisconnect {
  /** Of op 6 or the WebSocket; 0 when the client itself gave the connection up. */
  readonly code: number;
  readonly reason: string;
  /** Whether the client comes back by itself. */
  readonly reconnect: boolean;
  /** In how many milliseconds. */
  readonly retryInMs: number;
}

export type ImgoErrorCode =
  /** An argument is wrong; the message names it. */
  | 'invalid'
  /** No WebSocket class in this runtime, and none was passed. */
  | 'unsupported'
  /** close() was called before this was done. */
  | 'closed'
  /** The server said not to come back; closeCode has its code. */
  | 'refused'
  /** The operation needs a live connection. */
  | 'not_live'
  /** The connection was lost on the way. */
  | 'lost'
  /** The server did not answer in time. */
  | 'timeout'
  /** Too many join, leave and send calls wait for an answer. */
  | 'too_many'
  /** getToken failed; cause has its error. */
  | 'token'
  /** A listener threw or rejected; cause has its error. */
  | 'handler'
  /** The server sent what the protocol does not have. */
  | 'protocol'
  /** The storage refused to take the handled ids. */
  | 'storage';

export class ImgoError extends Error {
  constructor(code: ImgoErrorCode, message: string, details?: { closeCode?: number; cause?: unknown });
  readonly code: ImgoErrorCode;
  readonly closeCode?: number;
  readonly cause?: unknown;
}

/** The part of localStorage that the client uses. */
export interface ImgoStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

export interface ImgoOptions {
  /** The server's WebSocket address: ws://host:8090/sub or wss://… */
  url: string;
  /**
   * The server's API, https://host:7172 or with path and query
   * (…/v1/nodes/best?zone=eu): asked before every attempt which nodes are best,
   * and those are tried first. Where it does not answer in time, and after
   * them, url counts. Must be https where url is wss.
   */
  discover?: string;
  /** The fetch for discover; the runtime's own unless given. */
  fetch?: typeof fetch;
  /** For the answer to discover, milliseconds (3000). */
  discoverTimeout?: number;
  /** The client token. Without it getToken is asked before the first attempt. */
  token?: string;
  /**
   * Makes a token. Asked once when the server says that the token has expired
   * (3502); a second such answer in a row is final. When it rejects, the client
   * tries again with backoff, or ends if the error has `final: true`.
   */
  getToken?: () => string | Promise<string>;
  /**
   * This device's name: it gets what the user's other devices have read
   * already. Without one, the session shares the user's default cursor.
   */
  device?: string;
  /** Free text such as "web" or "ios", shown by the server's API. */
  platform?: string;
  /** Rooms to be in, each 1 to 128 bytes. */
  rooms?: string[];
  /** Operations from 1000 up that this client accepts. */
  accepts?: number[];

  /** The WebSocket class; the runtime's own unless given (Node 20 has none). */
  WebSocket?: new (url: string) => any;
  /**
   * Remembers which ids were handled, for instance window.localStorage, so
   * that a message is not handled twice across a reload. One client at a time
   * may use a key.
   */
  storage?: ImgoStorage;
  /** The key in storage. Give one that names the user if users share a browser. */
  storageKey?: string;

  /** First window of the backoff, milliseconds (500). A wait is random between 0 and the window. */
  backoffBase?: number;
  /** Largest window, milliseconds (30000). */
  backoffCap?: number;
  /** A connection that lived so long starts the backoff anew, milliseconds (10000). */
  stableAfter?: number;
  /** For token and socket together, milliseconds (10000). */
  connectTimeout?: number;
  /**
   * For the answer to the auth packet, milliseconds (40000): where many connect
   * at once the server has each wait for its turn, for up to 30 s.
   */
  authTimeout?: number;
  /** Silence after a heartbeat that ends the connection, milliseconds (10000). */
  heartbeatTimeout?: number;
  /** For the reply to join(), leave() and send(), milliseconds (10000). */
  requestTimeout?: number;
  /** How long acknowledgements are gathered, milliseconds (50). */
  ackDelay?: number;
  /** Acknowledgements in one frame (500). */
  ackBatch?: number;
  /** How many handled ids are remembered (4096). More than the server's bound on a mailbox. */
  seenLimit?: number;
  /**
   * How many messages may wait for the listeners (10000). Beyond it messages
   * that are not kept are dropped and counted, and a kept one ends the
   * connection: it comes again, in its place, after the reconnect.
   */
  inboxLimit?: number;
}

export interface ImgoCounts {
  /** Messages that went to the listeners. */
  readonly received: number;
  /** Kept messages that came again and were recognised. */
  readonly duplicates: number;
  /** Messages for which the inbox had no room. */
  readonly dropped: number;
  /** Messages on which a listener failed. */
  readonly failed: number;
  /** Acknowledgements sent. */
  readonly acked: number;
}

export interface ImgoEvents {
  /**
   * A message. Messages come one at a time and in order: a listener that
   * returns a promise holds up the next. A kept message is acknowledged when
   * all listeners are done; when one throws or rejects it is not, and the
   * server sends it again at the next session. Without any listener messages wait.
   */
  message: (message: ImgoMessage) => unknown;
  /** The state changed. */
  state: (event: ImgoStateEvent) => void;
  /** A connection, or an attempt at one, ended other than by close(). */
  disconnect: (event: ImgoDisconnect) => void;
  /** Something went wrong; without a listener it goes to console.error. */
  error: (error: ImgoError) => void;
}

export class ImgoClient {
  /** Throws ImgoError 'invalid' or 'unsupported'. Does not connect. */
  constructor(options: ImgoOptions);

  readonly state: ImgoState;
  /** What the server said when it last accepted this client; null before. */
  readonly info: ImgoInfo | null;
  /** The rooms that the client is in, or will be when it is live. */
  readonly rooms: string[];
  /** The highest id that the listeners were done with; null before one. */
  readonly lastId: string | null;
  readonly counts: ImgoCounts;

  /** Adds a listener; the function that comes back takes it away again. */
  on<E extends keyof ImgoEvents>(event: E, listener: ImgoEvents[E]): () => void;
  off<E extends keyof ImgoEvents>(event: E, listener: ImgoEvents[E]): void;

  /**
   * Connects, and stays connected until close(). The promise is for the next
   * time the client is live: it waits through failed attempts, and rejects
   * with ImgoError 'refused', 'token', 'invalid' or 'closed'. It need not be
   * taken. While waiting for an attempt: makes it now.
   */
  connect(): Promise<ImgoInfo>;

  /**
   * Ends the connection and stays away. Acknowledgements that are due are
   * sent first; kept messages that no listener has had come again later.
   */
  close(): void;

  /**
   * Joins a room, now and after every reconnect. Resolves when the server has
   * it; before connect() and after close() at once.
   */
  join(room: string): Promise<void>;
  leave(room: string): Promise<void>;

  /**
   * Sends a message upstream, to the business system behind the server.
   * Resolves when the server has it. It is not sent again after a lost
   * connection: rejects with 'not_live', 'invalid' and 'too_many' (not sent),
   * or 'lost' and 'timeout' (nobody knows). op: 4 (default) or from 1000 up.
   */
  send(body: Json, options?: { op?: number }): Promise<void>;

  /** Forgets which ids were handled: for a server whose data was wiped. */
  forget(): void;
}

/** Compares two ids as a sort function wants it. */
export function compareIds(a: string, b: string): -1 | 0 | 1;

/** Whether a client should come back by itself after a close code. */
export function reconnects(code: number): boolean;

/** The operations of the protocol that a client meets. */
export const Op: Readonly<{
  heartbeat: 2;
  heartbeatReply: 3;
  send: 4;
  message: 5;
  disconnect: 6;
  auth: 7;
  authReply: 8;
  ack: 18;
  joinRoom: 20;
  joinRoomReply: 21;
  leaveRoom: 22;
  leaveRoomReply: 23;
}>;
