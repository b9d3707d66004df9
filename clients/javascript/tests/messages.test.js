import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient, compareIds } from '../imgo.js';
import { FakeWebSocket, record, settle } from './fakes.js';

function live(options = {}) {
  const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket, ...options });
  const got = [];
  c.on('message', (message) => {
    got.push(message.id ?? message.body);
  });
  c.connect();
  FakeWebSocket.last().accept();
  return { c, got };
}

/** Loses the connection and is live again, on a new socket. */
function comeBack() {
  FakeWebSocket.last().drop();
  mock.timers.tick(30_000);
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
  test('have id, op, body and whether they are kept', () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const got = [];
    c.on('message', (message) => got.push(message));
    c.connect();
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
    assert.equal(c.lastId, '18446744073709551615');
  });

  test('with an id that is no number: an error, not a crash', () => {
    const { c, got } = live();
    const log = record(c);
    FakeWebSocket.last().frames({ op: 5, id: 'x', body: 1 }, { op: 5, id: { a: 1 }, body: 2 }, { op: 5, body: 3 });
    assert.deepEqual(log, ['error protocol', 'error protocol']);
    assert.deepEqual(got, [3]);
  });

  test('wait for the first listener', () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept();
    ws.push(1);
    mock.timers.tick(1000);
    assert.deepEqual(ws.acked, [], 'nobody had it');
    const got = [];
    c.on('message', ({ id }) => got.push(id));
    assert.deepEqual(got, ['1']);
    mock.timers.tick(50);
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
    const ws = FakeWebSocket.last();
    ws.accept();
    ws.push(1);
    ws.push(2);
    await settle();
    assert.deepEqual(log, ['start 1']);
    mock.timers.tick(1000);
    assert.deepEqual(ws.acked, [], 'not acknowledged before the listener is done');
    gates[0]();
    await settle();
    assert.deepEqual(log, ['start 1', 'end 1', 'start 2']);
    mock.timers.tick(50);
    assert.deepEqual(ws.acked, ['1']);
  });
});

describe('acknowledgements', () => {
  test('are gathered for a moment', () => {
    live();
    const ws = FakeWebSocket.last();
    ws.push(1);
    ws.push(2);
    ws.push(0, 'not kept');
    mock.timers.tick(49);
    assert.equal(ws.of(18).length, 0);
    mock.timers.tick(1);
    assert.deepEqual(ws.of(18), [{ ver: 2, op: 18, seq: 0, body: ['1', '2'] }]);
    ws.push(3);
    mock.timers.tick(50);
    assert.deepEqual(ws.acked, ['1', '2', '3']);
  });

  test('go at once when there are many, and never too many in a frame', async () => {
    const { c } = live({ ackBatch: 3 });
    const ws = FakeWebSocket.last();
    for (let i = 1; i <= 7; i++) ws.push(i);
    assert.deepEqual(ws.of(18).map((frame) => frame.body), [['1', '2', '3'], ['4', '5', '6']]);
    mock.timers.tick(50);
    assert.deepEqual(ws.of(18).at(-1).body, ['7']);
    assert.equal(c.counts.acked, 7);
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
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    await settle();
    mock.timers.tick(50);
    assert.deepEqual(FakeWebSocket.last().acked, ['2']);
    assert.ok(log.includes('error handler'));
    fail = false;
    const ws = comeBack();
    ws.push(1);
    await settle();
    mock.timers.tick(50);
    assert.deepEqual(got, ['2', '1']);
    assert.deepEqual(ws.acked, ['1']);
    assert.equal(c.lastId, '2');
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
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().drop();
    done();
    await settle();
    mock.timers.tick(30_000);
    FakeWebSocket.last().accept();
    assert.deepEqual(FakeWebSocket.last().acked, ['1']);
    assert.deepEqual(got, ['1']);
  });

  test('that are due go before close()', () => {
    const { c } = live();
    const ws = FakeWebSocket.last();
    ws.push(1);
    c.close();
    assert.deepEqual(ws.acked, ['1']);
  });
});

