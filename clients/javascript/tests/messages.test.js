import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient, LocalStorageStore, compareIds } from '../src/imgo.js';
import { FakeWebSocket, record, settle, tick } from './fakes.js';

async function live(options = {}) {
  const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket, ...options });
  const got = [];
  c.on('message', (message) => {
    got.push(message.id ?? message.body);
  });
  c.connect();
  await settle();
  FakeWebSocket.last().accept();
  return { c, got };
}

/** Loses the connection and is live again, on a new socket. */
async function comeBack() {
  FakeWebSocket.last().drop();
  await tick(30_000);
  FakeWebSocket.last().accept();
  return FakeWebSocket.last();
}

class Storage {
  items = new Map();

  getItem(key) {
    return this.items.get(key) ?? null;
  }

  setItem(key, value) {
    this.items.set(key, value);
  }
}

beforeEach(() => {
  FakeWebSocket.sockets = [];
  FakeWebSocket.refuse = null;
  mock.timers.enable({ apis: ['setTimeout'] });
  mock.method(Math, 'random', () => 0.5);
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

describe('messages', () => {
  test('have id, op, body and whether they are kept', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const got = [];
    c.on('message', (message) => got.push(message));
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.open();
    ws.frames(
      { ver: 2, op: 5, id: '1', body: 'before the auth reply: ignored' },
      { ver: 2, op: 8, seq: 1, body: {} },
      { ver: 2, op: 5, seq: 0, id: '281474976710656', body: { test: 1 } },
      { ver: 2, op: 5, seq: 0, id: '0', body: 'text' },
      { ver: 2, op: 5, seq: 0, body: null },
      { ver: 2, op: 1000, seq: 0, id: '0018446744073709551615', body: [1] },
    );
    assert.deepEqual(got, [
      { id: '281474976710656', op: 5, body: { test: 1 }, kept: true },
      { id: null, op: 5, body: 'text', kept: false },
      { id: null, op: 5, body: null, kept: false },
      { id: '18446744073709551615', op: 1000, body: [1], kept: true },
    ]);
    assert.ok(Object.isFrozen(got[0]));
  });

  test('wait for the first listener', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept();
    ws.push(1);
    await tick(1000);
    assert.deepEqual(ws.acked, [], 'nobody had it');
    const got = [];
    c.on('message', ({ id }) => got.push(id));
    assert.deepEqual(got, ['1']);
    await tick(50);
    assert.deepEqual(ws.acked, ['1']);
  });

  test('come one at a time: a promise holds up the next', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const log = [];
    const gates = [];
    c.on('message', async ({ id }) => {
      log.push(`start ${id}`);
      await new Promise((resolve) => gates.push(resolve));
      log.push(`end ${id}`);
    });
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept();
    ws.push(1);
    ws.push(2);
    await settle();
    assert.deepEqual(log, ['start 1']);
    await tick(1000);
    assert.deepEqual(ws.acked, [], 'not acknowledged before the listener is done');
    gates[0]();
    await settle();
    assert.deepEqual(log, ['start 1', 'end 1', 'start 2']);
    await tick(50);
    assert.deepEqual(ws.acked, ['1']);
  });
});

