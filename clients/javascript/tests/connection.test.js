import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient, ImgoError, reconnects } from '../imgo.js';
import { FakeWebSocket, record, settle } from './fakes.js';

const url = 'ws://127.0.0.1:8090/sub';

function client(options = {}) {
  return new ImgoClient({ url, token: 't1', WebSocket: FakeWebSocket, ...options });
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
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
  delete globalThis.document;
});

describe('the constructor', () => {
  test('names what is wrong with its options', () => {
    assert.throws(() => new ImgoClient(), { code: 'invalid', message: /url/ });
    assert.throws(() => client({ url: 'http://x' }), { code: 'invalid', message: /url/ });
    assert.throws(() => client({ token: undefined }), { code: 'invalid', message: /token/ });
    assert.throws(() => client({ rooms: [''] }), { code: 'invalid', message: /room/ });
    assert.throws(() => client({ rooms: ['é'.repeat(65)] }), { code: 'invalid', message: /128 bytes/ });
  });

  test('says what to do where there is no WebSocket', () => {
    const own = globalThis.WebSocket;
    try {
      delete globalThis.WebSocket;
      assert.throws(() => client({ WebSocket: undefined }), { code: 'unsupported', message: /WebSocket option/ });
    } finally {
      if (own) globalThis.WebSocket = own;
    }
  });
});

describe('connecting', () => {
  test('authenticates with everything that was given', async () => {
    const c = client({ device: 'phone', platform: 'web', accepts: [1000], rooms: ['a', 'b'] });
    const log = record(c);
    const ready = c.connect();
    const ws = FakeWebSocket.last();
    assert.equal(ws.url, url);
    assert.deepEqual(ws.sent, []);
    ws.accept({ session: 'comet1-7', user: 'ana', heartbeat: 30, pending: 3 });
    assert.deepEqual(ws.sent[0], {
      ver: 2,
      op: 7,
      seq: 1,
      body: { token: 't1', ack: true, device: 'phone', platform: 'web', accepts: [1000], rooms: ['a', 'b'] },
    });
    assert.deepEqual(await ready, { session: 'comet1-7', user: 'ana', heartbeat: 30_000, pending: 3 });
    assert.equal(c.state, 'live');
    assert.deepEqual(log, ['connecting', 'live']);
    assert.deepEqual(await c.connect(), c.info, 'connect() while live gives what is known');
    assert.equal(FakeWebSocket.sockets.length, 1);
  });

  test('takes an auth reply without any field, and one with nonsense', async () => {
    for (const body of [{}, null, 'x', { heartbeat: -1, pending: 'x' }, { heartbeat: 1e12 }]) {
      const c = client();
      const ready = c.connect();
      FakeWebSocket.last().accept(body);
      assert.deepEqual(await ready, { session: '', user: '', heartbeat: 60_000, pending: 0 });
      c.close();
    }
  });

  test('asks getToken when it has no token', async () => {
    const c = client({ token: undefined, getToken: async () => 'fresh' });
    c.connect();
    await settle();
    FakeWebSocket.last().open();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 'fresh');
  });

  test('tries again when getToken fails, and ends when that is final', async () => {
    const errors = [new Error('502'), Object.assign(new Error('who are you'), { final: true })];
    const c = client({
      token: undefined,
      getToken: () => Promise.reject(errors.shift()),
    });
    const log = record(c);
    const ready = c.connect();
    await settle();
    assert.deepEqual(log, ['connecting', 'error token', 'waiting', 'disconnect 0']);
    mock.timers.tick(250);
    await settle();
    await assert.rejects(ready, { code: 'token', message: /who are you/ });
    assert.equal(c.state, 'closed');
    assert.equal(FakeWebSocket.sockets.length, 0);
  });

  test('ends when getToken gives nothing', async () => {
    const c = client({ token: undefined, getToken: () => '' });
    c.on('error', () => {});
    await assert.rejects(c.connect(), { code: 'token' });
  });

  test('gives up a socket that does not open', () => {
    const c = client();
    c.connect();
    const ws = FakeWebSocket.last();
    mock.timers.tick(9_999);
    assert.equal(c.state, 'connecting');
    mock.timers.tick(1);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
  });

  test('waits for its turn where many connect at once', async () => {
    const c = client();
    const ready = c.connect();
    const ws = FakeWebSocket.last();
    mock.timers.tick(9_999);
    ws.open();
    mock.timers.tick(30_000);
    ws.frames({ ver: 2, op: 8, seq: ws.sent[0].seq, body: {} });
    await ready;
    mock.timers.tick(20_000);
    assert.equal(c.state, 'live');
  });

  test('gives up an attempt that is not answered', () => {
    const c = client();
    c.connect();
    const ws = FakeWebSocket.last();
    ws.open();
    mock.timers.tick(39_999);
    assert.equal(c.state, 'connecting');
    mock.timers.tick(1);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
    ws.accept(); // too late, and ignored
    assert.equal(c.state, 'waiting');
  });

  test('gives up a getToken that hangs, and ignores its late answer', async () => {
    const answers = [];
    const c = client({ token: undefined, getToken: () => new Promise((resolve) => answers.push(resolve)) });
    c.connect();
    await settle();
    mock.timers.tick(10_000);
    assert.equal(c.state, 'waiting');
    answers[0]('late');
    await settle();
    assert.equal(FakeWebSocket.sockets.length, 0);
  });

  test('ends with a clear error when the socket cannot even be made', async () => {
    FakeWebSocket.refuse = new Error('insecure from an https page');
    const c = client();
    c.on('error', () => {});
    await assert.rejects(c.connect(), { code: 'invalid', message: /cannot open ws:.*insecure/ });
    assert.equal(c.state, 'closed');
  });

  test('nobody has to take the promise', async () => {
    const c = client();
    const log = record(c);
    c.connect();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().frames({ ver: 2, op: 6, seq: 0, body: { code: 3503, reason: 'revoked' } });
    c.connect();
    c.close();
    await settle(); // an unhandled rejection would fail the run
    assert.equal(log.at(-1), 'closed');
  });
});