describe('duplicates', () => {
  test('are dropped by id, across reconnects, and acknowledged again', () => {
    const { c, got } = live();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    FakeWebSocket.last().push(2);
    const ws = comeBack();
    ws.push(1);
    ws.push(2);
    ws.push(3);
    mock.timers.tick(50);
    assert.deepEqual(got, ['1', '2', '3']);
    assert.deepEqual([...new Set(ws.acked)], ['1', '2', '3']);
    assert.equal(c.counts.duplicates, 3);
    assert.equal(c.counts.received, 3);
  });

  test('the same number written otherwise is the same id', () => {
    const { got } = live();
    FakeWebSocket.last().push('7');
    FakeWebSocket.last().push('007');
    assert.deepEqual(got, ['7']);
  });

  test('messages that are not kept have no id and are never duplicates', () => {
    const { got } = live();
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
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    const ws = comeBack();
    ws.push(1);
    ws.push(2);
    gates[0]();
    await settle();
    gates[1]();
    await settle();
    mock.timers.tick(50);
    assert.deepEqual(got, ['1', '2']);
    assert.deepEqual(ws.acked, ['1', '2']);
  });

  test('what close() took out of the inbox is no duplicate later', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    const gates = [];
    const got = [];
    c.on('message', ({ id }) => {
      got.push(id);
      return new Promise((resolve) => gates.push(resolve));
    });
    c.connect();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    c.close();
    gates[0]();
    await settle();
    c.connect();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    gates[1]();
    await settle();
    mock.timers.tick(50);
    assert.deepEqual(got, ['1', '2']);
    assert.deepEqual([...new Set(FakeWebSocket.last().acked)], ['1', '2']);
  });

  test('as many ids as asked for are remembered, the longest unused forgotten first', () => {
    const { got } = live({ seenLimit: 3 });
    const ws = FakeWebSocket.last();
    for (const id of [1, 2, 3]) ws.push(id);
    ws.push(1); // used again: now 2 is the longest unused
    ws.push(4);
    ws.push(1);
    ws.push(2);
    assert.deepEqual(got, ['1', '2', '3', '4', '2']);
  });

  test('forget() forgets', () => {
    const { c, got } = live();
    FakeWebSocket.last().push(1);
    c.forget();
    assert.equal(c.lastId, null);
    FakeWebSocket.last().push(1);
    assert.deepEqual(got, ['1', '1']);
  });

  test('are known across a reload through a storage', () => {
    const storage = new Storage();
    live({ storage, device: 'd' });
    FakeWebSocket.last().push(1);
    mock.timers.tick(50);
    assert.deepEqual([...storage.items], [['imgo:seen:ws://h/sub:d', '["1"]']]);
    const { got } = live({ storage, device: 'd' });
    FakeWebSocket.last().push(1);
    FakeWebSocket.last().push(2);
    mock.timers.tick(50);
    assert.deepEqual(got, ['2']);
    assert.deepEqual(FakeWebSocket.last().acked, ['1', '2']);
  });

  test('are in the storage before they are acknowledged', () => {
    const storage = new Storage();
    live({ storage, storageKey: 'k', ackBatch: 1 });
    const ws = FakeWebSocket.last();
    const order = [];
    mock.method(storage, 'setItem', () => order.push('storage'));
    mock.method(ws, 'send', () => order.push('ack'));
    ws.push(1);
    assert.deepEqual(order, ['storage', 'ack']);
  });

  test('a damaged or failing storage does no harm', () => {
    for (const text of ['{', '"x"', '[1,"a"]', '{"a":1}', 'null']) {
      const storage = new Storage();
      storage.setItem('k', text);
      const { got } = live({ storage, storageKey: 'k' });
      FakeWebSocket.last().push(1);
      assert.deepEqual(got, ['1'], text);
    }
    const full = {
      getItem() {
        throw new Error('denied');
      },
      setItem() {
        throw new Error('quota');
      },
    };
    const { c, got } = live({ storage: full });
    const log = record(c);
    FakeWebSocket.last().push(1);
    mock.timers.tick(50);
    assert.deepEqual(got, ['1']);
    assert.deepEqual(log, ['error storage']);
    assert.deepEqual(FakeWebSocket.last().acked, ['1'], 'acknowledged all the same');
  });
});

