/** Definitions that all parts of the client share: operations, errors and message ids. */

/** The operations of the protocol that a client uses. */
export const Op = Object.freeze({
  heartbeat: 2,
  heartbeatReply: 3,
  send: 4,
  message: 5,
  disconnect: 6,
  auth: 7,
  authReply: 8,
  ack: 18,
  joinRoom: 20,
  joinRoomReply: 21,
  leaveRoom: 22,
  leaveRoomReply: 23,
  error: 28,
  roomChanged: 29,
});

/** The protocol version of this client. */
export const VERSION = 2;

/** The close code for an expired token. */
export const TOKEN_EXPIRED = 3502;

const MAX_ROOM_BYTES = 128;

/** The error class of this package. `code` is for programs, `message` for people. */
export class ImgoError extends Error {
  constructor(code, message, { closeCode, serverCode, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'ImgoError';
    this.code = code;
    if (closeCode !== undefined) this.closeCode = closeCode;
    if (serverCode !== undefined) this.serverCode = serverCode;
  }
}

/**
 * Compares two message ids for sorting. Ids are decimal strings of up to 64 bits, which a Number
 * cannot hold exactly.
 */
export function compareIds(a, b) {
  const x = BigInt(a);
  const y = BigInt(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

/** Reports whether a client should reconnect by itself after a close code. */
export function reconnects(code) {
  return !(code >= 3500 && code <= 3999);
}

/** Returns the room, or throws an ImgoError if it is not valid. */
export function checkedRoom(room) {
  const bytes = typeof room === 'string' ? new TextEncoder().encode(room).length : 0;
  if (bytes < 1 || bytes > MAX_ROOM_BYTES) {
    throw new ImgoError('invalid', `a room is a string of 1 to ${MAX_ROOM_BYTES} bytes`);
  }
  return room;
}

/** Returns the error for a call that the server refused. */
export function denied(body) {
  const serverCode = String(body?.code ?? '');
  return new ImgoError('denied', `the server refused: ${body?.reason || serverCode}`, { serverCode });
}

/** Returns the message of any thrown value. */
export function textOf(cause) {
  return cause instanceof Error ? cause.message : String(cause);
}

/** Returns a promise with its resolve and reject functions. */
export function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((a, b) => {
    resolve = a;
    reject = b;
  });
  return { promise, resolve, reject };
}
