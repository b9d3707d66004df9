import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient, LocalStorageOutbox } from '../src/imgo.js';
import { FakeWebSocket, settle, tick } from './fakes.js';

/** A client that notes what it says. */
function client(options = {}) {
  const c = new ImgoClient({ url: 'ws://h/sub', token: 't', device: 'd', WebSocket: FakeWebSocket, ...options });
  const log = [];
  c.on('published', ({ number, body, error }) => log.push(error ? `${number} ${error.code}` : `${number} ${JSON.stringify(body)}`));
  c.on('error', (error) => log.push(`error ${error.code}`));
  return { c, log };
}

/** Accepts the connection of the client, and returns its socket. */
async function accept(reply = {}) {
  const ws = FakeWebSocket.last();
  ws.accept({ heartbeat: 3600, ...reply });
  await settle();
  return ws;
}

async function live(options, reply) {
  const all = client(options);
  all.c.connect();
  await settle();
  return { ...all, ws: await accept(reply) };
}

/** Loses the connection and is live again, on a new socket. */
async function comeBack(reply) {
  FakeWebSocket.last().drop();
  await tick(30_000);
  return accept(reply);
}

/** What was sent as op 4. */
const sent = (ws) => ws.of(4).map(({ id, body }) => `${id} ${JSON.stringify(body)}`);

async function answer(ws, body = {}) {
  const { op, seq } = ws.sent.at(-1);
  ws.frames({ ver: 2, op, seq, id: '0', body });
  await settle();
}

async function refuse(ws, body) {
  ws.frames({ ver: 2, op: 28, seq: ws.sent.at(-1).seq, id: '0', body: { op: 4, reason: 'r', ...body } });
  await settle();
}

class Storage {
  items = new Map();

  getItem(key) {
    return this.items.get(key) ?? null;
  }

  setItem(key, value) {
    if (this.full) throw new Error('the quota is exceeded');
    this.items.set(key, value);
  }
}

