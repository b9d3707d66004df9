/**
 * The types of the client. This module has no code, and no other module loads it.
 *
 * @module
 */

/** @import { ImgoError } from './protocol.js' */

/**
 * Any JSON value.
 * @typedef {null | boolean | number | string | JsonArray | JsonObject} Json
 */
/** @typedef {Json[]} JsonArray */
/** @typedef {{ [key: string]: Json }} JsonObject */

/**
 * One pushed message. It is frozen.
 * @typedef {object} ImgoMessage
 * @property {string | null} id The id of a kept message, a decimal string that grows from message to
 *   message (see compareIds). It is null if the message is not kept.
 * @property {number} op The operation: 5, or the operation from 1000 on that the push named.
 * @property {any} body The pushed JSON value, a string for other text, or `{ base64: "…" }` for other
 *   bytes. It is not checked: give it the type that your backend pushes.
 * @property {boolean} kept Whether the server keeps the message until this device has acknowledged it.
 */

/**
 * What the server returned when it accepted the client.
 * @typedef {object} ImgoInfo
 * @property {string} session The name of the session at the server.
 * @property {string} user The user of the token.
 * @property {number} heartbeat The interval between two heartbeats, in milliseconds.
 * @property {number} pending The number of kept messages that follow.
 * @property {readonly string[]} rooms The rooms that the backend has put the user into.
 */

/**
 * The state of a client.
 *
 * - `idle`: connect() was not called yet.
 * - `connecting`: an attempt is under way.
 * - `live`: the server has accepted the client.
 * - `waiting`: between two attempts.
 * - `closed`: closed by the application, or refused for good. connect() starts again.
 * @typedef {'idle' | 'connecting' | 'live' | 'waiting' | 'closed'} ImgoState
 */

/**
 * A change of state. `retryIn` is in milliseconds. `code` is the close code, or 0 if there is none.
 * `failed` is true if the server refused the client, and false after close().
 * @typedef {(
 *   | { readonly state: 'connecting' }
 *   | ({ readonly state: 'live' } & Readonly<ImgoInfo>)
 *   | { readonly state: 'waiting', readonly retryIn: number, readonly code: number, readonly reason: string }
 *   | { readonly state: 'closed', readonly code: number, readonly reason: string, readonly failed: boolean }
 * )} ImgoStateEvent
 */

/**
 * The server has put this client into a room, has taken it out, or has not let it in.
 * @typedef {object} ImgoRoomEvent
 * @property {string} room
 * @property {boolean} joined
 * @property {string} code Why the server did not let the client in, for programs: `forbidden`,
 *   `too_many` or `unavailable`. Otherwise empty.
 * @property {string} reason For people.
 */

/**
 * A published message has left the outbox: the backend has it, or the server refused it.
 * @typedef {object} ImgoPublishedEvent
 * @property {number} number The number that publish() returned.
 * @property {any} body The body of the reply, a JSON value. It is undefined if the message was refused, or if its reply
 *   was lost and a later session told that it has arrived.
 * @property {ImgoError} [error] `denied`: the server refused the message, and another try would not help.
 */

/**
 * The user has read messages on another device, or the backend has said so.
 * @typedef {object} ImgoDismissEvent
 * @property {readonly string[]} ids These messages were read.
 * @property {string | null} upTo All messages up to this id were read as well, unless it is null.
 */

