/** What every part of the client shares: operations, errors, message ids. */

/** The operations of the protocol that a client meets. */
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
});

/** The version of the protocol that this client asks for. */
export const VERSION = 2;

/** The close code of a token that was good once. */
export const TOKEN_EXPIRED = 3502;

const MAX_ROOM_BYTES = 128;

/** Every error of this package. `code` is for programs, `message` for people. */
export class ImgoError extends Error {
  constructor(code, message, { closeCode, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'ImgoError';
    this.code = code;
    if (closeCode !== undefined) this.closeCode = closeCode;
  }
}

/**
 * Compares two message ids (decimal strings of up to 64 bits, too large for a
 * Number): negative, zero or positive, as a sort function wants it.
 */
export function compareIds(a, b) {
  const x = BigInt(a);
  const y = BigInt(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

/** Says whether a client should come back by itself after a close code. */
export function reconnects(code) {
  return !(code >= 3500 && code <= 3999);
}

/** Gives the room back, or throws what is wrong with it. */
export function checkedRoom(room) {
  const bytes = typeof room === 'string' ? new TextEncoder().encode(room).length : 0;
  if (bytes < 1 || bytes > MAX_ROOM_BYTES) {
    throw new ImgoError('invalid', `a room is a string of 1 to ${MAX_ROOM_BYTES} bytes`);
  }
  return room;
}

/** The words of whatever was thrown. */
export function textOf(cause) {
  return cause instanceof Error ? cause.message : String(cause);
}

/** A promise and what settles it. */
export function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((a, b) => {
    resolve = a;
    reject = b;
  });
  return { promise, resolve, reject };
}