beforeEach(() => {
  FakeWebSocket.sockets = [];
  FakeWebSocket.refuse = null;
  mock.timers.enable({ apis: ['setTimeout'] });
  mock.method(Math, 'random', () => 0.5);
  mock.method(Date, 'now', () => 0); // so that ids begin above what the server has
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

describe('published messages', () => {
  test('go one at a time, with ids that count from what the device published before', async () => {
    const { c, ws, log } = await live({}, { published: '41' });
    const numbers = await Promise.all([c.publish('a'), c.publish({ b: 1 }), c.publish('c', { op: 1000 })]);
    assert.deepEqual(numbers, [1, 2, 3]);
    await settle();
    assert.deepEqual(sent(ws), ['42 "a"']);
    await answer(ws, { ok: true });
    assert.deepEqual(log, ['1 {"ok":true}']);
    assert.deepEqual(sent(ws), ['42 "a"', '43 {"b":1}']);
    await answer(ws);
    assert.deepEqual(ws.sent.at(-1).op, 1000);
    assert.deepEqual(ws.sent.at(-1).id, '44');
    await answer(ws, 'last');
    assert.deepEqual(log, ['1 {"ok":true}', '2 {}', '3 "last"']);
    await c.close();
  });

  test('wait for a connection, and do not change with the value that was given', async () => {
    const { c, log } = client();
    const body = { n: 1 };
    assert.equal(await c.publish(body), 1);
    body.n = 2;
    c.connect();
    await settle();
    const ws = await accept();
    assert.deepEqual(sent(ws), ['1 {"n":1}']);
    await answer(ws);
    assert.deepEqual(log, ['1 {}']);
    await c.close();
  });

  test('ids have 64 bits', async () => {
    const { c, ws } = await live({}, { published: '9223372036854775807' });
    await c.publish(1);
    await settle();
    assert.deepEqual(sent(ws), ['9223372036854775808 1']);
    await c.close();
    const last = await live({}, { published: '18446744073709551615' });
    await last.c.publish(1);
    await settle();
    assert.deepEqual([last.log, sent(last.ws)], [['1 denied'], []]);
    await last.c.close();
  });

  for (const [published, base] of [[undefined, 5_000_000], ['41', 5_000_000], ['5000001', 5_000_001]]) {
    test(`have ids above the clock in microseconds and ${published} of the server`, async () => {
      Date.now.mock.mockImplementation(() => 5000);
      const { c, ws } = await live({}, { published });
      await c.publish('a');
      await settle();
      assert.deepEqual(sent(ws), [`${base + 1} "a"`]);
      Date.now.mock.mockImplementation(() => 6000);
      assert.deepEqual(sent(await comeBack()), [`${base + 1} "a"`]);
      await c.close();
    });
  }

  test('are sent again with the same id: after a lost connection, and without a reply in time', async () => {
    const { c, ws, log } = await live({ requestTimeout: 1000 });
    await c.publish('a');
    await c.publish('b');
    await tick(1000);
    assert.deepEqual(sent(ws), ['1 "a"', '1 "a"']);
    const next = await comeBack();
    assert.deepEqual(sent(next), ['1 "a"']);
    await answer(next);
    assert.deepEqual(sent(next), ['1 "a"', '2 "b"']);
    assert.deepEqual(log, ['1 {}']);
    await c.close();
  });

  test('of which the server says that it has arrived is not sent again', async () => {
    const { c, log } = await live({}, { published: '10' });
    for (const body of ['a', 'b']) await c.publish(body);
    const ws = await comeBack({ published: '11' });
    assert.deepEqual(log, ['1 undefined']);
    assert.deepEqual(sent(ws), ['12 "b"']);
    await c.close();
  });

  test('keep their base, whatever the server says later', async () => {
    const { c } = await live({}, { published: '10' });
    const ws = await comeBack();
    await c.publish('a');
    await settle();
    assert.deepEqual(sent(ws), ['11 "a"']);
    await c.close();
  });

  test('that are refused for good are gone, and the next one follows', async () => {
    const { c, ws } = await live();
    const events = [];
    c.on('published', (event) => events.push(event));
    await c.publish('a');
    await c.publish('b');
    await refuse(ws, { code: 'forbidden', reason: 'not you' });
    assert.equal(events.length, 1);
    const { number, body, error } = events[0];
    assert.deepEqual([number, body, error.code, error.serverCode], [1, undefined, 'denied', 'forbidden']);
    assert.match(error.message, /not you/);
    assert.deepEqual(sent(ws), ['1 "a"', '2 "b"']);
    await c.close();
  });

  for (const [refusal, wait] of [
    [{ code: 'anything', retry_ms: 700 }, 700],
    [{ code: 'unavailable', retry_ms: 40 }, 40],
    [{ code: 'unavailable' }, 250],
    [{ code: 'rate_limited' }, 250],
    [{ code: 'anything', retry_ms: 0 }, 250],
    [{ code: 'anything', retry_ms: -1 }, 250],
    [{ code: 'anything', retry_ms: 1e300 }, 2 ** 31 - 1],
  ]) {
    test(`are sent again ${wait} ms after the refusal ${JSON.stringify(refusal)}, and no other before`, async () => {
      const { c, ws, log } = await live({ minBackoff: 500 });
      await c.publish('a');
      await refuse(ws, refusal);
      await c.publish('b');
      await tick(wait - 1);
      assert.deepEqual(sent(ws), ['1 "a"']);
      await tick(1);
      assert.deepEqual(sent(ws), ['1 "a"', '1 "a"']);
      await answer(ws);
      assert.deepEqual(sent(ws).at(-1), '2 "b"');
      assert.deepEqual(log, ['1 {}']);
      await c.close();
    });
  }

  test('the backoff of refusals grows, and begins anew after an answer', async () => {
    const { c, ws } = await live({ minBackoff: 500, maxBackoff: 2000 });
    await c.publish('a');
    for (const wait of [250, 500, 1000, 1000]) {
      const before = ws.of(4).length;
      await refuse(ws, { code: 'unavailable' });
      await tick(wait - 1);
      assert.equal(ws.of(4).length, before);
      await tick(1);
      assert.equal(ws.of(4).length, before + 1);
    }
    await answer(ws);
    await c.publish('b');
    await settle();
    await refuse(ws, { code: 'unavailable' });
    await tick(250);
    assert.deepEqual(sent(ws).slice(-2), ['2 "b"', '2 "b"']);
    await c.close();
  });

  test('that wait after a refusal are sent at once in the next session', async () => {
    const { c, ws } = await live({ minBackoff: 1, maxBackoff: 1000 });
    await c.publish('a');
    await refuse(ws, { code: 'unavailable', retry_ms: 3_600_000 });
    const next = await comeBack();
    assert.deepEqual(sent(next), ['1 "a"']);
    await c.close();
  });

  test('have bounds', async () => {
    const { c } = client({ maxBody: 10 });
    await assert.rejects(c.publish('12345678901'), { code: 'invalid', message: /maxBody/ });
    await assert.rejects(c.publish(undefined), { code: 'invalid', message: /body/ });
    await assert.rejects(c.publish(1n), { code: 'invalid', message: /body/ });
    await assert.rejects(c.publish('a', { op: 5 }), { code: 'invalid', message: /op/ });
    const all = [];
    for (let i = 0; i < 1024; i++) all.push(c.publish('1234567890'));
    await assert.rejects(c.publish('a'), { code: 'too_many' });
    assert.equal((await Promise.all(all)).at(-1), 1024);
    await assert.rejects(c.publish('a'), { code: 'too_many' });
  });

  test('that are larger than the server takes are refused, and the next one follows', async () => {
    const { c, log } = client();
    const errors = [];
    c.on('published', ({ error }) => errors.push(error?.serverCode));
    await c.publish('12345678901');
    await c.publish('\u0001'.repeat(10)); // 62 bytes in a frame, which has a bound too
    await c.publish('1234567890');
    c.connect();
    await settle();
    const ws = await accept({ max_body: 10 });
    assert.deepEqual(log, ['1 denied', '2 denied']);
    assert.deepEqual(errors, ['too_large', 'too_large']);
    assert.deepEqual(sent(ws), ['3 "1234567890"']);
    await assert.rejects(c.publish('12345678901'), { code: 'invalid', message: /10 bytes/ });
    await assert.rejects(c.send('12345678901'), { code: 'invalid' });
    const next = await comeBack(); // to a server that does not name its bound
    assert.deepEqual(sent(next), ['3 "1234567890"']);
    assert.equal(await c.publish('12345678901'), 4);
    await c.close();
  });

  test('need a device', async () => {
    const { c } = client({ device: undefined });
    await assert.rejects(c.publish('a'), { code: 'invalid', message: /device/ });
  });

  test('stay when the client is closed, and go when it connects again', async () => {
    const { c, ws, log } = await live();
    await c.publish('a');
    await settle();
    assert.deepEqual(sent(ws), ['1 "a"']);
    const closed = c.close();
    await tick(2000);
    await closed;
    await c.publish('b');
    await tick(60_000);
    assert.deepEqual(log, []);
    c.connect();
    await settle();
    const next = await accept();
    await answer(next);
    await answer(next);
    assert.deepEqual(sent(next), ['1 "a"', '2 "b"']);
    assert.deepEqual(log, ['1 {}', '2 {}']);
    await c.close();
  });

  test('a socket that no longer writes does not make the client spin', async () => {
    const { c, ws } = await live();
    ws.readyState = 2; // it is closing, and has not said so yet
    await c.publish('a');
    await settle();
    assert.equal(c.state, 'live');
    const next = await comeBack();
    assert.deepEqual(sent(next), ['1 "a"']);
    await c.close();
  });

  test('a published of the auth reply that is no id is the error protocol', async () => {
    for (const published of [41, '-1', 'x', null, '18446744073709551616']) {
      const { c, log } = client();
      c.connect();
      await settle();
      FakeWebSocket.last().accept({ published });
      await settle();
      assert.deepEqual(log, ['error protocol'], String(published));
      await c.close();
    }
  });
});

describe('an outbox', () => {
  /** A store whose calls the test sees, and can make fail. */
  class Store {
    content = { base: null, last: 0, messages: [] };
    calls = [];
    failures = 0;

    async #call(name) {
      if (this.gate) await this.gate;
      this.calls.push(name);
      if (this.failures === 0) return;
      this.failures--;
      throw new Error('the disk is full');
    }

    async load() {
      await this.#call('load');
      return structuredClone(this.content);
    }

    async setBase(base) {
      await this.#call(`base ${base}`);
      this.content.base = base;
    }

    async add(message) {
      await this.#call(`add ${message.number}`);
      this.content.messages.push(message);
      this.content.last = message.number;
    }

    async remove(number) {
      await this.#call(`remove ${number}`);
      this.content.messages = this.content.messages.filter((message) => message.number > number);
    }
  }

  test('has each change before it counts', async () => {
    const outbox = new Store();
    const { c, log } = client({ outbox });
    assert.equal(await c.publish('a'), 1);
    assert.deepEqual(outbox.calls, ['load', 'add 1']);
    c.connect();
    await settle();
    let go;
    outbox.gate = new Promise((resolve) => {
      go = resolve;
    });
    const ws = await accept({ published: '7' });
    assert.deepEqual(sent(ws), []);
    go();
    await settle();
    assert.deepEqual(sent(ws), ['8 "a"']);
    assert.deepEqual(outbox.calls, ['load', 'add 1', 'load', 'base 7']);
    outbox.gate = new Promise((resolve) => {
      go = resolve;
    });
    await answer(ws, 'r');
    assert.deepEqual(log, []);
    go();
    await settle();
    assert.deepEqual(log, ['1 "r"']);
    assert.deepEqual(outbox.content, { base: '7', last: 1, messages: [] });
    await c.close();
  });

  test('serves the next client, and its numbers go on', async () => {
    const outbox = new Store();
    const first = await live({ outbox }, { published: '7' });
    for (const body of ['a', 'b']) await first.c.publish(body);
    await settle();
    await answer(first.ws);
    first.ws.drop();
    await first.c.close();
    const second = await live({ outbox }, { published: '8' });
    assert.deepEqual(sent(second.ws), ['9 "b"']);
    assert.equal(await second.c.publish('c'), 3);
    await answer(second.ws);
    assert.deepEqual(sent(second.ws), ['9 "b"', '10 "c"']);
    assert.deepEqual(second.log, ['2 {}']);
    await second.c.close();
  });

  const two = [2, 3].map((number) => ({ number, op: 4, body: number }));
  for (const { what, messages = [], published, clock = 0, base, ids, log = [] } of [
    { what: 'empty, and the server has the last message', published: '13', ids: ['14'] },
    { what: 'empty, and the server has one more', published: '14', base: '14', ids: ['18'] },
    { what: 'empty, and the server has many more', published: '99', base: '99', ids: ['103'] },
    { what: 'empty, and the clock is higher', published: '99', clock: 5, base: '5000', ids: ['5004'] },
    { what: 'two wait, and the server has those before', messages: two, published: '11', ids: ['12', '13', '14'] },
    { what: 'two wait, and the server has the oldest', messages: two, published: '12', ids: ['13', '14'], log: ['2 undefined'] },
    { what: 'two wait, and the server has one more', messages: two, published: '13', base: '13', ids: ['15', '16', '17'] },
    { what: 'two wait, and the server has many more', messages: two, published: '99', base: '99', ids: ['101', '102', '103'] },
  ]) {
    test(`is older than what was sent if the server has more than the oldest message: ${what}`, async () => {
      Date.now.mock.mockImplementation(() => clock);
      const outbox = new Store();
      outbox.content = { base: '10', last: 3, messages: [...messages] };
      const { c, log: told } = client({ outbox });
      c.connect();
      await settle();
      assert.equal(await c.publish('new'), 4);
      const ws = await accept({ published });
      for (const _ of ids) await answer(ws);
      assert.deepEqual(sent(ws).map((text) => text.split(' ')[0]), ids);
      assert.deepEqual(outbox.calls.filter((call) => call.startsWith('base')), base ? [`base ${base}`] : []);
      assert.deepEqual(told, [...log, ...ids.map((_, i) => `${4 - ids.length + 1 + i} {}`)]);
      const next = await comeBack({ published: ids.at(-1) });
      assert.equal(await c.publish('later'), 5);
      assert.deepEqual(sent(next), [`${BigInt(ids.at(-1)) + 1n} "later"`]);
      await c.close();
    });
  }

  test('whose device another client uses as well loses nothing that a later session sends', async () => {
    const { c, ws, log } = await live({}, { published: '7' });
    await c.publish('a');
    await settle();
    await answer(ws);
    const next = await comeBack({ published: '20' });
    await c.publish('b');
    await settle();
    assert.deepEqual(sent(next), ['22 "b"']);
    await answer(next);
    assert.deepEqual(log, ['1 {}', '2 {}']);
    await c.close();
  });

  test('that another client has used since close() is read anew', async () => {
    const outbox = new Store();
    const first = await live({ outbox }, { published: '7' });
    await first.c.publish('a');
    await settle();
    await answer(first.ws);
    await first.c.close();
    const second = await live({ outbox }, { published: '8' });
    await second.c.publish('b');
    await settle();
    await answer(second.ws);
    await second.c.publish('c');
    await second.c.close();
    assert.equal(await first.c.publish('d'), 4);
    await live({ outbox }, { published: '9' }).then(async (third) => {
      await answer(third.ws);
      await third.c.close();
    });
    first.c.connect();
    await settle();
    const ws = await accept({ published: '10' });
    assert.deepEqual(sent(ws), ['11 "d"']);
    assert.equal(await first.c.publish('e'), 5);
    await first.c.close();
  });

  test('that has a reply for a message at close() gets the message again', async () => {
    const outbox = new Store();
    const { c, ws, log } = await live({ outbox });
    await c.publish('a');
    await settle();
    outbox.failures = 1;
    await answer(ws, 'r');
    await c.close();
    outbox.content.messages = []; // another client has sent it
    c.connect();
    await settle();
    const next = await accept({ published: '1' });
    await c.publish('b');
    await settle();
    assert.deepEqual(sent(next), ['2 "b"']);
    await answer(next);
    assert.deepEqual(log, ['error storage', '2 {}']);
    await c.close();
  });

  test('that cannot add makes publish fail, and the number is free again', async () => {
    const outbox = new Store();
    const { c, ws, log } = await live({ outbox });
    outbox.failures = 1;
    await assert.rejects(c.publish('a'), { code: 'storage', message: /disk is full/ });
    assert.equal(await c.publish('b'), 1);
    await settle();
    assert.deepEqual(sent(ws), ['1 "b"']);
    assert.deepEqual(log, []);
    await c.close();
  });

  test('that cannot set its base or remove is tried again by the backoff', async () => {
    const outbox = new Store();
    const { c, log } = client({ outbox, minBackoff: 500, maxBackoff: 1000 });
    await c.publish('a');
    c.connect();
    await settle();
    outbox.failures = 3;
    const ws = await accept();
    assert.deepEqual(log, ['error storage']);
    await tick(250);
    await tick(500);
    assert.deepEqual(log, ['error storage', 'error storage', 'error storage']);
    assert.deepEqual(sent(ws), []);
    await tick(500);
    assert.deepEqual(sent(ws), ['1 "a"']);
    log.length = 0;
    outbox.failures = 1;
    await answer(ws, 'r');
    await c.publish('b');
    await settle();
    assert.deepEqual(log, ['error storage']);
    assert.deepEqual(sent(ws), ['1 "a"'], 'the next one waits');
    await tick(1000);
    assert.deepEqual(log, ['error storage', '1 "r"']);
    assert.deepEqual(sent(ws), ['1 "a"', '2 "b"']);
    await c.close();
  });

  test('that has not removed a message which has its reply does so after a lost connection', async () => {
    const outbox = new Store();
    const { c, ws, log } = await live({ outbox });
    await c.publish('a');
    await settle();
    outbox.failures = 1;
    await answer(ws, 'r');
    const next = await comeBack({ published: '1' });
    assert.deepEqual(log, ['error storage', '1 "r"']);
    assert.deepEqual(sent(next), []);
    await c.close();
  });

  test('that cannot be loaded fails the attempt and publish, and is loaded later', async () => {
    const outbox = new Store();
    const { c, log } = client({ outbox });
    outbox.failures = 2;
    await assert.rejects(c.publish('a'), { code: 'storage' });
    c.connect();
    await settle();
    assert.deepEqual([c.state, ...log], ['waiting', 'error storage']);
    await tick(30_000);
    const ws = await accept();
    assert.equal(await c.publish('a'), 1);
    await settle();
    assert.deepEqual(sent(ws), ['1 "a"']);
    await c.close();
  });

  test('that returns nonsense is the error storage', async () => {
    for (const content of [null, [], {}, { base: 'x', last: 0, messages: [] }, { base: null, last: 0, messages: 'x' }]) {
      const { c } = client({ outbox: { load: () => content, setBase() {}, add() {}, remove() {} } });
      await assert.rejects(c.publish('a'), { code: 'storage' }, JSON.stringify(content));
    }
  });

  test('that does not answer makes publish fail in time, and close() does not hang', async () => {
    const outbox = new Store();
    const { c, ws } = await live({ outbox, requestTimeout: 1000, closeTimeout: 500 });
    await c.publish('a');
    await settle();
    outbox.gate = new Promise(() => {});
    const late = assert.rejects(c.publish('b'), { code: 'storage', message: /1000 ms/ });
    await settle();
    await tick(1000);
    await late;
    await answer(ws); // remove() hangs
    const closed = c.close();
    await settle();
    await tick(500);
    await closed;
    assert.equal(c.state, 'closed');
  });

  test('is asked for one thing at a time', async () => {
    let running = 0;
    const one = async () => {
      assert.equal(++running, 1);
      await settle();
      running--;
    };
    const outbox = { load: () => ({ base: null, last: 0, messages: [] }), setBase: one, add: one, remove: one };
    const { c, ws, log } = await live({ outbox });
    const all = [1, 2, 3, 4].map((n) => c.publish(n));
    for (let i = 0; i < 40; i++) {
      await settle();
      const last = ws.sent.at(-1);
      if (last.op === 4) ws.frames({ ver: 2, op: 4, seq: last.seq, id: '0', body: {} });
    }
    await Promise.all(all);
    assert.deepEqual(log, ['1 {}', '2 {}', '3 {}', '4 {}']);
    await c.close();
  });

  test('without its methods is refused', () => {
    for (const outbox of [{}, 7, { load() {}, add() {}, remove() {} }]) {
      assert.throws(() => client({ outbox }), { code: 'invalid', message: /outbox/ });
    }
  });

  test('in localStorage serves the next page, and says when there is no room', async () => {
    const storage = new Storage();
    const options = () => ({ outbox: new LocalStorageOutbox('k', { storage }) });
    const first = await live(options(), { published: '7' });
    await first.c.publish({ n: 1 });
    await first.c.publish({ n: 2 });
    storage.full = true;
    await assert.rejects(first.c.publish('x'), { code: 'storage', message: /quota/ });
    storage.full = false;
    await settle();
    await answer(first.ws);
    first.ws.drop();
    await first.c.close();
    const second = await live(options(), { published: '8' });
    assert.deepEqual(sent(second.ws), ['9 {"n":2}']);
    assert.equal(await second.c.publish('c'), 3);
    await second.c.close();
    const other = new LocalStorageOutbox('other', { storage });
    assert.deepEqual(other.load(), { base: null, last: 0, messages: [] });
    storage.setItem('other', 'not JSON');
    assert.throws(() => other.add({ number: 1, op: 4, body: 1 }));
    assert.equal(storage.getItem('other'), 'not JSON');
    assert.throws(() => new LocalStorageOutbox('k'), { code: 'unsupported' });
  });
});

test('an outbox in localStorage fails for a second client that adds to it', async () => {
  const storage = new Storage();
  const [first, second] = [1, 2].map(() => client({ outbox: new LocalStorageOutbox('k', { storage }) }).c);
  for (const c of [first, second]) {
    c.connect();
    await settle();
    await accept();
  }
  assert.equal(await first.publish('a'), 1);
  await assert.rejects(second.publish('b'), { code: 'storage', message: /another client/ });
  assert.equal(await first.publish('c'), 2);
  await second.close();
  assert.equal(await second.publish('d'), 3); // it reads the outbox anew
  await assert.rejects(first.publish('e'), { code: 'storage', message: /another client/ });
  await first.close();
});

describe('reading', () => {
  test('is told with ids and the id up to which all was read', async () => {
    const { c, ws } = await live();
    const read = c.read({ ids: ['7', '18446744073709551615'], upTo: '3' });
    const { op, id, body, seq } = ws.sent.at(-1);
    assert.deepEqual({ op, id, body }, { op: 24, id: '3', body: ['7', '18446744073709551615'] });
    ws.frames({ ver: 2, op: 25, seq, id: '0', body: {} });
    await read;
    for (const [given, want] of [
      [{ ids: ['7'] }, { body: ['7'] }],
      [{ ids: ['007'], upTo: '0' }, { body: ['7'] }],
      [{ upTo: '9' }, { id: '9', body: [] }],
    ]) {
      c.read(given).catch(() => {});
      const { ver, op: _, seq: __, ...rest } = ws.sent.at(-1);
      assert.deepEqual(rest, want);
      assert.equal(ver, 2);
    }
    await c.close();
  });

  test('is refused without messages, with bad ids, and without a connection', async () => {
    const { c, ws } = await live();
    const many = Array.from({ length: 501 }, (_, i) => String(i + 1));
    for (const given of [{}, { ids: [] }, { upTo: '0' }, { ids: ['0'] }, { ids: [7] }, { ids: ['x'] }, { ids: '7' }, { upTo: 7 }, { ids: many }]) {
      await assert.rejects(c.read(given), { code: 'invalid' }, JSON.stringify(given));
    }
    assert.deepEqual(ws.of(24), []);
    const denied = assert.rejects(c.read({ upTo: '1' }), { code: 'denied', serverCode: 'unavailable', retryAfter: 100 });
    ws.frames({ ver: 2, op: 28, seq: ws.sent.at(-1).seq, body: { op: 24, code: 'unavailable', reason: 'r', retry_ms: 100 } });
    await denied;
    await c.close();
    await assert.rejects(c.read({ upTo: '1' }), { code: 'not_live' });
  });

  test('on another device is the event dismiss', async () => {
    const { c, ws } = await live();
    const events = [];
    c.on('dismiss', (event) => events.push(event));
    ws.frames({ ver: 2, op: 26, seq: 0, id: '3', body: ['7', '008'] }, { ver: 2, op: 26, seq: 0, id: '4', body: {} });
    ws.frames({ ver: 2, op: 26, seq: 0, id: '0', body: ['9'] }, { ver: 2, op: 26, seq: 0, id: '5' });
    assert.deepEqual(events, [
      { ids: ['7', '8'], upTo: '3' },
      { ids: [], upTo: '4' },
      { ids: ['9'], upTo: null },
      { ids: [], upTo: '5' },
    ]);
    await c.close();
  });

  test('a dismiss that cannot be read is the error protocol', async () => {
    for (const body of ['7', { a: 1 }, ['x'], ['0'], [7], 7]) {
      const { c, ws, log } = await live();
      ws.frames({ ver: 2, op: 26, seq: 0, id: '3', body });
      assert.deepEqual([c.state, ...log], ['waiting', 'error protocol'], JSON.stringify(body));
      await c.close();
    }
  });
});
