import { ImgoError, MIN_CUSTOM_OP, checkedName } from './protocol.js';
import { discoverUrl, parsed } from './route.js';
import { MAX_TIMER } from './timers.js';

/** @import { ImgoOptions, Settings } from './types.js' */


/** Name, default and smallest value of each option that is a number. Times are in milliseconds. */
const NUMBERS = /** @type {const} */ ({
  minBackoff: [500, 1],
  maxBackoff: [30_000, 1],
  stableAfter: [10_000, 0],
  connectTimeout: [10_000, 1], // token, discovery and socket together
  authTimeout: [40_000, 1], // under load the server may queue a connection for up to 30 s
  requestTimeout: [10_000, 1],
  heartbeatTimeout: [10_000, 1],
  closeTimeout: [10_000, 0],
  ackDelay: [50, 0],
  queue: [256, 1],
  remember: [8192, 1],
  maxBody: [4 << 20, 1],
});

const FUNCTIONS = /** @type {const} */ (['tokenSource', 'log', 'WebSocket', 'fetch']);
const TEXTS = /** @type {const} */ (['token', 'device', 'platform']);
const OTHERS = ['url', 'discover', 'rooms', 'accepts', 'store', 'outbox', 'wsOptions'];

/**
 * @param {boolean} good
 * @param {string} message
 */
function check(good, message) {
  if (!good) throw new ImgoError('invalid', message);
}

/**
 * Returns the address with the default path.
 *
 * @param {unknown} url
 */
function checkedUrl(url) {
  const at = /^wss?:\/\/[^/?#]/i.test(String(url)) && parsed(String(url));
  if (!at) {
    throw new ImgoError('invalid', 'url must be a WebSocket address such as ws://host:8090/sub');
  }
  if (at.pathname === '/') at.pathname = '/sub';
  at.hash = '';
  return at.href;
}

/**
 * Checks all options and adds the defaults. It throws an ImgoError that names a bad option.
 *
 * @param {ImgoOptions} options
 * @returns {Settings}
 */
export function checkedOptions(options) {
  check(options !== null && typeof options === 'object', 'options must be an object with at least url and token');
  /** @type {Record<string, any>} */
  const given = {};
  for (const [name, value] of Object.entries(options)) {
    const known = name in NUMBERS || [...FUNCTIONS, ...TEXTS, ...OTHERS].includes(name);
    check(known, `${name} is no option of this client`);
    if (value !== undefined) given[name] = value;
  }
  given.url = checkedUrl(given.url);
  for (const [name, [value, least]] of Object.entries(NUMBERS)) {
    const number = (given[name] ??= value);
    const good = Number.isFinite(number) && number >= least && number <= MAX_TIMER;
    check(good, `${name} must be a number from ${least} to ${MAX_TIMER}`);
  }
  for (const name of ['queue', 'remember', 'maxBody']) check(Number.isInteger(given[name]), `${name} must be a whole number`);
  check(given.maxBackoff >= given.minBackoff, 'maxBackoff must be at least minBackoff');
  for (const name of FUNCTIONS) {
    check(given[name] === undefined || typeof given[name] === 'function', `${name} must be a function`);
  }
  if (given.tokenSource === undefined) {
    const good = typeof given.token === 'string' && given.token !== '';
    check(good, 'token (a string) or tokenSource (a function) is required');
  }
  for (const name of ['device', 'platform']) if (given[name] !== undefined) checkedName(name, given[name]);
  given.rooms ??= [];
  check(Array.isArray(given.rooms), 'rooms must be an array of names');
  given.rooms = given.rooms.map((/** @type {unknown} */ room) => checkedName('each of rooms', room));
  if (given.accepts !== undefined) {
    const good = Array.isArray(given.accepts) && given.accepts.every(isCustomOp);
    check(good, `accepts must be an array of whole numbers from ${MIN_CUSTOM_OP} on`);
  }
  const { store } = given;
  const stores = store === undefined || (typeof store?.load === 'function' && typeof store?.add === 'function');
  check(stores, 'store must have the methods load and add');
  const { outbox } = given;
  const outboxes = outbox === undefined || ['load', 'setBase', 'add', 'remove'].every((name) => typeof outbox?.[name] === 'function');
  check(outboxes, 'outbox must have the methods load, setBase, add and remove');
  if (given.discover !== undefined) {
    given.discover = discoverUrl(given.discover, given.url);
    given.fetch ??= globalThis.fetch?.bind(globalThis);
    if (!given.fetch) throw new ImgoError('unsupported', 'discover needs fetch: pass one as the option fetch');
  }
  return /** @type {Settings} */ (given);
}

/**
 * Reports whether an application may use the operation.
 *
 * @param {unknown} op
 */
export function isCustomOp(op) {
  return Number.isInteger(op) && Number(op) >= MIN_CUSTOM_OP && Number(op) <= MAX_TIMER;
}