describe('slow listeners', () => {
  test('what is not kept is dropped and counted, a kept one comes again in its place', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket, inboxLimit: 2 });
    const log = record(c);
    const got = [];
    const gates = [];
    c.on('message', (message) => {
      got.push(message.id ?? message.body);
      return new Promise((resolve) => gates.push(resolve));
    });
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept();
    ws.push(1); // with the listener
    ws.push(2);
    ws.push(3); // the inbox is full
    ws.push(0, 'gone');
    assert.equal(c.state, 'live');
    assert.equal(c.counts.dropped, 1);
    ws.push(4);
    assert.equal(c.state, 'waiting');
    assert.deepEqual(log.slice(-2), ['waiting', 'disconnect 0']);
    for (let i = 0; i < 3; i++) {
      gates[i]();
      await settle();
    }
    mock.timers.tick(30_000);
    FakeWebSocket.last().accept();
    for (const id of [1, 2, 3, 4]) FakeWebSocket.last().push(id);
    assert.deepEqual(got, ['1', '2', '3', '4']);
  });
});

describe('rooms', () => {
  test('join and leave wait for the reply', async () => {
    const { c } = live();
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
    const { c } = live({ rooms: ['a'] });
    const pending = c.join('b');
    const ws = comeBack();
    assert.deepEqual(ws.sent[0].body.rooms, ['a', 'b']);
    await pending;
    ws.drop();
    const leave = c.leave('a'); // while away
    mock.timers.tick(30_000);
    FakeWebSocket.last().accept();
    assert.deepEqual(FakeWebSocket.last().sent[0].body.rooms, ['b']);
    await leave;
  });

  test('before connect() they are only noted', async () => {
    const c = new ImgoClient({ url: 'ws://h/sub', token: 't', WebSocket: FakeWebSocket });
    await c.join('a');
    c.connect();
    FakeWebSocket.last().accept();
    assert.deepEqual(FakeWebSocket.last().sent[0].body.rooms, ['a']);
  });

  test('a reply that does not come, a close and a bad name are errors', async () => {
    const { c } = live();
    const late = assert.rejects(c.join('a'), { code: 'timeout', message: /room a/ });
    mock.timers.tick(10_000);
    await late;
    const closed = assert.rejects(c.join('b'), { code: 'closed' });
    c.close();
    await closed;
    await assert.rejects(c.join(''), { code: 'invalid' });
    await assert.rejects(c.leave(5), { code: 'invalid' });
  });

  test('a room that the server ends the connection for is not asked for again', async () => {
    const { c } = live({ rooms: ['a'] });
    record(c);
    const refused = assert.rejects(c.join('one too many'), { code: 'refused', closeCode: 3500 });
    FakeWebSocket.last().frames({ ver: 2, op: 6, body: { code: 3500, reason: 'too many rooms', reconnect: false } });
    await refused;
    assert.deepEqual(c.rooms, ['a']);
  });

  test('calls that wait are bounded', async () => {
    const { c } = live();
    for (let i = 0; i < 1000; i++) c.join(`r${i}`).catch(() => {});
    await assert.rejects(c.join('one more'), { code: 'too_many' });
    c.close();
  });
});

describe('send', () => {
  test('goes upstream as op 4, or as the operation asked for', async () => {
    const { c, got } = live();
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
    const { c } = live();
    const late = assert.rejects(c.send(1), { code: 'timeout', message: /the message/ });
    mock.timers.tick(10_000);
    await late;
    const lost = assert.rejects(c.send(2), { code: 'lost' });
    FakeWebSocket.last().drop();
    await lost;
  });

  test('rejects when not live, and what is no message', async () => {
    const { c } = live();
    await assert.rejects(c.send(undefined), { code: 'invalid' });
    await assert.rejects(c.send(1, { op: 7 }), { code: 'invalid' });
    FakeWebSocket.last().readyState = 2;
    await assert.rejects(c.send(1), { code: 'lost' });
    FakeWebSocket.last().drop();
    await assert.rejects(c.send(1), { code: 'not_live', message: /waiting/ });
  });

  test('a socket that throws is an error, not a crash', async () => {
    const { c } = live();
    const log = record(c);
    mock.method(FakeWebSocket.last(), 'send', () => {
      throw new Error('broken');
    });
    await assert.rejects(c.send(1), { code: 'lost' });
    assert.deepEqual(log, ['error lost']);
  });
});

test('ids are compared as the 64-bit numbers they are', () => {
  const ids = ['9', '10', '18446744073709551615', '9007199254740993', '9007199254740992'];
  assert.deepEqual(ids.sort(compareIds), ['9', '10', '9007199254740992', '9007199254740993', '18446744073709551615']);
  assert.equal(compareIds('7', '7'), 0);
});