describe('acknowledgements', () => {
  test('are gathered for a moment', async () => {
    await live();
    const ws = FakeWebSocket.last();
    ws.push(1);
    ws.push(2);
    ws.push(0, 'not kept');
    await tick(49);
    assert.equal(ws.of(18).length, 0);
    await tick(1);
    assert.deepEqual(ws.of(18), [{ ver: 2, op: 18, seq: 0, body: ['1', '2'] }]);
    ws.push(3);
    await tick(50);
    assert.deepEqual(ws.acked, ['1', '2', '3']);
  });

  test('go at once when there are many, and never more than 500 in a packet', async () => {
    const { c } = await live();
    const ws = FakeWebSocket.last();
    for (let i = 1; i <= 1001; i++) ws.push(i);
    assert.deepEqual(
      ws.of(18).map((frame) => frame.body.length),
      [500, 500],
    );
    await tick(50);
    assert.deepEqual(ws.of(18).at(-1).body, ['1001']);
    assert.equal(c.counts.acked, 1001);
  });

  test('are never larger than the server takes', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    c.on('message', () => {});
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ max_body: 100 });
    for (let i = 1; i <= 9; i++) ws.push(i);
    await tick(50);
    assert.deepEqual(
      ws.of(18).map((frame) => frame.body.length),
      [4, 4, 1],
    );
    const ids = Array.from({ length: 25 }, (_, i) => String(i + 1));
    await assert.rejects(c.read({ ids }), { code: 'invalid', message: /100 bytes/ });
    assert.equal(c.state, 'live');
    await c.close();
  });

  test('are all sent, also if there are more of them than ids that are remembered', async () => {
    await live({ remember: 3 });
    const ws = FakeWebSocket.last();
    for (let i = 1; i <= 20; i++) ws.push(i);
    await tick(50);
    assert.equal(ws.acked.length, 20);
  });

  test('are not put off by further messages', async () => {
    await live();
    const ws = FakeWebSocket.last();
    ws.push(1);
    await tick(40);
    ws.push(2);
    await tick(10);
    assert.deepEqual(ws.acked, ['1', '2']);
  });

  test('not for what a listener failed on: it comes again at the next session', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const log = record(c);
    const got = [];
    let fail = true;
    c.on('message', async ({ id }) => {
      if (fail && id === '1') throw new Error('disk full');
      got.push(id);
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    await settle();
    await tick(50);
    assert.deepEqual(FakeWebSocket.last().acked, ['2']);
    assert.ok(log.includes('error handler'));
    fail = false;
    const ws = await comeBack();
    ws.push(1);
    await settle();
    await tick(50);
    assert.deepEqual(got, ['2', '1']);
    assert.deepEqual(ws.acked, ['1']);
  });

  test('wait for all listeners, also if one of them has failed', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const log = record(c);
    const gates = [];
    const got = [];
    c.on('message', ({ id }) => {
      if (id === '1') throw new Error('the first one');
      return id === '2' ? Promise.reject(new Error('the first one')) : undefined;
    });
    c.on('message', async ({ id }) => {
      got.push(`begin ${id}`);
      await new Promise((resolve) => gates.push(resolve));
      got.push(`end ${id}`);
    });
    const errors = [];
    c.on('error', (error) => errors.push(error.message));
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept();
    for (const id of [1, 2, 3]) ws.push(id);
    for (let i = 0; i < 3; i++) {
      await settle();
      assert.equal(gates.length, i + 1, 'the next message waits for the second listener');
      gates[i]();
    }
    await settle();
    await tick(50);
    assert.deepEqual(got, ['begin 1', 'end 1', 'begin 2', 'end 2', 'begin 3', 'end 3']);
    assert.deepEqual(ws.acked, ['3']);
    assert.deepEqual(log.slice(2), ['error handler', 'error handler']);
    assert.match(errors[0], /the first one/);
    await c.close();
  });

  test('of a listener that finished while away go with the next connection', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    let done;
    const got = [];
    c.on('message', ({ id }) => {
      got.push(id);
      return new Promise((resolve) => {
        done = resolve;
      });
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().drop();
    done();
    await settle();
    await tick(30_000);
    FakeWebSocket.last().accept();
    assert.deepEqual(FakeWebSocket.last().acked, ['1']);
    assert.deepEqual(got, ['1']);
  });

  test('that are due go before close()', async () => {
    const { c } = await live();
    const ws = FakeWebSocket.last();
    ws.push(1);
    const closed = c.close();
    await settle();
    const [last] = ws.of(18);
    assert.deepEqual(last.body, ['1']);
    assert.notEqual(last.seq, 0, 'the last acknowledgements ask for a reply');
    assert.equal(ws.closed, false, 'and wait for it');
    ws.frames({ ver: 2, op: 19, seq: last.seq, body: {} });
    await closed;
    assert.ok(ws.closed);
    assert.equal(c.state, 'closed');
  });
});

