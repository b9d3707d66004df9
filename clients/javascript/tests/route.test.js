import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient } from '../src/imgo.js';
import { ask, discoverUrl, routeTo } from '../src/route.js';
import { FakeWebSocket, record, settle, tick } from './fakes.js';

const url = 'ws://home:8090/sub?zone=eu';

function client(options = {}) {
  return new ImgoClient({ url, token: 't', WebSocket: FakeWebSocket, ...options });
}

/** Says goodbye as a comet that stops does. */
function shutDown(ws, addresses) {
  ws.frames({ ver: 2, op: 6, seq: 0, body: { code: 3001, reason: 'shutting down', reconnect: true, addresses } });
}

/** Where the client has been, in order. */
const visited = () => FakeWebSocket.sockets.map((ws) => new URL(ws.url).hostname);

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

describe('addresses', () => {
  test('that lack something have the configured one’s', async () => {
    for (const [address, own, want] of [
      ['other:8090', url, 'ws://other:8090/sub?zone=eu'],
      ['[::1]:8090', url, 'ws://[::1]:8090/sub?zone=eu'],
      ['ws://other:8090', url, 'ws://other:8090/sub?zone=eu'],
      ['ws://other:8090/', url, 'ws://other:8090/sub?zone=eu'],
      ['ws://other/push', url, 'ws://other/push'],
      ['ws://other/push?a=b#top', url, 'ws://other/push?a=b'],
      ['wss://other', url, 'wss://other/sub?zone=eu'],
      ['other', 'wss://home/sub', 'wss://other/sub'],
      ['other:443', 'wss://home/sub', 'wss://other/sub'],
    ]) {
      assert.deepEqual(routeTo([address], own), [want, own], address);
    }
  });

  test('that are of no use are passed over', async () => {
    for (const address of ['', '://', 'http://other', 'https://other/sub', 'tcp://other:8080', 'a b', null, 7, {}, ['other']]) {
      assert.deepEqual(routeTo([address], url), [url], String(address));
    }
    for (const addresses of [undefined, null, 'other', {}, 3]) assert.deepEqual(routeTo(addresses, url), [url]);
  });

  test('without TLS are not for a token that went over TLS', async () => {
    assert.deepEqual(routeTo(['ws://other', 'WS://other', 'wss://safe/sub'], 'wss://home/sub'), ['wss://safe/sub', 'wss://home/sub']);
  });

  test('are bounded', async () => {
    const many = Array.from({ length: 100 }, (_, i) => `other${i}:1`);
    assert.equal(routeTo(many, url).length, 6);
    assert.equal(routeTo(['nonsense://x', ...many], url)[0], 'ws://other0:1/sub?zone=eu');
  });
});

describe('a server that stops', () => {
  test('names where to go instead', async () => {
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    shutDown(FakeWebSocket.last(), ['a:1', 'http://nonsense', 'b:1']);
    await tick(250);
    assert.deepEqual(visited(), ['home', 'a']);
    FakeWebSocket.last().drop(); // down
    await tick(250);
    assert.deepEqual(visited(), ['home', 'a', 'b']);
    FakeWebSocket.last().accept();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 't');
    // Afterwards the configured address counts again.
    FakeWebSocket.last().drop();
    await tick(250 * 2);
    assert.deepEqual(visited(), ['home', 'a', 'b', 'home']);
  });

  test('is come back to when all others are down', async () => {
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    shutDown(FakeWebSocket.last(), ['a:1', 'b:1']);
    for (let i = 0; i < 2; i++) {
      await tick(250);
      FakeWebSocket.last().drop();
    }
    await tick(250);
    assert.deepEqual(visited(), ['home', 'a', 'b', 'home']);
  });

  test('may name others before it accepts anybody', async () => {
    const c = client();
    c.connect();
    await settle();
    FakeWebSocket.last().open();
    shutDown(FakeWebSocket.last(), ['a:1']);
    await tick(250);
    assert.deepEqual(visited(), ['home', 'a']);
  });

  test('does not send clients in circles without end: the waits grow', async () => {
    const c = client();
    const waits = [];
    c.on('state', (event) => event.state === 'waiting' && waits.push(event.retryIn));
    c.connect();
    await settle();
    for (let i = 0; i < 8; i++) {
      FakeWebSocket.last().accept();
      shutDown(FakeWebSocket.last(), ['home:8090']);
      await tick(waits.at(-1));
    }
    assert.deepEqual(waits, [250, 250, 500, 1000, 2000, 4000, 8000, 15_000]);
  });

  test('is not followed to where the socket cannot be made', async () => {
    const c = client();
    const log = record(c);
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    shutDown(FakeWebSocket.last(), ['a:1']);
    FakeWebSocket.refuse = new Error('blocked by the page');
    await tick(250);
    FakeWebSocket.refuse = null;
    await tick(250);
    assert.deepEqual(visited(), ['home', 'home']);
    assert.ok(!log.includes('closed'), 'one bad address ended the client');
  });

  test('with addresses of nonsense is one without', async () => {
    for (const addresses of [[], 'a:1', null, [7], { 0: 'a:1' }]) {
      FakeWebSocket.sockets = [];
      const c = client();
      c.connect();
      await settle();
      FakeWebSocket.last().accept();
      shutDown(FakeWebSocket.last(), addresses);
      await tick(250);
      assert.deepEqual(visited(), ['home', 'home']);
      c.close();
    }
  });

  test('and whom nobody wants to come back names nothing', async () => {
    const c = client();
    c.on('error', () => {});
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    FakeWebSocket.last().frames({ ver: 2, op: 6, body: { code: 3503, reconnect: false, addresses: ['a:1'] } });
    await tick(60_000);
    assert.deepEqual(visited(), ['home']);
    assert.equal(c.state, 'closed');
  });
});