describe('coming back', () => {
  test('waits with full jitter, doubling up to the cap', () => {
    const c = client();
    const waits = [];
    c.on('state', (event) => {
      if (event.state === 'waiting') waits.push(event.retryInMs);
    });
    c.connect();
    for (let i = 0; i < 8; i++) {
      FakeWebSocket.last().drop();
      const count = FakeWebSocket.sockets.length;
      mock.timers.tick(waits.at(-1) - 1);
      assert.equal(FakeWebSocket.sockets.length, count, 'not before the wait is over');
      mock.timers.tick(1);
      assert.equal(FakeWebSocket.sockets.length, count + 1);
    }
    assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
  });

  test('the jitter covers the whole window', () => {
    const draws = [0, 0.999];
    mock.method(Math, 'random', () => draws.shift());
    const c = client({ backoffBase: 1000, backoffCap: 1000 });
    const waits = [];
    c.on('disconnect', (event) => waits.push(event.retryInMs));
    c.connect();
    FakeWebSocket.last().drop();
    mock.timers.tick(0);
    FakeWebSocket.last().drop();
    assert.deepEqual(waits, [0, 999]);
  });

  test('starts anew after a stable connection only', () => {
    const c = client();
    const waits = [];
    c.on('disconnect', (event) => waits.push(event.retryInMs));
    c.connect();
    for (const liveFor of [9_999, 9_999, 10_000]) {
      FakeWebSocket.last().accept();
      mock.timers.tick(liveFor);
      FakeWebSocket.last().drop();
      mock.timers.tick(waits.at(-1));
    }
    assert.deepEqual(waits, [250, 500, 250]);
  });

  test('connect() while waiting tries at once', () => {
    const c = client();
    c.connect();
    FakeWebSocket.last().drop();
    assert.equal(c.state, 'waiting');
    c.connect();
    assert.equal(FakeWebSocket.sockets.length, 2);
    FakeWebSocket.last().drop();
    mock.timers.tick(500);
    assert.equal(FakeWebSocket.sockets.length, 3, 'and goes on by itself');
  });

  test('the promise of connect() outlives failed attempts', async () => {
    const c = client();
    const ready = c.connect();
    FakeWebSocket.last().drop();
    mock.timers.tick(250);
    FakeWebSocket.last().accept({ session: 's2' });
    assert.equal((await ready).session, 's2');
  });

  test('events of a socket that was given up are ignored', () => {
    const c = client();
    c.connect();
    const old = FakeWebSocket.last();
    const { onmessage, onclose } = old;
    old.drop();
    mock.timers.tick(250);
    FakeWebSocket.last().accept();
    onmessage({ data: '[{"op":6,"body":{"code":3506}}]' });
    onclose({ code: 3506 });
    old.onerror(new Error('late'));
    assert.equal(c.state, 'live');
  });
});