describe('duplicates', () => {
  test('are dropped by id, across reconnects, and acknowledged again', async () => {
    const { c, got } = await live();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    FakeWebSocket.last().push(2);
    const ws = await comeBack();
    ws.push(1);
    ws.push(2);
    ws.push(3);
    await tick(50);
    assert.deepEqual(got, ['1', '2', '3']);
    assert.deepEqual([...new Set(ws.acked)], ['1', '2', '3']);
    assert.equal(c.counts.duplicates, 3);
    assert.equal(c.counts.received, 3);
  });

  test('the same number written otherwise is the same id', async () => {
    const { got } = await live();
    FakeWebSocket.last().push('7');
    FakeWebSocket.last().push('007');
    assert.deepEqual(got, ['7']);
  });

  test('messages that are not kept have no id and are never duplicates', async () => {
    const { got } = await live();
    FakeWebSocket.last().push(0, 'a');
    FakeWebSocket.last().push(0, 'a');
    assert.deepEqual(got, ['a', 'a']);
  });

  test('while the first one is still with a listener', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const gates = [];
    const got = [];
    c.on('message', ({ id }) => {
      got.push(id);
      return new Promise((resolve) => gates.push(resolve));
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    const ws = await comeBack();
    ws.push(1);
    ws.push(2);
    gates[0]();
    await settle();
    gates[1]();
    await settle();
    await tick(50);
    assert.deepEqual(got, ['1', '2']);
    assert.deepEqual(ws.acked, ['1', '2']);
  });

  test('what close() took out of the queue is no duplicate later', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const gates = [];
    const got = [];
    c.on('message', ({ id }) => {
      got.push(id);
      return new Promise((resolve) => gates.push(resolve));
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    const closed = c.close();
    await settle();
    assert.equal(c.state, 'live', 'close() waits for the running listener');
    FakeWebSocket.last().push(3); // and takes nothing more
    gates[0]();
    await settle();
    assert.deepEqual(FakeWebSocket.last().acked, ['1']);
    await tick(2000); // nobody replies
    await closed;
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    for (const id of [1, 2, 3]) FakeWebSocket.last().push(id);
    await settle();
    gates[1]();
    await settle();
    gates[2]();
    await settle();
    await tick(50);
    assert.deepEqual(got, ['1', '2', '3']);
    assert.deepEqual(FakeWebSocket.last().acked, ['1', '2', '3']);
  });

  test('close() survives the end of the connection while a listener is at work', async () => {
    const { c } = await live();
    let done;
    c.on('message', ({ id }) => {
      if (id === '2') return new Promise((resolve) => (done = resolve));
    });
    const ws = FakeWebSocket.last();
    ws.push(1);
    ws.push(2);
    const closed = c.close();
    await tick(50);
    assert.deepEqual(ws.acked, ['1']);
    ws.drop();
    await settle(); // an unhandled rejection would end the process here
    done();
    await closed;
    assert.equal(c.state, 'closed');
  });

  test('close() does not wait for ever for a listener', async () => {
    const { c } = await live({ closeTimeout: 300 });
    c.on('message', () => new Promise(() => {}));
    FakeWebSocket.last().push(1);
    const closed = c.close();
    await tick(299);
    assert.equal(c.state, 'live');
    await tick(1);
    await closed;
    assert.equal(c.state, 'closed');
    assert.deepEqual(FakeWebSocket.last().acked, []);
  });

  test('as many ids as asked for are remembered, the longest unused forgotten first', async () => {
    const { got } = await live({ remember: 3 });
    const ws = FakeWebSocket.last();
    for (const id of [1, 2, 3]) ws.push(id);
    ws.push(1); // used again: now 2 is the longest unused
    ws.push(4);
    ws.push(1);
    ws.push(2);
    assert.deepEqual(got, ['1', '2', '3', '4', '2']);
  });
});

/** A store in memory, whose add can fail or wait. */
class MemoryStore {
  ids = [];
  calls = [];

  load() {
    return [...this.ids];
  }

  add(ids) {
    this.calls.push([...ids]);
    if (this.fail) throw new Error('disk full');
    this.ids.push(...ids);
  }
}

describe('a store', () => {
  test('remembers handled ids across restarts', async () => {
    const store = new MemoryStore();
    await live({ store });
    FakeWebSocket.last().push(1);
    await tick(50);
    assert.deepEqual(store.ids, ['1']);
    const { got } = await live({ store });
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    await tick(50);
    assert.deepEqual(got, ['2']);
    assert.deepEqual(FakeWebSocket.last().acked, ['1', '2']);
    assert.deepEqual(store.ids, ['1', '2']);
  });

  test('that another client has used since close() is read anew', async () => {
    const store = new MemoryStore();
    const first = await live({ store });
    FakeWebSocket.last().push(1);
    await tick(50);
    const closed = first.c.close();
    await tick(2000);
    await closed;
    store.ids.push('2'); // of another client
    first.c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept();
    for (const id of [1, 2, 3]) ws.push(id);
    await tick(50);
    assert.deepEqual(first.got, ['1', '3']);
    assert.deepEqual(ws.acked, ['1', '2', '3']);
  });

  test('has the ids before they are acknowledged, also if it takes its time', async () => {
    const store = new MemoryStore();
    const gates = [];
    store.add = () => new Promise((resolve) => gates.push(resolve));
    await live({ store });
    const ws = FakeWebSocket.last();
    ws.push(1);
    await tick(50);
    ws.push(1); // the server repeats it
    ws.push(2);
    await tick(50);
    assert.deepEqual(ws.acked, []);
    gates[0]();
    await settle();
    assert.deepEqual(ws.acked, ['1']);
    gates[1]();
    await settle();
    assert.deepEqual(ws.acked, ['1', '2']);
  });

  test('that does not answer fails after requestTimeout, and is tried again', async () => {
    const store = new MemoryStore();
    const add = store.add.bind(store);
    store.add = () => new Promise(() => {});
    const { c } = await live({ store, requestTimeout: 1000 });
    const log = record(c);
    const ws = FakeWebSocket.last();
    ws.push(1);
    await tick(50);
    await tick(999);
    assert.deepEqual(log, []);
    await tick(1);
    assert.deepEqual(log, ['error storage']);
    store.add = add;
    await tick(30_000);
    assert.deepEqual(ws.acked, ['1']);
    await c.close();
  });

  test('that fails for long: an id that was not saved is not acknowledged, or is no duplicate', async () => {
    const store = new MemoryStore();
    store.fail = true;
    const { got } = await live({ store });
    const ws = FakeWebSocket.last();
    for (let id = 1; id <= 8192; id++) ws.push(id);
    ws.push(1); // now 2 is the oldest
    ws.push(8193);
    ws.push(1);
    ws.push(2);
    await tick(50);
    assert.deepEqual(ws.acked, []);
    assert.deepEqual(got.slice(8192), ['8193', '2']);
  });

  test('that fails: nothing is acknowledged, and it is tried again with the next ids or later', async () => {
    const store = new MemoryStore();
    store.fail = true;
    const { c, got } = await live({ store });
    const log = record(c);
    const ws = FakeWebSocket.last();
    ws.push(1);
    await tick(50);
    assert.deepEqual(log, ['error storage']);
    assert.deepEqual(ws.acked, []);
    ws.push(1);
    ws.push(2);
    await tick(50);
    assert.deepEqual(store.calls, [['1'], ['1', '2']]);
    store.fail = false;
    await tick(30_000);
    assert.deepEqual(ws.acked, ['1', '2']);
    assert.deepEqual(got, ['1', '2']);
    store.fail = true;
    ws.push(3);
    const closed = c.close();
    await tick(50);
    await closed;
    assert.deepEqual(ws.acked, ['1', '2']);
    const { length } = store.calls;
    await tick(1e6);
    assert.equal(store.calls.length, length, 'a closed client has no timer');
  });

  test('that cannot be loaded fails the attempt, and the next one tries again', async () => {
    const store = new MemoryStore();
    const loads = [() => Promise.reject(new Error('locked')), () => null, () => ['1']];
    store.load = () => loads.shift()();
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket, store });
    const log = record(c);
    c.connect();
    await settle();
    await tick(250);
    await tick(500);
    assert.deepEqual(log, ['connecting', 'error storage', 'waiting', 'connecting', 'error storage', 'waiting', 'connecting']);
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    assert.equal(c.counts.duplicates, 1);
  });

  test('in localStorage keeps the newest ids, and ignores foreign data', async () => {
    const storage = new Storage();
    storage.setItem('k', 'a 5 {} 6');
    const store = new LocalStorageStore('k', { storage, remember: 3 });
    assert.deepEqual(store.load(), ['5', '6']);
    store.add(['7', '8']);
    assert.deepEqual(new LocalStorageStore('k', { storage }).load(), ['6', '7', '8']);
    assert.deepEqual(new LocalStorageStore('other', { storage }).load(), []);
    assert.throws(() => new LocalStorageStore('k'), { code: 'unsupported', message: /localStorage/ });
  });
});

