import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient, ImgoError } from '../src/imgo.js';
import { reconnects } from '../src/protocol.js';
import { FakeWebSocket, record, settle, tick } from './fakes.js';

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
  test('names the option that is wrong', () => {
    for (const [options, name] of [
      [{ url: undefined }, 'url'],
      [{ url: 'http://x' }, 'url'],
      [{ url: 'ws://' }, 'url'],
      [{ token: undefined }, 'token'],
      [{ token: '' }, 'token'],
      [{ tokenSource: 't' }, 'tokenSource'],
      [{ device: 'é'.repeat(65) }, 'device'],
      [{ device: 'a\u0007' }, 'device'],
      [{ platform: '' }, 'platform'],
      [{ rooms: 'a' }, 'rooms'],
      [{ rooms: [''] }, 'rooms'],
      [{ accepts: [999] }, 'accepts'],
      [{ accepts: [1000.5] }, 'accepts'],
      [{ store: {} }, 'store'],
      [{ minBackoff: 0 }, 'minBackoff'],
      [{ minBackoff: 500, maxBackoff: 400 }, 'maxBackoff'],
      [{ connectTimeout: '1' }, 'connectTimeout'],
      [{ authTimeout: Infinity }, 'authTimeout'],
      [{ closeTimeout: -1 }, 'closeTimeout'],
      [{ queue: 1.5 }, 'queue'],
      [{ remember: 0 }, 'remember'],
      [{ maxBody: 2 ** 31 }, 'maxBody'],
      [{ log: 'all' }, 'log'],
      [{ discover: 'x' }, 'discover'],
      [{ heartbeat: 3 }, 'heartbeat'],
    ]) {
      assert.throws(() => client(options), { name: 'ImgoError', code: 'invalid', message: new RegExp(name) });
    }
    assert.throws(() => new ImgoClient(), { code: 'invalid' });
    client({ stableAfter: 0, ackDelay: 0, closeTimeout: 0, device: undefined });
  });

  test('connect() says what to do where there is no WebSocket', async () => {
    const own = globalThis.WebSocket;
    try {
      delete globalThis.WebSocket;
      const c = client({ WebSocket: undefined });
      await assert.rejects(c.connect(), { code: 'unsupported', message: /option WebSocket/ });
      assert.equal(c.state, 'closed');
    } finally {
      if (own) globalThis.WebSocket = own;
    }
  });

  test('the default path is /sub', async () => {
    for (const [given, want] of [
      ['ws://h:1', 'ws://h:1/sub'],
      ['ws://h:1/', 'ws://h:1/sub'],
      ['wss://h/push?a=b', 'wss://h/push?a=b'],
    ]) {
      client({ url: given }).connect();
      await settle();
      assert.equal(FakeWebSocket.last().url, want);
    }
  });
});