describe('what the server says', () => {
  test('the ranges of codes', () => {
    for (const code of [0, 1000, 1006, 1011, 3000, 3001, 3499, 4000]) assert.equal(reconnects(code), true, `${code}`);
    for (const code of [3500, 3503, 3999]) assert.equal(reconnects(code), false, `${code}`);
  });

  for (const code of [3001, 3002, 3004, 3005]) {
    test(`op 6 with ${code}: comes back`, () => {
      const c = client();
      const log = record(c);
      c.connect();
      FakeWebSocket.last().accept();
      FakeWebSocket.last().frames({ ver: 2, op: 6, seq: 0, body: { code, reason: 'bye', reconnect: true } });
      assert.deepEqual(log, ['connecting', 'live', 'waiting', `disconnect ${code}`]);
      assert.ok(FakeWebSocket.last().closed);
    });
  }

  for (const code of [3500, 3501, 3503, 3504, 3505, 3506, 3507, 3509, 3510]) {
    test(`op 6 and WebSocket close with ${code}: stays away`, async () => {
      for (const end of [
        (ws) => ws.frames({ ver: 2, op: 6, seq: 0, body: { code, reason: 'no more', reconnect: false } }),
        (ws) => ws.drop(code, 'no more'),
      ]) {
        const c = client();
        const log = record(c);
        const ready = c.connect();
        FakeWebSocket.last().open();
        end(FakeWebSocket.last());
        await assert.rejects(ready, { code: 'refused', closeCode: code, message: /no more/ });
        assert.deepEqual(log, ['connecting', 'closed', `disconnect ${code}`, 'error refused']);
        const count = FakeWebSocket.sockets.length;
        mock.timers.tick(120_000);
        assert.equal(FakeWebSocket.sockets.length, count);
      }
    });
  }

  test('op 6 says itself whether to come back, also with a code of tomorrow', () => {
    for (const [code, reconnect, state] of [
      [3100, false, 'closed'],
      [3900, true, 'waiting'],
    ]) {
      const c = client();
      c.on('error', () => {});
      c.connect();
      FakeWebSocket.last().accept();
      FakeWebSocket.last().frames({ ver: 2, op: 6, body: { code, reconnect } });
      assert.equal(c.state, state);
    }
  });

  test('an expired token is renewed once, without a wait', async () => {
    let made = 0;
    const c = client({ token: 'old', getToken: async () => `fresh${++made}` });
    const ready = c.connect();
    FakeWebSocket.last().open();
    FakeWebSocket.last().frames({ ver: 2, op: 6, body: { code: 3502, reason: 'token expired', reconnect: false } });
    await settle();
    assert.equal(FakeWebSocket.sockets.length, 2);
    FakeWebSocket.last().accept();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 'fresh1');
    await ready;
    // Hours later it has expired again: that is a new "once".
    FakeWebSocket.last().drop(3502, 'token expired');
    await settle();
    FakeWebSocket.last().accept();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 'fresh2');
    assert.equal(c.state, 'live');
  });

  test('a fresh token that is expired too is final', async () => {
    let made = 0;
    const c = client({ token: 'old', getToken: () => `fresh${++made}` });
    c.on('error', () => {});
    const ready = c.connect();
    FakeWebSocket.last().drop(3502);
    await settle();
    FakeWebSocket.last().drop(3502);
    await assert.rejects(ready, { code: 'refused', closeCode: 3502 });
    assert.equal(made, 1);
  });

  test('without getToken an expired token is final', async () => {
    const c = client();
    c.on('error', () => {});
    const ready = c.connect();
    FakeWebSocket.last().drop(3502);
    await assert.rejects(ready, { closeCode: 3502 });
  });

  test('connect() after a refusal starts anew, with a new token', async () => {
    let made = 0;
    const c = client({ token: undefined, getToken: () => `t${++made}` });
    c.on('error', () => {});
    c.connect();
    await settle();
    FakeWebSocket.last().drop(3501);
    assert.equal(c.state, 'closed');
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    assert.equal(c.state, 'live');
    assert.equal(made, 2);
  });

  for (const [name, data] of [
    ['not JSON', '[{"op":'],
    ['an object without an array', '{"op":8}'],
    ['a binary message', new ArrayBuffer(16)],
  ]) {
    test(`${name}: an error, and a new attempt`, () => {
      const c = client();
      const log = record(c);
      c.connect();
      FakeWebSocket.last().accept();
      FakeWebSocket.last().raw(data);
      assert.deepEqual(log, ['connecting', 'live', 'error protocol', 'waiting', 'disconnect 0']);
    });
  }

  test('frames that it does not know, and frames that are not objects, do no harm', () => {
    const c = client();
    const log = record(c);
    c.connect();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().frames(null, 7, 'x', [], {}, { op: 77, seq: 1 }, { op: 21, seq: 999 }, { op: 8, seq: 1 });
    assert.deepEqual(log, ['connecting', 'live']);
  });
});