describe('slow listeners', () => {
  async function slow(options = {}) {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket, queue: 2, ...options });
    const log = record(c);
    const got = [];
    const gates = [];
    c.on('message', (message) => {
      got.push(message.id ?? message.body);
      return new Promise((resolve) => gates.push(resolve));
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    return { c, log, got, gates, ws: FakeWebSocket.last() };
  }

  test('where a socket cannot pause: what is not kept is dropped, a kept one comes again in its place', async () => {
    const { c, log, got, gates, ws } = await slow();
    for (const id of [1, 2, 3]) ws.push(id); // the first is with the listener, and the queue is full
    ws.push(0, 'gone');
    ws.push(0, 'gone, too');
    assert.equal(c.state, 'live');
    assert.equal(c.counts.dropped, 2);
    assert.deepEqual(log, ['connecting', 'live', 'error overflow']);
    ws.push(4);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
    for (let i = 0; i < 2; i++) {
      gates[i]();
      await settle();
    }
    await tick(30_000);
    FakeWebSocket.last().accept();
    for (const id of [1, 2, 3, 4]) FakeWebSocket.last().push(id);
    for (let i = 2; i < 4; i++) {
      gates[i]();
      await settle();
    }
    assert.deepEqual(got, ['1', '2', '3', '4']);
  });

  test('where a socket can pause: the client stops reading, and goes on when the queue is half empty', async () => {
    const calls = [];
    class Pausable extends FakeWebSocket {
      pause() {
        calls.push('pause');
      }

      resume() {
        calls.push('resume');
      }
    }
    const { c, got, gates, ws } = await slow({ WebSocket: Pausable, queue: 4 });
    for (let id = 1; id <= 4; id++) ws.push(id);
    assert.deepEqual(calls, []);
    ws.push(5);
    assert.deepEqual(calls, ['pause']);
    ws.frames({ op: 5, id: '6', body: 1 }, { op: 5, body: 'not kept' }); // was read already
    assert.deepEqual(calls, ['pause']);
    for (let i = 0; i < 3; i++) {
      gates[i]();
      await settle();
    }
    assert.deepEqual(calls, ['pause']);
    for (let i = 3; i < 7; i++) {
      gates[i]();
      await settle();
    }
    assert.deepEqual(calls, ['pause', 'resume']);
    assert.deepEqual(got, ['1', '2', '3', '4', '5', '6', 'not kept']);
    assert.deepEqual([c.state, c.counts.dropped], ['live', 0]);
  });

  test('a session that ends while they are: the next one begins with the oldest that was not handled', async () => {
    const { got, gates, ws } = await slow({ queue: 10 });
    for (const id of [1, 2, 3]) ws.push(id);
    ws.push(0, 'not kept');
    const next = await comeBack();
    next.push(1);
    next.push(2);
    next.push(3);
    for (let i = 0; i < 4; i++) {
      gates[i]();
      await settle();
    }
    assert.deepEqual(got, ['1', 'not kept', '2', '3']);
  });

  test('a body that is too large ends the connection', async () => {
    const bytes = (n) => ({ base64: Buffer.alloc(n, 255).toString('base64') });
    for (const [body, state, maxBody = 99] of [
      ['x'.repeat(99), 'live'],
      ['x'.repeat(100), 'waiting'],
      ['é'.repeat(49), 'live'],
      ['é'.repeat(50), 'waiting'],
      [{ a: 'x'.repeat(91) }, 'live'],
      [{ a: 'x'.repeat(92) }, 'waiting'],
      [{ base64: 'AAAA'.repeat(33) }, 'live'],
      [{ base64: 'AAAA'.repeat(34) }, 'waiting'],
      [bytes(98), 'live', 98], // with one = of padding
      [bytes(99), 'waiting', 98],
      [bytes(100), 'live', 100], // with two
      [bytes(101), 'waiting', 100],
    ]) {
      const { c } = await live({ maxBody });
      FakeWebSocket.last().push(1, body);
      assert.equal(c.state, state, JSON.stringify(body));
    }
  });
});

