/**
 * The driver of this library for the conformance tests (clients/conformance/README.md). It reads
 * commands from standard input and prints events to standard output, one JSON object a line.
 */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { FileOutbox, FileStore } from '../node/file-store.js';
import { ImgoClient, ImgoError } from '../node/imgo.js';

/** @import { ImgoMessage, ImgoOptions, ImgoOutboxMessage } from '../src/types.js' */

/** @param {Record<string, unknown>} event */
const print = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

/** What a client may leave behind: timers and sockets. Standard input and output are pipes. */
const resources = () => process.getActiveResourcesInfo().filter((name) => /^(Timeout|Immediate|TCP|TLS)/.test(name));

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

/** A store whose next saves can fail. */
class FailingStore extends FileStore {
  failures = 0;

  /**
   * @override
   * @param {string[]} ids
   */
  async add(ids) {
    if (this.failures > 0) {
      this.failures--;
      throw new Error('the test wants the store to fail');
    }
    await super.add(ids);
  }
}

/** An outbox whose next changes can fail. */
class FailingOutbox extends FileOutbox {
  failures = 0;

  async #mayFail() {
    if (this.failures === 0) return;
    this.failures--;
    throw new Error('the test wants the outbox to fail');
  }

  /**
   * @override
   * @param {string} base
   */
  async setBase(base) {
    await this.#mayFail();
    await super.setBase(base);
  }

  /**
   * @override
   * @param {ImgoOutboxMessage} message
   */
  async add(message) {
    await this.#mayFail();
    await super.add(message);
  }

  /**
   * @override
   * @param {number} number
   */
  async remove(number) {
    await this.#mayFail();
    await super.remove(number);
  }
}

/** One client and what the commands want of it. */
class Driven {
  /** @type {Record<string, unknown>} */
  #name;
  /** @type {ImgoClient} */
  #client;
  /** @type {FailingStore | undefined} */
  #store;
  /** @type {FailingOutbox | undefined} */
  #outbox;
  /** Calls of the token source. @type {{ resolve: (token: string) => void, reject: (error: Error) => void }[]} */
  #wanted = [];
  #holding = false;
  #permits = 0; // messages that may go on while holding
  /** @type {(() => void)[]} */
  #held = [];
  #failures = 0; // handlers that fail next