describe('heartbeats', () => {
  test("come at the server's interval", () => {
    const c = client();
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    mock.timers.tick(29_999);
    assert.equal(ws.of(2).length, 0);
    for (let i = 1; i <= 3; i++) {
      mock.timers.tick(i === 1 ? 1 : 30_000);
      assert.equal(ws.of(2).length, i);
      ws.frames({ ver: 2, op: 3, seq: ws.of(2).at(-1).seq, body: {} });
    }
    assert.equal(c.state, 'live');
  });

  test('silence after one ends the connection', () => {
    const c = client();
    const log = record(c);
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    mock.timers.tick(30_000);
    mock.timers.tick(9_999);
    assert.equal(c.state, 'live');
    mock.timers.tick(1);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
    assert.deepEqual(log.slice(2), ['waiting', 'disconnect 0']);
  });

  test('any frame is a sign of life', () => {
    const c = client();
    c.on('message', () => {});
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    mock.timers.tick(30_000);
    mock.timers.tick(5_000);
    ws.push(0, 'hello');
    mock.timers.tick(10_000);
    assert.equal(c.state, 'live');
  });

  test('none after close()', () => {
    const c = client();
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    c.close();
    mock.timers.tick(300_000);
    assert.equal(ws.of(2).length, 0);
    assert.equal(FakeWebSocket.sockets.length, 1);
  });
});