describe('rooms', () => {
  test('join and leave wait for the reply', async () => {
    const { c } = await live();
    const ws = FakeWebSocket.last();
    let joined = false;
    const join = c.join('a').then(() => {
      joined = true;
    });
    const [frame] = ws.of(20);
    assert.equal(frame.body, 'a');
    await settle();
    assert.equal(joined, false);
    ws.frames({ ver: 2, op: 23, seq: frame.seq, body: {} }); // another reply: not ours
    await settle();
    assert.equal(joined, false);
    ws.frames({ ver: 2, op: 21, seq: frame.seq, body: {} });
    await join;
    assert.deepEqual(c.rooms, ['a']);
    const leave = c.leave('a');
    ws.frames({ ver: 2, op: 23, seq: ws.of(22)[0].seq, body: {} });
    await leave;
    assert.deepEqual(c.rooms, []);
  });

  test('are joined again by the auth of every reconnect', async () => {
    const { c } = await live({ rooms: ['a'] });
    const lost = assert.rejects(c.join('b'), { code: 'lost' });
    const ws = await comeBack();
    await lost;
    assert.deepEqual(ws.sent[0].body.rooms, ['a', 'b'], 'noted all the same');
    ws.drop();
    const leave = c.leave('a'); // while away
    await tick(30_000);
    FakeWebSocket.last().accept();
    assert.deepEqual(FakeWebSocket.last().sent[0].body.rooms, ['b']);
    await leave;
  });

  test('before connect() they are only noted', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    await c.join('a');
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    assert.deepEqual(FakeWebSocket.last().sent[0].body.rooms, ['a']);
  });

  test('a reply that does not come, a close and a bad name are errors', async () => {
    const { c } = await live();
    const late = assert.rejects(c.join('a'), { code: 'timeout', message: /room a/ });
    await tick(10_000);
    await late;
    const closed = assert.rejects(c.join('b'), { code: 'closed' });
    c.close();
    await closed;
    await assert.rejects(c.join(''), { code: 'invalid' });
    await assert.rejects(c.leave(5), { code: 'invalid' });
  });

  test('calls that wait are bounded', async () => {
    const { c } = await live();
    for (let i = 0; i < 256; i++) c.join(`r${i}`).catch(() => {});
    await assert.rejects(c.join('one more'), { code: 'too_many' });
    c.close();
  });
});