  /**
   * @param {string | undefined} name
   * @param {Record<string, any>} options
   */
  constructor(name, options) {
    this.#name = name ? { client: name } : {};
    const client = new ImgoClient(this.#optionsOf(options));
    client.on('state', (event) => {
      /** @type {Record<string, any>} */
      const { retryIn, heartbeat, ...rest } = /** @type {any} */ (event);
      if (retryIn !== undefined) rest.retry_in_ms = retryIn;
      if (heartbeat !== undefined) rest.heartbeat_ms = heartbeat;
      this.#print({ event: 'state', ...rest });
    });
    client.on('room', (change) => this.#print({ event: 'room', ...change }));
    client.on('published', ({ number, body, error }) => {
      const result = error ? { code: error.code, server_code: error.serverCode, message: error.message } : { body: bytesOf(body ?? '') };
      this.#print({ event: 'published', number, ...result });
    });
    client.on('dismiss', ({ ids, upTo }) => this.#print({ event: 'dismiss', ids, up_to: upTo ?? '0' }));
    client.on('error', ({ code, message }) => this.#print({ event: 'error', code, message }));
    client.on('message', (message) => this.#handle(message));
    this.#client = client;
  }

  /** @param {Record<string, unknown>} event */
  #print(event) {
    print({ ...event, ...this.#name });
  }

  /**
   * Returns the options in this language's case. Times are in milliseconds in both.
   *
   * @param {Record<string, any>} given
   * @returns {ImgoOptions}
   */
  #optionsOf(given) {
    /** @type {Record<string, any>} */
    const options = {};
    for (const [name, value] of Object.entries(given)) {
      const key = name.replace(/_ms$/, '').replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
      options[key === 'address' ? 'url' : key] = value;
    }
    const { tokenSource, store, outbox, ca, remember } = options;
    delete options.ca;
    options.log = (/** @type {string} */ level, /** @type {string} */ line) => console.error(level, line);
    if (store !== undefined) options.store = this.#store = new FailingStore(store, { remember });
    if (outbox !== undefined) options.outbox = this.#outbox = new FailingOutbox(outbox);
    delete options.tokenSource;
    if (tokenSource === true) {
      options.tokenSource = () => {
        this.#print({ event: 'token_wanted' });
        return new Promise((resolve, reject) => {
          this.#wanted.push({ resolve, reject });
        });
      };
    }
    if (ca !== undefined) options.wsOptions = { ca: readFileSync(ca) };
    return /** @type {ImgoOptions} */ (options);
  }

  /** @param {ImgoMessage} message */
  async #handle({ id, op, kept, body }) {
    this.#print({ event: 'message', id: id ?? '0', op, kept, body: bytesOf(body) });
    if (this.#holding) {
      if (this.#permits > 0) this.#permits--;
      else await new Promise((resolve) => this.#held.push(() => resolve(undefined)));
    }
    if (this.#failures > 0) {
      this.#failures--;
      throw new Error('the test wants this handler to fail');
    }
    this.#print({ event: 'handled', id: id ?? '0' });
  }

  /** @param {number | undefined} count */
  #release(count) {
    if (count === undefined) {
      this.#holding = false;
      this.#permits = 0;
      for (const goOn of this.#held.splice(0)) goOn();
      return;
    }
    this.#permits += count;
    while (this.#permits > 0 && this.#held.length > 0) {
      this.#permits--;
      this.#held.shift()?.();
    }
  }

  /**
   * Carries out a command, and returns its result.
   *
   * @param {Record<string, any>} command
   * @returns {Promise<Record<string, unknown> | void>}
   */
  async run(command) {
    switch (command.do) {
      case 'connect':
        await this.#client.connect();
        return;
      case 'token': {
        const answer = this.#wanted.shift();
        if (command.error === undefined) answer?.resolve(command.token);
        else answer?.reject(new Error(command.error));
        return;
      }
      case 'join':
        return this.#client.join(command.room);
      case 'leave':
        return this.#client.leave(command.room);
      case 'send': {
        const reply = await this.#client.send(jsonOf(command.body ?? ''), { op: command.op });
        return { body: bytesOf(reply ?? '') };
      }
      case 'publish':
        return { number: await this.#client.publish(jsonOf(command.body ?? ''), { op: command.op }) };
      case 'read':
        return this.#client.read({ ids: command.ids, upTo: command.up_to });
      case 'hold':
        this.#holding = true;
        return;
      case 'release':
        return this.#release(command.count);
      case 'fail':
        this.#failures += command.count ?? 1;
        return;
      case 'fail_store':
        if (this.#store) this.#store.failures += command.count ?? 1;
        return;
      case 'fail_outbox':
        if (this.#outbox) this.#outbox.failures += command.count ?? 1;
        return;
      case 'close':
        return this.#client.close();
      default:
        throw new ImgoError('invalid', `there is no command ${command.do}`);
    }
  }
}

/** @type {Map<string, Driven>} */
const clients = new Map();

/**
 * @param {Record<string, any>} command
 * @returns {Promise<Record<string, unknown> | void>}
 */
async function run(command) {
  const name = command.client ?? '';
  if (command.do === 'threads') return { count: resources().length };
  if (command.do === 'new') {
    clients.set(name, new Driven(name, command.options));
    return;
  }
  const client = clients.get(name);
  if (!client) throw new ImgoError('invalid', `there is no client ${name}: new is the first command`);
  return client.run(command);
}

/**
 * @param {Record<string, any>} command
 * @param {any} error
 */
function failed(command, error) {
  const { serverCode = '', closeCode = 0, message } = error;
  const code = error instanceof ImgoError ? error.code : 'unknown';
  const name = command.client ? { client: command.client } : {};
  print({ event: 'failed', tag: command.tag ?? 0, code, server_code: serverCode, close_code: closeCode, message, ...name });
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const command = JSON.parse(line);
  if (command.do === 'exit') process.exit(0);
  const name = command.client ? { client: command.client } : {};
  run(command).then(
    (result) => {
      if (command.tag !== undefined) print({ event: 'done', tag: command.tag, result: result ?? {}, ...name });
    },
    (error) => {
      if (command.tag !== undefined || command.do === 'new') failed(command, error);
    },
  );
});
lines.on('close', () => process.exit(0));
print({ event: 'ready', language: 'javascript', transports: ['ws', 'wss'], pauses: true, publishes: true });
