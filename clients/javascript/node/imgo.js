/**
 * The client for Node: that of src/imgo.js, with the WebSocket of the package ws if it is installed.
 * With ws the client stops reading while its listeners are slow. The WebSocket of Node 22 cannot.
 *
 * @module
 */
import { ImgoError, ImgoClient as Client } from '../src/imgo.js';

/** @import { WebSocketLike } from '../src/types.js' */

export { ImgoError, LocalStorageOutbox, LocalStorageStore, compareIds } from '../src/imgo.js';
/**
 * @typedef {import('../src/types.js').ImgoCounts} ImgoCounts
 * @typedef {import('../src/types.js').ImgoDismissEvent} ImgoDismissEvent
 * @typedef {import('../src/types.js').ImgoErrorCode} ImgoErrorCode
 * @typedef {import('../src/types.js').ImgoEvents} ImgoEvents
 * @typedef {import('../src/types.js').ImgoInfo} ImgoInfo
 * @typedef {import('../src/types.js').ImgoMessage} ImgoMessage
 * @typedef {import('../src/types.js').ImgoOptions} ImgoOptions
 * @typedef {import('../src/types.js').ImgoOutbox} ImgoOutbox
 * @typedef {import('../src/types.js').ImgoOutboxContent} ImgoOutboxContent
 * @typedef {import('../src/types.js').ImgoOutboxMessage} ImgoOutboxMessage
 * @typedef {import('../src/types.js').ImgoPublishedEvent} ImgoPublishedEvent
 * @typedef {import('../src/types.js').ImgoRoomEvent} ImgoRoomEvent
 * @typedef {import('../src/types.js').ImgoState} ImgoState
 * @typedef {import('../src/types.js').ImgoStateEvent} ImgoStateEvent
 * @typedef {import('../src/types.js').ImgoStore} ImgoStore
 * @typedef {import('../src/types.js').Json} Json
 */

/** Escapes and base64 make a frame larger than its bodies, and a frame may have several of them. */
const FRAME = 8;
const CLOSE_TIMEOUT = 2000; // for the server to end a connection that it has closed

/** A client of one user. Methods may be called at any time, also from event listeners. */
export class ImgoClient extends Client {
  /**
   * @protected
   * @override
   * @param {string} url
   * @param {ImgoOptions} options
   * @returns {Promise<WebSocketLike>}
   */
  async openSocket(url, options) {
    if (options.WebSocket) return super.openSocket(url, options);
    const ws = await import('ws').catch(() => null);
    if (ws) {
      const maxPayload = Math.max(FRAME * Number(options.maxBody), 4 << 20);
      const wsOptions = { perMessageDeflate: false, maxPayload, closeTimeout: CLOSE_TIMEOUT, ...options.wsOptions };
      return new ws.WebSocket(url, wsOptions);
    }
    if (globalThis.WebSocket) return super.openSocket(url, options);
    throw new ImgoError('unsupported', 'this Node has no WebSocket: npm install ws, or pass a class as the option WebSocket');
  }
}