/**
 * The code of an ImgoError.
 *
 * - `invalid`: an argument or option is wrong. The message names it.
 * - `unsupported`: this runtime lacks what the option needs.
 * - `closed`: the client was closed before the call was complete.
 * - `refused`: the server refused the client for good. `closeCode` has its code.
 * - `denied`: the server refused this call. `serverCode` has its word.
 * - `not_live`: the call needs a live session.
 * - `lost`: the connection was lost before the reply. The effect is unknown.
 * - `timeout`: the reply did not come in time. The effect is unknown.
 * - `too_many`: too many calls are open.
 * - `token`: the token source failed.
 * - `handler`: a listener failed.
 * - `protocol`: the server broke the protocol.
 * - `storage`: the store failed.
 * - `overflow`: a message that is not kept was dropped, because the listeners are too slow. Only where
 *   a WebSocket cannot stop reading, as in browsers.
 * @typedef {'invalid' | 'unsupported' | 'closed' | 'refused' | 'denied' | 'not_live' | 'lost' | 'timeout'
 *   | 'too_many' | 'token' | 'handler' | 'protocol' | 'storage' | 'overflow'} ImgoErrorCode
 */

/**
 * Remembers handled ids across restarts. A store belongs to one client at a time.
 * @typedef {object} ImgoStore
 * @property {() => string[] | Promise<string[]>} load Returns the saved ids, oldest first.
 * @property {(ids: string[]) => void | Promise<void>} add Saves newly handled ids. They are durable
 *   when it returns, or when its promise resolves.
 */

/**
 * A published message that has no reply yet.
 * @typedef {object} ImgoOutboxMessage
 * @property {number} number 1, 2, 3 and so on.
 * @property {number} op
 * @property {any} body A JSON value.
 */

/**
 * What an outbox has. `base` is null before setBase. `last` is the number of the last message that was added, or 0.
 * @typedef {object} ImgoOutboxContent
 * @property {string | null} base
 * @property {number} last
 * @property {readonly ImgoOutboxMessage[]} messages Oldest first.
 */

/**
 * Keeps published messages across restarts. What a method did is durable when it returns, or when its promise
 * resolves. An outbox belongs to one client at a time, and is for one device. It must not be older than what the client has
 * sent: leave it out of back-ups.
 * @typedef {object} ImgoOutbox
 * @property {() => ImgoOutboxContent | Promise<ImgoOutboxContent>} load
 * @property {(base: string) => void | Promise<void>} setBase Keeps a decimal number of 64 bits, in place of an earlier one.
 * @property {(message: ImgoOutboxMessage) => void | Promise<void>} add Adds a message. It replaces the one of the same number
 *   if an add() that failed has left one.
 * @property {(number: number) => void | Promise<void>} remove Removes all messages up to the number.
 */

/**
 * The part of a WebSocket that the client uses. `pause` and `resume` are those of the package `ws`.
 * @typedef {object} WebSocketLike
 * @property {number} readyState
 * @property {number} [bufferedAmount]
 * @property {((event: any) => void) | null} onopen
 * @property {((event: any) => void) | null} onmessage
 * @property {((event: any) => void) | null} onclose
 * @property {((event: any) => void) | null} onerror
 * @property {(data: string) => void} send
 * @property {(code?: number) => void} close
 * @property {() => void} [pause]
 * @property {() => void} [resume]
 * @property {() => void} [terminate]
 */