describe('connecting', () => {
  test('authenticates with everything that was given', async () => {
    const c = client({ device: 'phone', platform: 'web', accepts: [1000], rooms: ['a', 'b'] });
    const log = record(c);
    const ready = c.connect();
    await settle();
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
    assert.deepEqual(await ready, { session: 'comet1-7', user: 'ana', heartbeat: 30_000, pending: 3, rooms: [] });
    assert.equal(c.state, 'live');
    assert.deepEqual(log, ['connecting', 'live']);
    assert.deepEqual(await c.connect(), c.info, 'connect() while live gives what is known');
    assert.equal(FakeWebSocket.sockets.length, 1);
  });

  test('takes an auth reply without any field, and numbers that make no sense', async () => {
    for (const body of [{}, null, '', { heartbeat: -1 }, { heartbeat: 1e12 }]) {
      const c = client();
      const ready = c.connect();
      await settle();
      FakeWebSocket.last().accept(body);
      assert.deepEqual(await ready, { session: '', user: '', heartbeat: 60_000, pending: 0, rooms: [] });
      c.close();
    }
  });

  test('asks tokenSource when it has no token', async () => {
    const c = client({ token: undefined, tokenSource: async () => 'fresh' });
    c.connect();
    await settle();
    FakeWebSocket.last().open();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 'fresh');
  });

  test('asks tokenSource before each attempt, and tries again when that fails or gives nothing', async () => {
    const answers = [() => Promise.reject(new Error('502')), () => '', () => 't1', () => 't2'];
    const c = client({ token: undefined, tokenSource: () => answers.shift()() });
    const log = record(c);
    c.connect();
    await settle();
    assert.deepEqual(log, ['connecting', 'error token', 'waiting']);
    await tick(250);
    assert.deepEqual(log.slice(3), ['connecting', 'error token', 'waiting']);
    assert.equal(FakeWebSocket.sockets.length, 0);
    await tick(500);
    FakeWebSocket.last().accept();
    FakeWebSocket.last().drop();
    await tick(1000);
    FakeWebSocket.last().accept();
    assert.deepEqual(
      FakeWebSocket.sockets.map((ws) => ws.sent[0].body.token),
      ['t1', 't2'],
    );
  });

  test('gives up a socket that does not open', async () => {
    const c = client();
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    await tick(9_999);
    assert.equal(c.state, 'connecting');
    await tick(1);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
  });

  test('waits for its turn where many connect at once', async () => {
    const c = client();
    const ready = c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    await tick(9_999);
    ws.open();
    await tick(30_000);
    ws.frames({ ver: 2, op: 8, seq: ws.sent[0].seq, body: {} });
    await ready;
    await tick(20_000);
    assert.equal(c.state, 'live');
  });

  test('gives up an attempt that is not answered', async () => {
    const c = client();
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.open();
    await tick(39_999);
    assert.equal(c.state, 'connecting');
    await tick(1);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
    ws.accept(); // too late, and ignored
    assert.equal(c.state, 'waiting');
  });

  test('gives up a tokenSource that hangs, and ignores its late answer', async () => {
    const answers = [];
    const c = client({ token: undefined, tokenSource: () => new Promise((resolve) => answers.push(resolve)) });
    const log = record(c);
    c.connect();
    await settle();
    await tick(10_000);
    assert.deepEqual(log, ['connecting', 'error token', 'waiting']);
    answers[0]('late');
    await settle();
    assert.equal(FakeWebSocket.sockets.length, 0);
  });

  test('ends with a clear error when the socket cannot even be made', async () => {
    FakeWebSocket.refuse = new Error('insecure from an https page');
    const c = client();
    await assert.rejects(c.connect(), { code: 'invalid', message: /cannot open ws:.*insecure/ });
    assert.equal(c.state, 'closed');
  });

  test('nobody has to take the promise', async () => {
    const c = client();
    const log = record(c);
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().frames({ ver: 2, op: 6, seq: 0, body: { code: 3503, reason: 'revoked' } });
    c.connect();
    await settle();
    c.close();
    await settle(); // an unhandled rejection would fail the run
    assert.equal(log.at(-1), 'closed');
  });
});

describe('coming back', () => {
  test('waits with full jitter, doubling up to the cap', async () => {
    const c = client();
    const waits = [];
    c.on('state', (event) => {
      if (event.state === 'waiting') waits.push(event.retryIn);
    });
    c.connect();
    await settle();
    for (let i = 0; i < 8; i++) {
      FakeWebSocket.last().drop();
      const count = FakeWebSocket.sockets.length;
      await tick(waits.at(-1) - 1);
      assert.equal(FakeWebSocket.sockets.length, count, 'not before the wait is over');
      await tick(1);
      assert.equal(FakeWebSocket.sockets.length, count + 1);
    }
    assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
  });

  test('the jitter covers the whole window', async () => {
    const draws = [0, 0.999];
    mock.method(Math, 'random', () => draws.shift());
    const c = client({ minBackoff: 1000, maxBackoff: 1000 });
    const waits = [];
    c.on('state', (event) => event.state === 'waiting' && waits.push(event.retryIn));
    c.connect();
    await settle();
    FakeWebSocket.last().drop();
    await tick(0);
    FakeWebSocket.last().drop();
    assert.deepEqual(waits, [0, 999]);
  });

  test('starts anew after a stable connection only', async () => {
    const c = client();
    const waits = [];
    c.on('state', (event) => event.state === 'waiting' && waits.push(event.retryIn));
    c.connect();
    await settle();
    for (const liveFor of [9_999, 9_999, 10_000]) {
      FakeWebSocket.last().accept();
      await tick(liveFor);
      FakeWebSocket.last().drop();
      await tick(waits.at(-1));
    }
    assert.deepEqual(waits, [250, 500, 250]);
  });

  test('connect() while waiting tries at once', async () => {
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().drop();
    assert.equal(c.state, 'waiting');
    c.connect();
    await settle();
    assert.equal(FakeWebSocket.sockets.length, 2);
    FakeWebSocket.last().drop();
    await tick(500);
    assert.equal(FakeWebSocket.sockets.length, 3, 'and goes on by itself');
  });

  test('the promise of connect() outlives failed attempts', async () => {
    const c = client();
    const ready = c.connect();
    await settle();
    FakeWebSocket.last().drop();
    await tick(250);
    FakeWebSocket.last().accept({ session: 's2' });
    assert.equal((await ready).session, 's2');
  });

  test('events of a socket that was given up are ignored', async () => {
    const c = client();
    c.connect();
    await settle();
    const old = FakeWebSocket.last();
    const { onmessage, onclose } = old;
    old.drop();
    await tick(250);
    FakeWebSocket.last().accept();
    onmessage({ data: '[{"op":6,"body":{"code":3506}}]' });
    onclose({ code: 3506 });
    old.onerror(new Error('late'));
    assert.equal(c.state, 'live');
  });
});

