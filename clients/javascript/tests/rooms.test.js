import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient } from '../src/imgo.js';
import { FakeWebSocket, settle, tick } from './fakes.js';

const url = 'ws://127.0.0.1:8090/sub';

async function live(options = {}, reply = {}) {
  const c = new ImgoClient({ url, token: 't1', WebSocket: FakeWebSocket, ...options });
  const errors = [];
  const changes = [];
  c.on('error', (error) => errors.push(error));
  c.on('room', (change) => changes.push(change));
  c.connect();
  await settle();
  const ws = FakeWebSocket.last();
  ws.accept({ heartbeat: 3600, ...reply });
  return { c, ws, errors, changes };
}

beforeEach(() => {
  FakeWebSocket.sockets = [];
  FakeWebSocket.refuse = null;
  mock.timers.enable({ apis: ['setTimeout'] });
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

describe('a call that the server refuses', () => {
  test('rejects, and the connection goes on', async () => {
    const { c, ws } = await live();
    const join = assert.rejects(c.join('private'), { code: 'denied', serverCode: 'forbidden', message: /not for you/ });
    ws.frames({ op: 28, seq: ws.sent.at(-1).seq, body: { op: 20, code: 'forbidden', reason: 'not for you' } });
    await join;
    assert.deepEqual(c.rooms, [], 'the next connection does not ask for it');
    const send = assert.rejects(c.send({ order: 1 }), { code: 'denied', serverCode: 'unsupported' });
    ws.frames({ op: 28, seq: ws.sent.at(-1).seq, body: { op: 4, code: 'unsupported', reason: 'nobody takes it' } });
    await send;
    assert.equal(c.state, 'live');
    c.close();
  });

  test('is not confused by a refusal that nobody waits for, or that says nothing', async () => {
    const { c, ws } = await live();
    ws.frames({ op: 28, seq: 999, body: {} }, { op: 28, seq: 0, body: null });
    const join = assert.rejects(c.join('a'), { code: 'denied', serverCode: '' });
    ws.frames({ op: 28, seq: ws.sent.at(-1).seq, body: null });
    await join;
    c.close();
  });
});

describe('rooms that the server changes', () => {
  test('are told, and those that it refuses for good are not asked for again', async () => {
    const refused = [
      { room: 'private', code: 'forbidden', reason: 'no' },
      { room: 'busy', code: 'unavailable', reason: 'later' },
    ];
    const c = new ImgoClient({ url, token: 't1', WebSocket: FakeWebSocket, rooms: ['a', 'private', 'busy'] });
    const changes = [];
    c.on('room', (change) => changes.push(change));
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ rooms: ['team'], refused });
    assert.deepEqual(c.info.rooms, ['team']);
    ws.frames({ op: 29, seq: 0, body: { room: 'a', joined: false, reason: 'taken out' } });
    ws.frames({ op: 29, seq: 0, body: { room: 'b', joined: true, reason: 'put in' } });
    assert.deepEqual(changes, [
      { room: 'private', joined: false, reason: 'no', code: 'forbidden' },
      { room: 'busy', joined: false, reason: 'later', code: 'unavailable' },
      { room: 'a', joined: false, code: '', reason: 'taken out' },
      { room: 'b', joined: true, code: '', reason: 'put in' },
    ]);
    assert.deepEqual(c.rooms, ['busy']);
    c.close();
  });
});

describe('rooms that change before the auth reply', () => {
  test('are joined and left after it, and a refusal is told', async () => {
    const c = new ImgoClient({ url, token: 't1', WebSocket: FakeWebSocket, rooms: ['a', 'b', 'no'] });
    const changes = [];
    c.on('room', (change) => changes.push(change));
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.open();
    await c.join('c');
    await c.leave('a');
    await c.join('private');
    const refused = [{ room: 'no', code: 'forbidden', reason: 'a rule' }];
    ws.frames({ ver: 2, op: 8, seq: 1, body: { heartbeat: 3600, refused } });
    const said = [];
    for (let i = 0; i < 3; i++) {
      const { op, seq, body } = ws.sent.at(-1);
      said.push([op, body]);
      if (body === 'private') ws.frames({ ver: 2, op: 28, seq, body: { op, code: 'forbidden', reason: 'a rule' } });
      else ws.frames({ ver: 2, op: op + 1, seq, body: {} });
      await settle();
    }
    assert.deepEqual(said, [
      [22, 'a'],
      [20, 'c'],
      [20, 'private'],
    ]);
    assert.equal(ws.sent.length, 4, 'nothing else is asked');
    assert.deepEqual(
      changes.map(({ room, joined, code }) => [room, joined, code]),
      [
        ['no', false, 'forbidden'],
        ['private', false, 'forbidden'],
      ],
    );
    assert.deepEqual(c.rooms, ['b', 'c']);
    await c.close();
  });
});

describe('a token that ends', () => {
  test('is replaced before it does, and so is the next one', async () => {
    let n = 0;
    const { c, ws, errors } = await live({ tokenSource: () => `t${++n}` }, { expires_in: 100 });
    await tick(79_000);
    await settle();
    assert.equal(n, 1);
    for (const want of ['t2', 't3']) {
      await tick(1000);
      await settle();
      const sent = ws.sent.at(-1);
      assert.deepEqual([sent.op, sent.body], [7, { token: want }]);
      ws.frames({ op: 8, seq: sent.seq, body: { session: 's', expires_in: 1.25 } });
      await settle();
    }
    assert.deepEqual(errors, []);
    assert.equal(c.state, 'live');
    c.close();
  });

  test('is tried again with backoff when that failed, and the session stays', async () => {
    mock.method(Math, 'random', () => 0.5);
    let n = 0;
    const tokenSource = () => {
      n++;
      if (n === 2) throw new Error('no network');
      if (n === 4) return new Promise(() => {});
      return n === 3 ? '' : 'new';
    };
    const { c, ws, errors } = await live({ tokenSource }, { expires_in: 10 });
    await tick(8000); // fails
    await tick(250); // empty
    await tick(500); // hangs
    await tick(10_000);
    await tick(1000);
    const sent = ws.sent.at(-1);
    assert.deepEqual(sent.body, { token: 'new' });
    ws.frames({ op: 28, seq: sent.seq, body: { op: 7, code: 'forbidden', reason: 'of another user' } });
    await settle();
    assert.deepEqual(
      errors.map((error) => error.code),
      ['token', 'token', 'token', 'token'],
    );
    assert.match(errors[2].message, /10000 ms/);
    assert.match(errors[3].message, /of another user/);
    assert.equal(c.state, 'live');
    const closed = c.close();
    await settle();
    await closed;
    await tick(1e6);
    assert.equal(n, 5, 'nothing is asked after close()');
  });

  test('without tokenSource, or for ever, is left alone', async () => {
    for (const [options, reply] of [
      [{}, { expires_in: 10 }],
      [{ tokenSource: () => 't' }, {}],
      [{ tokenSource: () => 't' }, { expires_in: -1 }],
    ]) {
      const { c, ws } = await live(options, reply);
      await tick(30_000);
      await settle();
      assert.equal(ws.sent.filter(({ op }) => op === 7).length, 1);
      c.close();
    }
  });
});