describe('send', () => {
  test('goes upstream as op 4, or as the operation asked for', async () => {
    const { c, got } = await live();
    const ws = FakeWebSocket.last();
    for (const [body, options, op] of [
      [{ hello: 1 }, undefined, 4],
      ['x', { op: 1001 }, 1001],
    ]) {
      let done = false;
      const sent = c.send(body, options).then(() => {
        done = true;
      });
      const frame = ws.of(op)[0];
      assert.deepEqual(frame.body, body);
      await settle();
      assert.equal(done, false, 'not before the server has it');
      ws.frames({ ver: 2, op, seq: frame.seq, body: {} });
      await sent;
    }
    assert.deepEqual(got, [], 'an answer is no message');
  });

  test('an answer that is lost or late is an error', async () => {
    const { c } = await live();
    const late = assert.rejects(c.send(1), { code: 'timeout', message: /send a message/ });
    await tick(10_000);
    await late;
    const lost = assert.rejects(c.send(2), { code: 'lost' });
    FakeWebSocket.last().drop();
    await lost;
  });

  test('rejects when not live, and what is no message', async () => {
    const { c } = await live();
    await assert.rejects(c.send(undefined), { code: 'invalid' });
    await assert.rejects(c.send(1, { op: 7 }), { code: 'invalid' });
    FakeWebSocket.last().readyState = 2;
    await assert.rejects(c.send(1), { code: 'lost' });
    FakeWebSocket.last().drop();
    await assert.rejects(c.send(1), { code: 'not_live', message: /waiting/ });
  });

  test('a socket that throws is an error, not a crash', async () => {
    const { c } = await live();
    const log = record(c);
    mock.method(FakeWebSocket.last(), 'send', () => {
      throw new Error('broken');
    });
    await assert.rejects(c.send(1), { code: 'lost' });
    assert.deepEqual(log, ['waiting']);
  });
});

test('ids are compared as the 64-bit numbers they are', async () => {
  const ids = ['9', '10', '18446744073709551615', '9007199254740993', '9007199254740992'];
  assert.deepEqual(ids.sort(compareIds), ['9', '10', '9007199254740992', '9007199254740993', '18446744073709551615']);
  assert.equal(compareIds('7', '7'), 0);
});