describe('what the server says', () => {
  test('the ranges of codes', async () => {
    for (const code of [0, 1000, 1006, 1011, 3000, 3001, 3499]) assert.equal(reconnects(code), true, `${code}`);
    for (const code of [3500, 3503, 3999, 4000]) assert.equal(reconnects(code), false, `${code}`);
  });

  for (const code of [3001, 3002, 3004, 3005]) {
    test(`op 6 with ${code}: comes back`, async () => {
      const c = client();
      const log = record(c);
      c.connect();
      await settle();
      FakeWebSocket.last().accept();
      FakeWebSocket.last().frames({ ver: 2, op: 6, seq: 0, body: { code, reason: 'bye', reconnect: true } });
      assert.deepEqual(log, ['connecting', 'live', `waiting ${code}`]);
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
        await settle();
        FakeWebSocket.last().open();
        end(FakeWebSocket.last());
        await assert.rejects(ready, { code: 'refused', closeCode: code, message: /no more/ });
        assert.deepEqual(log, ['connecting', `closed ${code}`]);
        const count = FakeWebSocket.sockets.length;
        await tick(120_000);
        assert.equal(FakeWebSocket.sockets.length, count);
      }
    });
  }

  test('op 6 says itself whether to come back, also with a code of tomorrow', async () => {
    for (const [code, reconnect, state] of [
      [3100, false, 'closed'],
      [3900, true, 'waiting'],
    ]) {
      const c = client();
      c.on('error', () => {});
      c.connect();
      await settle();
      FakeWebSocket.last().accept();
      FakeWebSocket.last().frames({ ver: 2, op: 6, body: { code, reconnect } });
      assert.equal(c.state, state);
    }
  });

  test('an expired token is replaced once', async () => {
    let made = 0;
    const c = client({ token: undefined, tokenSource: async () => `t${++made}` });
    const ready = c.connect();
    await settle();
    FakeWebSocket.last().open();
    FakeWebSocket.last().frames({ ver: 2, op: 6, body: { code: 3502, reason: 'token expired', reconnect: false } });
    await tick(250);
    assert.equal(FakeWebSocket.sockets.length, 2);
    FakeWebSocket.last().accept();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 't2');
    await ready;
    // Hours later it has expired again: that is a new "once".
    FakeWebSocket.last().drop(3502, 'token expired');
    await tick(500);
    FakeWebSocket.last().accept();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 't3');
    assert.equal(c.state, 'live');
  });

  test('a new token that is expired too is final', async () => {
    let made = 0;
    const c = client({ token: undefined, tokenSource: () => `t${++made}` });
    const ready = c.connect();
    await settle();
    FakeWebSocket.last().drop(3502);
    await tick(250);
    FakeWebSocket.last().drop(3502);
    await assert.rejects(ready, { code: 'refused', closeCode: 3502 });
    assert.equal(made, 2);
  });

  test('without tokenSource an expired token is final', async () => {
    const c = client();
    c.on('error', () => {});
    const ready = c.connect();
    await settle();
    FakeWebSocket.last().drop(3502);
    await assert.rejects(ready, { closeCode: 3502 });
  });

  test('connect() after a refusal starts anew, with a new token', async () => {
    let made = 0;
    const c = client({ token: undefined, tokenSource: () => `t${++made}` });
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
    test(`${name}: an error, and a new attempt`, async () => {
      const c = client();
      const log = record(c);
      c.connect();
      await settle();
      FakeWebSocket.last().accept();
      FakeWebSocket.last().raw(data);
      assert.deepEqual(log, ['connecting', 'live', 'error protocol', 'waiting']);
    });
  }

  test('frames that it does not know, and frames that are not objects, do no harm', async () => {
    const c = client();
    const log = record(c);
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().frames(null, 7, 'x', [], {}, { op: 77, seq: 1 }, { op: 21, seq: 999 }, { op: 8, seq: 1 });
    assert.deepEqual(log, ['connecting', 'live']);
  });
});

