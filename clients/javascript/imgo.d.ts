/** Types of the imgo client. README.md has an example. */

/** Any JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** One pushed message. Frozen. */
export interface ImgoMessage {
  /**
   * The id of a kept message: a decimal string that grows from message to message (see compareIds).
   * It is null if the message is not kept.
   */
  readonly id: string | null;
  /** The operation: 5, or the operation from 1000 that the push named. */
  readonly op: number;
  /**
   * The body: the pushed JSON value, a string for other text, or { base64: "…" } for other bytes.
   */
  readonly body: Json;
  /** Whether the server keeps the message until this device has acknowledged it. */
  readonly kept: boolean;
}

/** What the server returned when it accepted the client. */
export interface ImgoInfo {
  /** The name of the session at the server; empty if it returned none. */
  readonly session: string;
  /** The user of the token; empty if the server did not return it. */
  readonly user: string;
  /** The interval between two heartbeats, in milliseconds. */
  readonly heartbeat: number;
  /** The number of kept messages that were waiting for this device. */
  readonly pending: number;
  /** The rooms that the backend has put the user into. */
  readonly rooms?: readonly string[];
}

/** The server has put this client into a room, or has taken it out, or has not let it in. */
export interface ImgoRoomChange {
  readonly room: string;
  readonly joined: boolean;
  /** Why, for people. */
  readonly reason: string;
  /** Why the server did not let the client in, for programs: "forbidden", "too_many" or "unavailable". */
  readonly code?: string;
}

export type ImgoState =
  /** connect() was not called yet. */
  | 'idle'
  /** An attempt is under way. */
  | 'connecting'
  /** Accepted by the server. */
  | 'live'
  /** Between two attempts. */
  | 'waiting'
  /** close() was called, or the server refused the client. connect() starts again. */
  | 'closed';

export type ImgoStateEvent =
  | { readonly state: 'connecting'; /** Attempts since the last stable connection. */ readonly attempt: number }
  | ({ readonly state: 'live' } & ImgoInfo)
  | {
      readonly state: 'waiting';
      readonly attempt: number;
      /** Milliseconds until the next attempt. */
      readonly retryInMs: number;
      /** The close code; 0 if the client itself ended the connection. */
      readonly code: number;
      readonly reason: string;
    }
  | {
      readonly state: 'closed';
      readonly code: number;
      readonly reason: string;
      /** True if the server refused the client, false after close(). */
      readonly failed: boolean;
    };

export interface ImgoDisconnect {
  /** The code of op 6 or of the WebSocket; 0 if the client itself ended the connection. */
  readonly code: number;
  readonly reason: string;
  /** Whether the client reconnects by itself. */
  readonly reconnect: boolean;
  /** Milliseconds until the next attempt. */
  readonly retryInMs: number;
}

export type ImgoErrorCode =
  /** An argument is wrong; the message names it. */
  | 'invalid'
  /** The runtime has no WebSocket class, and none was passed. */
  | 'unsupported'
  /** close() was called before the operation was complete. */
  | 'closed'
  /** The server refused a reconnect. closeCode has its code. */
  | 'refused'
  /** The server refused this call; the connection goes on. serverCode says why, for programs. */
  | 'denied'
  /** The operation needs a live connection. */
  | 'not_live'
  /** The connection was lost before the reply. */
  | 'lost'
  /** The server did not answer in time. */
  | 'timeout'
  /** Too many join, leave and send calls wait for a reply. */
  | 'too_many'
  /** getToken failed. cause has its error. */
  | 'token'
  /** A listener threw or rejected. cause has its error. */
  | 'handler'
  /** The server violated the protocol. */
  | 'protocol'
  /** The storage failed to save the handled ids. */
  | 'storage';

export class ImgoError extends Error {
  constructor(code: ImgoErrorCode, message: string, details?: { closeCode?: number; serverCode?: string; cause?: unknown });
  readonly code: ImgoErrorCode;
  readonly closeCode?: number;
  /** For 'denied': "forbidden", "too_many", "unsupported", "unavailable" or another word of the protocol. */
  readonly serverCode?: string;
  readonly cause?: unknown;
}

/** The part of localStorage that the client uses. */
export interface ImgoStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

export interface ImgoOptions {
  /** The WebSocket address of the server: ws://host:8090/sub or wss://… */
  url: string;
  /**
   * The address of the HTTP API, such as https://host:7172. It may have a path and a query
   * (…/v1/nodes/best?zone=eu). Before every attempt the client asks it for the best nodes and tries
   * those first. The client uses url after them, or if the API does not answer in time. If url is
   * wss, discover must be https.
   */
  discover?: string;
  /** The fetch function for discover. Default: that of the runtime. */
  fetch?: typeof fetch;
  /** Limit for the answer to discover, in milliseconds (3000). */
  discoverTimeout?: number;
  /** The client token. If it is missing, getToken is called before the first attempt. */
  token?: string;
  /**
   * Returns a token. The client calls it again before the token of its connection ends, and the
   * connection goes on with the new one. It also calls it when the server reports an expired token
   * (3502). A second such report in a row is final. If it rejects while the client connects, the
   * client retries with backoff, or ends if the error has `final: true`.
   */
  getToken?: () => string | Promise<string>;
  /**
   * The name of this device. Each device receives kept messages independently of the user's other
   * devices. Without a name, the session uses the default device of the user.
   */
  device?: string;
  /** Free text such as "web" or "ios", which the API of the server shows. */
  platform?: string;
  /** Rooms to join, each 1 to 128 bytes. */
  rooms?: string[];
  /** Operations from 1000 that this client wants to receive. */
  accepts?: number[];