describe('in a browser', () => {
  let page;
  let doc;

  function browser() {
    page = new EventTarget();
    doc = new EventTarget();
    doc.visibilityState = 'visible';
    globalThis.addEventListener = page.addEventListener.bind(page);
    globalThis.removeEventListener = page.removeEventListener.bind(page);
    globalThis.document = doc;
  }

  test('online and visible again: tries at once', () => {
    browser();
    const c = client();
    c.connect();
    for (const wake of [
      () => page.dispatchEvent(new Event('online')),
      () => doc.dispatchEvent(new Event('visibilitychange')),
    ]) {
      FakeWebSocket.last().drop();
      const count = FakeWebSocket.sockets.length;
      wake();
      assert.equal(FakeWebSocket.sockets.length, count + 1);
    }
  });

  test('while live they look whether the connection is', () => {
    browser();
    const c = client();
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept();
    page.dispatchEvent(new Event('offline'));
    assert.equal(ws.of(2).length, 1);
    mock.timers.tick(6_000);
    doc.dispatchEvent(new Event('visibilitychange'));
    assert.equal(ws.of(2).length, 2);
    mock.timers.tick(4_000);
    assert.equal(c.state, 'waiting', 'ten seconds after the first, however often it asked since');
  });

  test('offline: waits the longest time, and the online event cuts it short', () => {
    browser();
    const own = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    Object.defineProperty(globalThis, 'navigator', { value: { onLine: false }, configurable: true });
    try {
      const c = client();
      let wait;
      c.on('disconnect', (event) => {
        wait = event.retryInMs;
      });
      c.connect();
      FakeWebSocket.last().drop();
      assert.equal(wait, 30_000);
      page.dispatchEvent(new Event('online'));
      assert.equal(FakeWebSocket.sockets.length, 2);
    } finally {
      if (own) Object.defineProperty(globalThis, 'navigator', own);
      else delete globalThis.navigator;
    }
  });

  test('hidden or left: acks go out at once', () => {
    browser();
    const c = client();
    c.on('message', () => {});
    c.connect();
    const ws = FakeWebSocket.last();
    ws.accept();
    ws.push(1);
    assert.deepEqual(ws.acked, []);
    doc.visibilityState = 'hidden';
    doc.dispatchEvent(new Event('visibilitychange'));
    assert.deepEqual(ws.acked, ['1']);
    ws.push(2);
    page.dispatchEvent(new Event('pagehide'));
    assert.deepEqual(ws.acked, ['1', '2']);
  });

  test('close() takes its listeners away', () => {
    browser();
    const c = client();
    c.connect();
    FakeWebSocket.last().accept();
    c.close();
    page.dispatchEvent(new Event('online'));
    doc.dispatchEvent(new Event('visibilitychange'));
    assert.equal(FakeWebSocket.sockets.length, 1);
  });
});

describe('close()', () => {
  test('ends, rejects who waits, and connect() starts again', async () => {
    const c = client();
    const log = record(c);
    c.close(); // before connect(): nothing to do
    const ready = c.connect();
    c.close();
    await assert.rejects(ready, (error) => error instanceof ImgoError && error.code === 'closed');
    assert.ok(FakeWebSocket.last().closed);
    c.close();
    assert.deepEqual(log, ['connecting', 'closed']);
    c.connect();
    FakeWebSocket.last().accept();
    assert.equal(c.state, 'live');
  });

  test('ends the wait for the next attempt', () => {
    const c = client();
    c.connect();
    FakeWebSocket.last().drop();
    c.close();
    mock.timers.tick(120_000);
    assert.equal(FakeWebSocket.sockets.length, 1);
  });

  test('from within any event', () => {
    for (const event of ['connecting', 'live', 'waiting']) {
      const c = client();
      c.on('state', ({ state }) => {
        if (state === event) c.close();
      });
      c.connect();
      FakeWebSocket.last()?.accept();
      FakeWebSocket.last()?.drop();
      mock.timers.tick(120_000);
      assert.equal(c.state, 'closed', event);
      FakeWebSocket.sockets = [];
    }
  });
});

describe('listeners', () => {
  test('one that throws stops nothing', () => {
    const c = client();
    const log = record(c);
    c.on('state', () => {
      throw new Error('mine');
    });
    c.connect();
    FakeWebSocket.last().accept();
    assert.deepEqual(log, ['connecting', 'error handler', 'live', 'error handler']);
    assert.equal(c.state, 'live');
  });

  test('an error without a listener, or in one, goes to the console', () => {
    const said = mock.method(console, 'error', () => {});
    const c = client();
    c.connect();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().raw('?');
    assert.equal(said.mock.callCount(), 1);
    c.on('error', () => {
      throw new Error('mine');
    });
    mock.timers.tick(250);
    FakeWebSocket.last().raw('?');
    assert.equal(said.mock.callCount(), 2);
  });

  test('can be taken away', () => {
    const c = client();
    const states = [];
    const listener = ({ state }) => states.push(state);
    const stop = c.on('state', listener);
    c.on('state', listener); // the same one twice is one
    c.connect();
    stop();
    FakeWebSocket.last().accept();
    assert.deepEqual(states, ['connecting']);
  });
});