describe('discovery', () => {
  /** A fetch that gives one answer after another, and what was asked. */
  function api(...answers) {
    const asked = [];
    const fetch = async (question, options) => {
      asked.push({ question, options });
      const answer = answers.shift();
      if (answer instanceof Error) throw answer;
      if (answer === 'silence') return new Promise((_, reject) => options.signal.addEventListener('abort', () => reject(options.signal.reason)));
      if (typeof answer === 'number') return { ok: false, status: answer };
      return { ok: true, status: 200, json: async () => answer };
    };
    return { asked, fetch, discover: 'http://api:7172' };
  }

  test('is asked before each round, and its answer comes first', async () => {
    const { asked, ...options } = api({ addresses: ['a:1', 'b:1'] }, { addresses: ['c:1'] });
    const c = client(options);
    c.connect();
    await settle();
    assert.equal(asked[0].question, 'http://api:7172/v1/nodes/best?transport=ws');
    assert.deepEqual([asked[0].options.cache, asked[0].options.credentials, asked[0].options.redirect], ['no-store', 'omit', 'error']);
    FakeWebSocket.last().drop();
    await tick(250);
    assert.equal(asked.length, 1, 'the rest of the round needs no question');
    FakeWebSocket.last().accept();
    FakeWebSocket.last().drop();
    await tick(250);
    await settle();
    assert.deepEqual(visited(), ['a', 'b', 'c']);
    assert.equal(asked.length, 2);
  });

  test('that fails leaves the configured address', async () => {
    for (const answer of [new Error('no route'), 503, null, {}, { addresses: 'a:1' }, { addresses: [] }]) {
      FakeWebSocket.sockets = [];
      const { asked, ...options } = api(answer);
      const c = client(options);
      const log = record(c);
      c.connect();
      await settle();
      await settle();
      assert.deepEqual(visited(), ['home'], JSON.stringify(answer));
      assert.deepEqual(log, ['connecting']);
      assert.equal(asked.length, 1);
      c.close();
    }
  });

  test('that does not answer costs its time only, once', async () => {
    const { asked, ...options } = api('silence');
    const c = client(options);
    c.connect();
    await settle();
    await tick(2999);
    assert.deepEqual(visited(), []);
    await tick(1);
    assert.ok(asked[0].options.signal.aborted);
    await settle(); // its rejection must not connect a second time
    assert.deepEqual(visited(), ['home']);
    FakeWebSocket.last().accept();
    assert.equal(c.state, 'live');
  });

  test('is given up with close()', async () => {
    const { asked, ...options } = api('silence', { addresses: ['b:1'] });
    const c = client(options);
    c.connect().catch(() => {});
    await settle();
    c.close();
    assert.ok(asked[0].options.signal.aborted);
    await settle();
    await tick(60_000);
    assert.deepEqual(visited(), []);
    c.connect();
    await settle();
    assert.deepEqual(visited(), ['b']);
  });

  test('gives way to what a server that stops has named', async () => {
    const { asked, ...options } = api({ addresses: ['a:1'] }, { addresses: ['b:1'] });
    const c = client(options);
    c.connect();
    await settle();
    FakeWebSocket.last().accept();
    shutDown(FakeWebSocket.last(), ['told:1']);
    await tick(250);
    await settle();
    assert.deepEqual(visited(), ['a', 'told']);
    assert.equal(asked.length, 1);
  });

  test('waits for the token', async () => {
    const { asked, ...options } = api({ addresses: ['a:1'] });
    let give;
    const c = client({ ...options, token: undefined, tokenSource: () => new Promise((resolve) => (give = resolve)) });
    c.connect();
    await settle();
    assert.equal(asked.length, 0);
    give('fresh');
    await settle();
    FakeWebSocket.last().open();
    assert.equal(FakeWebSocket.last().sent[0].body.token, 'fresh');
  });

  test('must be as safe as the connection', async () => {
    const fetch = () => {};
    for (const [discover, own] of [
      ['api:7172', url],
      ['ws://api', url],
      ['', url],
      [null, url],
      ['http://api', 'wss://home/sub'],
      ['http://api', 'WSS://home/sub'],
    ]) {
      assert.throws(() => client({ url: own, discover, fetch }), { code: 'invalid', message: /discover/ }, String(discover));
    }
    assert.equal(discoverUrl('https://api', 'wss://home'), 'https://api/v1/nodes/best?transport=ws');
    assert.equal(discoverUrl('https://api/my/best?zone=eu', url), 'https://api/my/best?zone=eu&transport=ws');
  });

  test('says so where there is no fetch', async () => {
    const own = globalThis.fetch;
    try {
      delete globalThis.fetch;
      assert.throws(() => client({ discover: 'http://api' }), { code: 'unsupported', message: /fetch/ });
    } finally {
      globalThis.fetch = own;
    }
  });

  test('an answer that is no answer is an error', async () => {
    const { signal } = new AbortController();
    await assert.rejects(ask(async () => ({ ok: false, status: 503 }), 'q', signal), /503/);
    const bad = { ok: true, json: async () => JSON.parse('<html>') };
    await assert.rejects(ask(async () => bad, 'q', signal), SyntaxError);
    assert.equal(await ask(async () => ({ ok: true, json: async () => null }), 'q', signal), undefined);
  });
});