describe('heartbeats', () => {
  test("come at the server's interval", async () => {
    const c = client();
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    await tick(29_999);
    assert.equal(ws.of(2).length, 0);
    for (let i = 1; i <= 3; i++) {
      await tick(i === 1 ? 1 : 30_000);
      assert.equal(ws.of(2).length, i);
      ws.frames({ ver: 2, op: 3, seq: ws.of(2).at(-1).seq, body: {} });
    }
    assert.equal(c.state, 'live');
  });

  test('silence after one ends the connection', async () => {
    const c = client();
    const log = record(c);
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    await tick(30_000);
    await tick(9_999);
    assert.equal(c.state, 'live');
    await tick(1);
    assert.equal(c.state, 'waiting');
    assert.ok(ws.closed);
    assert.deepEqual(log.slice(2), ['waiting']);
  });

  test('any frame is a sign of life', async () => {
    const c = client();
    c.on('message', () => {});
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    await tick(30_000);
    await tick(5_000);
    ws.push(0, 'hello');
    await tick(10_000);
    assert.equal(c.state, 'live');
  });

  test('the reply starts the time until the next one, and without a reply they go on', async () => {
    const c = client({ heartbeatTimeout: 100_000 });
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    await tick(30_000);
    await tick(400);
    ws.frames({ ver: 2, op: 3, seq: ws.of(2).at(-1).seq, body: {} });
    await tick(29_999);
    assert.equal(ws.of(2).length, 1);
    await tick(1);
    assert.equal(ws.of(2).length, 2);
    await tick(30_000);
    assert.equal(ws.of(2).length, 3);
    await c.close();
  });

  test('a socket that cannot write one ends the session, and no timer is left', async () => {
    const c = client();
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    ws.send = () => {
      throw new Error('broken');
    };
    await tick(30_000);
    assert.equal(c.state, 'waiting');
    await c.close();
    const start = mock.method(globalThis, 'setTimeout');
    await tick(300_000);
    assert.equal(start.mock.callCount(), 0);
  });

  test('none after close()', async () => {
    const c = client();
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept({ heartbeat: 30 });
    await c.close();
    await tick(300_000);
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

  test('online and visible again: tries at once', async () => {
    browser();
    const c = client();
    c.connect();
    await settle();
    for (const wake of [
      () => page.dispatchEvent(new Event('online')),
      () => doc.dispatchEvent(new Event('visibilitychange')),
    ]) {
      FakeWebSocket.last().drop();
      const count = FakeWebSocket.sockets.length;
      wake();
      await settle();
      assert.equal(FakeWebSocket.sockets.length, count + 1);
    }
  });

  test('while live they look whether the connection is', async () => {
    browser();
    const c = client();
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept();
    page.dispatchEvent(new Event('offline'));
    assert.equal(ws.of(2).length, 1);
    await tick(6_000);
    doc.dispatchEvent(new Event('visibilitychange'));
    assert.equal(ws.of(2).length, 2);
    await tick(4_000);
    assert.equal(c.state, 'waiting', 'ten seconds after the first, however often it asked since');
  });

  test('offline: waits the longest time, and the online event cuts it short', async () => {
    browser();
    const own = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    Object.defineProperty(globalThis, 'navigator', { value: { onLine: false }, configurable: true });
    try {
      const c = client();
      let wait;
      c.on('state', (event) => {
        if (event.state === 'waiting') wait = event.retryIn;
      });
      c.connect();
      await settle();
      FakeWebSocket.last().drop();
      assert.equal(wait, 30_000);
      page.dispatchEvent(new Event('online'));
      await settle();
      assert.equal(FakeWebSocket.sockets.length, 2);
    } finally {
      if (own) Object.defineProperty(globalThis, 'navigator', own);
      else delete globalThis.navigator;
    }
  });

  test('hidden or left: acks go out at once', async () => {
    browser();
    const c = client();
    c.on('message', () => {});
    c.connect();
    await settle();
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

  test('left for the back/forward cache: ends the session, and reads the stores again with the next one', async () => {
    browser();
    const outbox = {
      content: { base: '0', last: 0, messages: [] },
      load: () => outbox.content,
      setBase: (base) => void (outbox.content = { ...outbox.content, base }),
      add: (message) => {
        if (message.number <= outbox.content.last) throw new Error('another client uses it');
        outbox.content = { ...outbox.content, last: message.number, messages: [...outbox.content.messages, message] };
      },
      remove: (number) => void (outbox.content = { ...outbox.content, messages: outbox.content.messages.filter((m) => m.number > number) }),
    };
    const c = client({ device: 'd', outbox });
    c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    ws.accept();
    await c.publish('mine');
    await settle();
    assert.equal(ws.of(4).length, 1);
    page.dispatchEvent(Object.assign(new Event('pagehide'), { persisted: true }));
    assert.equal(c.state, 'waiting');
    await tick(60_000);
    assert.equal(FakeWebSocket.sockets.length, 1, 'a hidden page does not connect');
    // Another page has sent the message, and has published two.
    outbox.content = { base: '0', last: 3, messages: [{ number: 3, op: 4, body: 'other' }] };
    page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
    await settle();
    FakeWebSocket.last().accept();
    await settle();
    assert.deepEqual(
      FakeWebSocket.last()
        .of(4)
        .map(({ body }) => body),
      ['other'],
    );
    assert.equal(await c.publish('next'), 4);
    outbox.content.last = 9;
    await assert.rejects(c.publish('x'), { code: 'storage' });
    assert.equal(await c.publish('x'), 10, 'the failure has it read the outbox again');
  });

  test('left for the back/forward cache while the outbox adds a message: reads the outbox again', async () => {
    browser();
    let added;
    let content = { base: '0', last: 0, messages: [] };
    const outbox = {
      load: () => content,
      setBase: () => {},
      add: () => new Promise((resolve) => (added = resolve)),
      remove: () => {},
    };
    const c = client({ device: 'd', outbox });
    c.connect();
    await settle();
    const publishing = c.publish('mine');
    await settle();
    page.dispatchEvent(Object.assign(new Event('pagehide'), { persisted: true }));
    added();
    assert.equal(await publishing, 1);
    content = { base: '0', last: 8, messages: [] }; // by another page
    const next = c.publish('next');
    await settle();
    added();
    assert.equal(await next, 9);
  });

  test('close() takes its listeners away', async () => {
    browser();
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    await c.close();
    page.dispatchEvent(new Event('online'));
    doc.dispatchEvent(new Event('visibilitychange'));
    assert.equal(FakeWebSocket.sockets.length, 1);
  });
});

describe('close()', () => {
  test('in the listener of the state live stops everything', async () => {
    const c = client({ device: 'd' });
    await c.publish('later');
    c.on('state', ({ state }) => {
      if (state === 'live') c.close();
    });
    const ready = c.connect();
    await settle();
    const ws = FakeWebSocket.last();
    await c.join('room');
    ws.accept();
    await settle();
    assert.deepEqual([ws.of(20).length, ws.of(4).length], [0, 0]);
    await tick(60_000);
    assert.equal(c.state, 'closed');
    await assert.rejects(ready, { code: 'closed' });
  });

  test('ends, rejects the promise of connect(), and connect() starts again', async () => {
    const c = client();
    const log = record(c);
    await c.close(); // before connect(): nothing to do
    assert.equal(c.state, 'idle');
    const ready = c.connect();
    await settle();
    const closed = c.close();
    assert.equal(c.close(), closed, 'a second call waits for the same end');
    await assert.rejects(ready, (error) => error instanceof ImgoError && error.code === 'closed');
    await closed;
    assert.ok(FakeWebSocket.last().closed);
    assert.deepEqual(log, ['connecting', 'closed']);
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    assert.equal(c.state, 'live');
  });

  test('ends the wait for the next attempt', async () => {
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().drop();
    await c.close();
    await tick(120_000);
    assert.equal(FakeWebSocket.sockets.length, 1);
  });

  test('a connect() meanwhile begins after it', async () => {
    const c = client();
    const log = record(c);
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    const closed = c.close();
    const again = c.connect();
    await closed;
    await settle();
    FakeWebSocket.last().accept();
    await again;
    assert.deepEqual(log, ['connecting', 'live', 'closed', 'connecting', 'live']);
  });

  test('a later close() drops a connect() that waits for the end', async () => {
    for (const late of [false, true]) {
      const c = client();
      const log = record(c);
      c.connect();
      await settle();
      FakeWebSocket.last().accept();
      const closed = c.close();
      const after = late && closed.then(() => c.close()); // the client is closed, and the connect() goes on next
      const dropped = assert.rejects(c.connect(), { code: 'closed' });
      const last = late ? after : c.close();
      const wanted = late ? undefined : c.connect();
      await last;
      await dropped;
      await settle();
      if (wanted) FakeWebSocket.last().accept();
      await wanted;
      assert.deepEqual(log, ['connecting', 'live', 'closed', ...(wanted ? ['connecting', 'live'] : [])]);
    }
  });

  test('a connection that is lost meanwhile changes nothing', async () => {
    const c = client();
    const log = record(c);
    c.on('message', () => new Promise(() => {}));
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    const closed = c.close();
    FakeWebSocket.last().drop();
    await tick(10_000);
    await closed;
    assert.deepEqual(log, ['connecting', 'live', 'closed']);
  });

  test('from within any event', async () => {
    for (const event of ['connecting', 'live', 'waiting']) {
      const c = client();
      c.on('state', ({ state }) => {
        if (state === event) c.close();
      });
      c.connect();
      await settle();
      FakeWebSocket.last()?.accept();
      FakeWebSocket.last()?.drop();
      await tick(120_000);
      assert.equal(c.state, 'closed', event);
      FakeWebSocket.sockets = [];
    }
  });

  test('a listener of messages may call it, and is acknowledged', async () => {
    const c = client();
    c.on('message', async () => {
      c.close();
      await settle();
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().push(1);
    await settle();
    await settle();
    assert.deepEqual(FakeWebSocket.last().acked, ['1']);
    await tick(2000);
    assert.equal(c.state, 'closed');
  });
});

describe('the log', () => {
  test('gets a level and a line', async () => {
    const lines = [];
    const said = mock.method(console, 'error', () => {});
    const c = client({ token: 'secret', log: (level, line) => lines.push(`${level} ${line}`) });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().raw('?');
    assert.equal(said.mock.callCount(), 0);
    for (const want of [/^debug connecting to ws:/, /^info live .*comet1-1/, /^warn protocol: /, /^info waiting /]) {
      assert.ok(
        lines.some((line) => want.test(line)),
        `${want} is not in ${lines.join('\n')}`,
      );
    }
    assert.ok(!lines.some((line) => line.includes('secret')), 'a token is never logged');
  });
});

describe('listeners', () => {
  test('one that throws stops nothing', async () => {
    const c = client();
    const log = record(c);
    c.on('state', () => {
      throw new Error('mine');
    });
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    assert.deepEqual(log, ['connecting', 'error handler', 'live', 'error handler']);
    assert.equal(c.state, 'live');
  });

  test('an error without a listener, or in one, goes to the console', async () => {
    const said = mock.method(console, 'error', () => {});
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().raw('?');
    assert.equal(said.mock.callCount(), 1);
    c.on('error', () => {
      throw new Error('mine');
    });
    await tick(250);
    FakeWebSocket.last().raw('?');
    assert.equal(said.mock.callCount(), 2);
  });

  test('can be taken away', async () => {
    const c = client();
    const states = [];
    const listener = ({ state }) => states.push(state);
    const stop = c.on('state', listener);
    c.on('state', listener); // the same one twice is one
    c.connect();
    await settle();
    stop();
    FakeWebSocket.last().accept();
    assert.deepEqual(states, ['connecting']);
  });
});