  /** The WebSocket class. Default: that of the runtime (Node 20 has none). */
  WebSocket?: new (url: string) => any;
  /**
   * Stores the handled ids, for instance window.localStorage. Messages are then not handled twice
   * after a reload. Only one client at a time may use a key.
   */
  storage?: ImgoStorage;
  /** The key in storage. It should name the user if several users share a browser. */
  storageKey?: string;

  /**
   * First window of the backoff, in milliseconds (500). The wait is a random part of the window.
   */
  backoffBase?: number;
  /** Largest window of the backoff, in milliseconds (30000). */
  backoffCap?: number;
  /**
   * Length of a connection after which the backoff starts again at its first window, in
   * milliseconds (10000).
   */
  stableAfter?: number;
  /** Limit for token and socket together, in milliseconds (10000). */
  connectTimeout?: number;
  /**
   * Limit for the auth reply, in milliseconds (40000). Under load the server may queue a connection
   * for up to 30 s.
   */
  authTimeout?: number;
  /** The client reconnects after this silence following a heartbeat, in milliseconds (10000). */
  heartbeatTimeout?: number;
  /** Limit for the reply to join(), leave() and send(), in milliseconds (10000). */
  requestTimeout?: number;
  /** Time for which acknowledgements are gathered into one frame, in milliseconds (50). */
  ackDelay?: number;
  /** Largest number of acknowledgements in one frame (500). */
  ackBatch?: number;
  /** Number of remembered handled ids (4096). It should exceed the server's bound on a mailbox. */
  seenLimit?: number;
  /**
   * Number of messages that may wait for the listeners (10000). If it is reached, messages that are
   * not kept are dropped and counted. A kept message then ends the connection, and comes again in
   * its order after the reconnect.
   */
  inboxLimit?: number;
}

export interface ImgoCounts {
  /** Messages that were queued for the listeners. */
  readonly received: number;
  /** Repeated kept messages that were recognised. */
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
   * A message. Messages come one at a time and in order. The promise of a listener delays the next
   * message. A kept message is acknowledged when all listeners are done. If one throws or rejects,
   * it is not acknowledged, and the server sends it again in the next session. Messages wait while
   * there is no listener.
   */
  message: (message: ImgoMessage) => unknown;
  /** The state changed. */
  state: (event: ImgoStateEvent) => void;
  /** A connection or an attempt ended, except by close(). */
  disconnect: (event: ImgoDisconnect) => void;
  /** The server has changed the rooms of this client. */
  room: (change: ImgoRoomChange) => void;
  /** A failure. Without a listener it goes to console.error. */
  error: (error: ImgoError) => void;
}

export class ImgoClient {
  /** Throws ImgoError 'invalid' or 'unsupported'. It does not connect yet. */
  constructor(options: ImgoOptions);

  readonly state: ImgoState;
  /** What the server returned when it last accepted this client; null before that. */
  readonly info: ImgoInfo | null;
  /** The rooms that the client is in, or will join with the next connection. */
  readonly rooms: string[];
  /** The highest handled id; null before the first. */
  readonly lastId: string | null;
  readonly counts: ImgoCounts;

  /** Adds a listener. The returned function removes it. */
  on<E extends keyof ImgoEvents>(event: E, listener: ImgoEvents[E]): () => void;
  off<E extends keyof ImgoEvents>(event: E, listener: ImgoEvents[E]): void;

  /**
   * Connects, and stays connected until close(). While the client waits for the next attempt,
   * connect() starts it now.
   *
   * The promise resolves when the client is live, even after failed attempts. It rejects with
   * ImgoError 'refused', 'token', 'invalid' or 'closed'. The caller may ignore it.
   */
  connect(): Promise<ImgoInfo>;

  /**
   * Ends the connection and stops reconnecting. Due acknowledgements are sent first. Kept messages
   * that no listener has received come again later.
   */
  close(): void;

  /**
   * Joins a room, now and after every reconnect. It resolves when the server has confirmed it.
   * Before connect() and after close() it resolves at once. It rejects with 'denied' if the server
   * does not let the client in.
   */
  join(room: string): Promise<void>;
  leave(room: string): Promise<void>;

  /**
   * Sends a message to the business system behind the server. Today's servers pass nothing on: they
   * refuse every message, and the promise rejects with 'denied' and the serverCode 'unsupported'.
   *
   * It rejects with 'not_live', 'invalid' or 'too_many' if the message was not sent, and with 'lost'
   * or 'timeout' if the result is unknown. op is 4 (the default) or from 1000.
   */
  send(body: Json, options?: { op?: number }): Promise<void>;

  /** Forgets all handled ids. Use it if the data of the server was deleted. */
  forget(): void;
}

/** Compares two message ids for sorting. */
export function compareIds(a: string, b: string): -1 | 0 | 1;

/** Reports whether a client should reconnect by itself after a close code. */
export function reconnects(code: number): boolean;

/** The operations of the protocol that a client uses. */
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
  error: 28;
  roomChanged: 29;
}>;