/**
 * Options of a client. All times are in milliseconds.
 * @typedef {object} ImgoOptions
 * @property {string} url The WebSocket address of the server: ws://host:8090 or wss://… The default
 *   path is /sub.
 * @property {string} [discover] The address of the HTTP API, such as https://host:7172. It may have a
 *   path and a query (…/v1/nodes/best?zone=eu). Before each attempt the client asks it for the best
 *   nodes and tries those first. It uses `url` after them, or if the API does not answer. If `url` is
 *   wss, `discover` must be https.
 * @property {string} [token] The client token. `token` or `tokenSource` is required.
 * @property {() => string | Promise<string>} [tokenSource] Returns a token. The client calls it before
 *   each connection, and before the token of a live session ends. The session then goes on with the
 *   new token. If it fails, the client tries again.
 * @property {string} [device] The name of this device: a cursor of its own in the user's mailbox.
 *   Without it, the session uses the default device of the user.
 * @property {string} [platform] Free text such as "web", which the server shows.
 * @property {string[]} [rooms] Rooms that each session joins.
 * @property {number[]} [accepts] Operations from 1000 on that the client wants.
 * @property {ImgoStore} [store] Remembers handled ids across restarts: LocalStorageStore, FileStore of
 *   imgo-client/file-store, or your own.
 * @property {ImgoOutbox} [outbox] Keeps published messages across restarts: LocalStorageOutbox, FileOutbox of
 *   imgo-client/file-store, or your own. Without it they are in memory. publish() needs `device` as well.
 * @property {number} [minBackoff] The first span of the backoff (500). The wait is a random part of it.
 * @property {number} [maxBackoff] The largest span of the backoff (30000).
 * @property {number} [stableAfter] A session of this length resets the backoff (10000).
 * @property {number} [connectTimeout] For token, discovery and socket together (10000).
 * @property {number} [authTimeout] For the auth reply (40000). Under load the server may queue a
 *   connection for up to 30 s.
 * @property {number} [requestTimeout] For the reply to a call or a published message, and for a call of the
 *   store or the outbox (10000).
 * @property {number} [heartbeatTimeout] The silence after a heartbeat that ends the connection (10000).
 * @property {number} [closeTimeout] How long close() waits for the running listener (10000).
 * @property {number} [ackDelay] The time for which acknowledgements are gathered into a packet (50).
 * @property {number} [queue] How many messages may wait for the listeners (256).
 * @property {number} [remember] How many handled ids are remembered (8192).
 * @property {number} [maxBody] The largest body, in bytes (4194304). A larger one from the server ends the
 *   connection. A larger one is not sent, and neither is one that is larger than the server takes.
 * @property {(level: 'debug' | 'info' | 'warn', line: string) => void} [log] Gets lines for people.
 * @property {new (url: string) => any} [WebSocket] The WebSocket class. Default: in Node that of the
 *   package ws, if it is installed; elsewhere that of the runtime.
 * @property {object} [wsOptions] Options for the WebSocket of the package ws in Node, such as `ca`.
 * @property {typeof globalThis.fetch} [fetch] The fetch function for `discover`. Default: that of the
 *   runtime.
 */

/**
 * Checked options with their defaults.
 * @typedef {ImgoOptions & Required<Pick<ImgoOptions, 'rooms' | 'minBackoff' | 'maxBackoff' | 'stableAfter'
 *   | 'connectTimeout' | 'authTimeout' | 'requestTimeout' | 'heartbeatTimeout' | 'closeTimeout' | 'ackDelay'
 *   | 'queue' | 'remember' | 'maxBody'>>} Settings
 */

/**
 * The listeners of each event.
 *
 * `message` gets one message at a time, in order. All listeners get it. The next message comes when the
 * promises of all have settled. A kept message is acknowledged when all listeners have succeeded. If one
 * throws or rejects, it is not acknowledged, and the server sends it again in the next session. Messages
 * wait while there is no listener.
 *
 * `error` gets failures that no call returns: `token`, `handler`, `protocol`, `storage`, `overflow`.
 * Without a listener and without the option `log` they go to console.error.
 * @typedef {object} ImgoEvents
 * @property {(message: Readonly<ImgoMessage>) => unknown} message
 * @property {(event: ImgoStateEvent) => void} state
 * @property {(event: Readonly<ImgoRoomEvent>) => void} room
 * @property {(event: Readonly<ImgoPublishedEvent>) => void} published
 * @property {(event: Readonly<ImgoDismissEvent>) => void} dismiss
 * @property {(error: ImgoError) => void} error
 */

/**
 * What a client has counted.
 * @typedef {object} ImgoCounts
 * @property {number} received Messages that were queued for the listeners.
 * @property {number} duplicates Repeated kept messages that were recognised.
 * @property {number} dropped Messages for which the queue had no room.
 * @property {number} failed Messages on which a listener failed.
 * @property {number} acked Acknowledgements sent.
 */

export {};
