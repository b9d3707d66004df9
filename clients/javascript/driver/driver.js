/**
 * The driver of this library for the conformance tests (clients/conformance/README.md). It reads
 * commands from standard input and prints events to standard output, one JSON object a line.
 */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { FileStore } from '../node/file-store.js';
import { ImgoClient, ImgoError } from '../node/imgo.js';

/** @import { ImgoOptions } from '../src/types.js' */

/** @param {Record<string, unknown>} event */
const print = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

/** @type {ImgoClient | null} */
let client = null;
/** Answers of the token source that are wanted. @type {{ resolve: (token: string) => void, reject: (error: Error) => void }[]} */
const wanted = [];
let holding = false;
let permits = 0; // messages that may go on while holding
/** @type {(() => void)[]} */
const held = [];
let failures = 0; // handlers that fail next

/** What a client may leave behind: timers and sockets. Standard input and output are pipes. */
const resources = () => process.getActiveResourcesInfo().filter((name) => /^(Timeout|Immediate|TCP|TLS)/.test(name));

/**
 * @param {unknown} tag
 * @param {any} error
 */
function failed(tag, error) {
  const code = error instanceof ImgoError ? error.code : 'unknown';
  const { serverCode = '', closeCode = 0 } = error;
  print({ event: 'failed', tag: tag ?? 0, code, server_code: serverCode, close_code: closeCode, message: error.message });
}

/**
 * Returns the options in this language's case. Times are in milliseconds in both.
 *
 * @param {Record<string, any>} given
 * @returns {ImgoOptions}
 */
function optionsOf(given) {
  /** @type {Record<string, any>} */
  const options = {};
  for (const [name, value] of Object.entries(given)) {
    const key = name.replace(/_ms$/, '').replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
    options[key === 'address' ? 'url' : key] = value;
  }
  const { tokenSource, store, ca, log } = options;
  delete options.ca;
  delete options.tokenSource;
  delete options.log;
  if (log !== false) options.log = (/** @type {string} */ level, /** @type {string} */ line) => console.error(level, line);
  if (store !== undefined) options.store = new FileStore(store, { remember: options.remember });
  if (tokenSource === true) {
    options.tokenSource = () => {
      print({ event: 'token_wanted' });
      return new Promise((resolve, reject) => {
        wanted.push({ resolve, reject });
      });
    };
  }
  if (ca !== undefined) {
    const trusted = readFileSync(ca);
    options.WebSocket = class extends WebSocket {
      /** @param {string} url */
      constructor(url) {
        super(url, { ca: trusted, perMessageDeflate: false });
      }
    };
  }
  return /** @type {ImgoOptions} */ (options);
}

/** The bytes of a pushed body. JSON is written as the server has it: without spaces. @param {any} body */
function bytesOf(body) {
  if (typeof body?.base64 === 'string' && Object.keys(body).length === 1) return body.base64;
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)).toString('base64');
}

/** @param {string} base64 */
function jsonOf(base64) {
  const text = Buffer.from(base64, 'base64').toString();
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** @param {Record<string, any>} options */
function make(options) {
  const made = new ImgoClient(optionsOf(options));
  made.on('state', (event) => {
    /** @type {Record<string, any>} */
    const { retryIn, heartbeat, ...rest } = /** @type {any} */ (event);
    if (retryIn !== undefined) rest.retry_in_ms = retryIn;
    if (heartbeat !== undefined) rest.heartbeat_ms = heartbeat;
    print({ event: 'state', ...rest });
  });
  made.on('room', (change) => print({ event: 'room', ...change }));
  made.on('error', ({ code, message }) => print({ event: 'error', code, message }));
  made.on('message', async ({ id, op, kept, body }) => {
    print({ event: 'message', id: id ?? '0', op, kept, body: bytesOf(body) });
    if (holding) {
      if (permits > 0) permits--;
      else await new Promise((resolve) => held.push(() => resolve(undefined)));
    }
    if (failures > 0) {
      failures--;
      throw new Error('the test wants this handler to fail');
    }
    print({ event: 'handled', id: id ?? '0' });
  });
  client = made;
}

/** @param {number | undefined} count */
function release(count) {
  if (count === undefined) {
    holding = false;
    permits = 0;
    for (const goOn of held.splice(0)) goOn();
    return;
  }
  permits += count;
  while (permits > 0 && held.length > 0) {
    permits--;
    held.shift()?.();
  }
}

/**
 * Carries out a command, and returns its result.
 *
 * @param {Record<string, any>} command
 */
async function run(command) {
  if (command.do === 'new') return make(command.options);
  if (!client) throw new ImgoError('invalid', 'there is no client: new is the first command');
  switch (command.do) {
    case 'connect':
      await client.connect();
      return undefined;
    case 'token': {
      const answer = wanted.shift();
      if (command.error === undefined) answer?.resolve(command.token);
      else answer?.reject(new Error(command.error));
      return undefined;
    }
    case 'join':
      return client.join(command.room);
    case 'leave':
      return client.leave(command.room);
    case 'send':
      return { body: bytesOf((await client.send(jsonOf(command.body ?? ''), { op: command.op })) ?? {}) };
    case 'hold':
      holding = true;
      return undefined;
    case 'release':
      return release(command.count);
    case 'fail':
      failures += command.count ?? 1;
      return undefined;
    case 'threads':
      return { count: resources().length };
    case 'close':
      return client.close();
    default:
      throw new ImgoError('invalid', `there is no command ${command.do}`);
  }
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const command = JSON.parse(line);
  if (command.do === 'exit') process.exit(0);
  run(command).then(
    (result) => {
      if (command.tag !== undefined) print({ event: 'done', tag: command.tag, result: result ?? {} });
    },
    (error) => {
      if (command.tag !== undefined || command.do === 'new') failed(command.tag, error);
    },
  );
});
lines.on('close', () => process.exit(0));
print({ event: 'ready', language: 'javascript', transports: ['ws', 'wss'] });
