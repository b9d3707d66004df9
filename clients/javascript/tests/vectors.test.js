import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { ImgoClient } from '../src/imgo.js';
import { checkedName, reconnects } from '../src/protocol.js';
import { routeTo } from '../src/route.js';
import { FakeWebSocket, record, settle, tick } from './fakes.js';

/** Reads a file that the tests of all client libraries and of the server share. */
function vectors(file, ...lists) {
  const all = JSON.parse(readFileSync(new URL(`../../vectors/${file}.json`, import.meta.url), 'utf8'));
  return lists.map((list) => {
    assert.ok(all[list]?.length > 0, `${file}.json has no ${list}`);
    return all[list];
  });
}

/** The JSON value that a frame has for a body of a server, as the server makes it. */
function framed(body) {
  if (body === '') return {};
  try {
    return JSON.parse(body);
  } catch {
    return body;
  }
}

async function started(options = {}) {
  const c = new ImgoClient({ url: 'ws://h:1', token: 't', WebSocket: FakeWebSocket, ...options });
  const log = record(c);
  const states = [];
  c.on('state', (event) => states.push(event));
  c.connect();
  await settle();
  const ws = FakeWebSocket.last();
  ws.open();
  return { c, ws, log, states };
}

async function live(options, body = {}) {
  const all = await started(options);
  all.ws.frames({ ver: 2, op: 8, seq: 1, body });
  return all;
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

test('auth bodies', async () => {
  const [auth, newToken] = vectors('auth', 'auth', 'new_token');
  for (const { options, body, name } of auth) {
    const { ws } = await started(options);
    assert.deepEqual(ws.sent[0].body, body, name);
  }
  for (const { token, body } of newToken) {
    const tokens = ['first', token];
    const { ws } = await started({ token: undefined, tokenSource: () => tokens.shift() });
    ws.frames({ ver: 2, op: 8, seq: 1, body: { expires_in: 10 } });
    await tick(8000);
    assert.deepEqual(ws.sent.at(-1).body, body);
  }
});

test('auth replies', async () => {
  const [replies, broken, published] = vectors('auth_replies', 'replies', 'broken', 'broken_published');
  for (const { name, body, session, user, heartbeat_ms: heartbeat, pending, rooms, refused, ...rest } of replies) {
    const { expires_in_ms: ends, max_body: most } = rest;
    const tokenSource = mock.fn(() => 't');
    const { c, ws } = await started({ tokenSource });
    const changes = [];
    c.on('room', ({ room, code, reason }) => changes.push({ room, code, reason }));
    ws.frames({ ver: 2, op: 8, seq: 1, body: framed(body) });
    assert.equal(c.state, 'live', name);
    assert.deepEqual(c.info, { session, user, heartbeat, pending, rooms }, name);
    assert.deepEqual(changes, refused, name);
    const large = 'a'.repeat((most || 1 << 20) + 1);
    const rejected = assert.rejects(c.send(large), { code: most > 0 ? 'invalid' : 'closed' }, name);
    assert.equal(ws.of(4).length, most > 0 ? 0 : 1, name);
    await tick(Math.max(0, ends * 0.8 - 1));
    assert.equal(tokenSource.mock.callCount(), 1, name);
    await tick(1);
    assert.equal(tokenSource.mock.callCount(), ends > 0 ? 2 : 1, name);
    await c.close();
    await rejected;
  }
  for (const { name, body } of [...broken, ...published]) {
    const { ws, log } = await started();
    ws.frames({ ver: 2, op: 8, seq: 1, body: framed(body) });
    assert.deepEqual(log, ['connecting', 'error protocol', 'waiting'], name);
  }
});

test('published messages', async () => {
  mock.method(Date, 'now', () => 0); // so that ids begin above what the server has
  const [sent, refused] = vectors('publish', 'sent', 'refused');
  for (const { name, op, id, json } of sent) {
    const { c, ws } = await live({ device: 'd' }, { published: String(BigInt(id) - 1n) });
    await c.publish(json.body, { op });
    await settle();
    const { seq: _, ...frame } = ws.sent.at(-1);
    const { seq: __, ...want } = json;
    assert.deepEqual(frame, want, name);
    await c.close();
  }
  mock.method(Math, 'random', () => 0.5);
  for (const { name, body, server_code: serverCode, retry_ms: wait, again } of refused) {
    const { c, ws } = await live({ device: 'd' });
    const events = [];
    c.on('published', ({ error }) => events.push(error.serverCode));
    await c.publish('a');
    await settle();
    const { seq } = ws.sent.at(-1);
    ws.frames({ ver: 2, op: 28, seq, body: framed(body) });
    await settle();
    assert.deepEqual(events, again ? [] : [serverCode], name);
    const count = () => ws.of(4).length;
    await tick((wait ?? 250) - 1);
    assert.equal(count(), 1, name);
    await tick(1);
    assert.equal(count(), again ? 2 : 1, name);
    await c.close();
  }
});

test('messages that were read', async () => {
  const [read, dismiss, broken] = vectors('read', 'read', 'dismiss', 'broken_dismiss');
  for (const { name, ids, up_to: upTo, json } of read) {
    const { c, ws } = await live();
    c.read({ ids, upTo }).catch(() => {});
    const { seq: _, ...frame } = ws.sent.at(-1);
    const { seq: __, ...want } = json;
    assert.deepEqual(frame, want, name);
    await c.close();
  }
  for (const { name, text, ids, up_to: upTo } of dismiss) {
    const { c, ws } = await live();
    const events = [];
    c.on('dismiss', (event) => events.push(event));
    ws.raw(text);
    assert.deepEqual(events, [{ ids, upTo: upTo === '0' ? null : upTo }], name);
    await c.close();
  }
  for (const { name, text } of broken) {
    const { ws, log } = await live();
    ws.raw(text);
    assert.deepEqual(log.slice(-2), ['error protocol', 'waiting'], name);
  }
});

test('ends of a connection', async () => {
  const [disconnect, closes] = vectors('close', 'disconnect', 'websocket_close');
  for (const { name, body, code, reason, reconnect, addresses } of disconnect) {
    const { ws, states } = await live();
    mock.method(Math, 'random', () => 0);
    ws.frames({ ver: 2, op: 6, seq: 0, body: framed(body) });
    const { state, ...rest } = states.at(-1);
    assert.equal(state, reconnect ? 'waiting' : 'closed', name);
    assert.equal(rest.code, code, name);
    if (reconnect || reason !== '') assert.equal(rest.reason, reason, name);
    if (!reconnect) continue;
    await tick(0);
    const next = new URL(FakeWebSocket.last().url).host;
    assert.equal(next, addresses[0] ?? 'h:1', name);
  }
  for (const { code, reconnect } of closes) assert.equal(reconnects(code), reconnect, `${code}`);
});

test('rooms', async () => {
  const [refused, changed, broken] = vectors('rooms', 'refused', 'changed', 'broken_change');
  for (const { name, body, server_code: serverCode, reason } of refused) {
    const { c, ws } = await live();
    const call = assert.rejects(c.join('r'), (error) => {
      assert.deepEqual([error.code, error.serverCode], ['denied', serverCode], name);
      assert.ok(error.message.includes(reason), error.message);
      return true;
    });
    ws.frames({ ver: 2, op: 28, seq: ws.sent.at(-1).seq, body: framed(body) });
    await call;
    assert.equal(c.state, 'live', name);
  }
  for (const { name, body, ...want } of changed) {
    const { c, ws } = await live();
    const changes = [];
    c.on('room', (change) => changes.push(change));
    ws.frames({ ver: 2, op: 29, seq: 0, body: framed(body) });
    assert.deepEqual(changes, [want], name);
  }
  for (const { name, body } of broken) {
    const { ws, log } = await live();
    ws.frames({ ver: 2, op: 29, seq: 0, body: framed(body) });
    assert.deepEqual(log, ['connecting', 'live', 'error protocol', 'waiting'], name);
  }
});

test('frames', async () => {
  const [server, client, broken] = vectors('json_frames', 'server', 'client', 'broken');
  for (const { name, text, packets } of server) {
    const { c, ws } = await live({ accepts: [1000] });
    const got = [];
    c.on('message', ({ id, op, body }) => {
      got.push({ id: id ?? '0', op, body });
    });
    ws.raw(text);
    const messages = packets.filter(({ op }) => op === 5 || op >= 1000);
    const want = messages.filter(({ seq }) => seq === 0).map(({ id, op, body }) => ({ id, op, body }));
    assert.deepEqual(got, want, name);
  }
  for (const { name, op, body, json } of client) {
    const { c, ws } = await live();
    if (op === 20) c.join(body).catch(() => {});
    else if (op === 22) c.leave(body).catch(() => {});
    else if (op === 4 || op >= 1000) c.send(body, { op }).catch(() => {});
    else continue; // auth, acknowledgements and new tokens have tests of their own
    const { seq: _, ...sent } = ws.sent.at(-1);
    const { seq: __, ...want } = json;
    assert.deepEqual(sent, want, name);
  }
  for (const { name, text } of broken) {
    const { ws, log } = await live();
    ws.raw(text);
    assert.ok(log.includes('error protocol'), `${name}: ${log}`);
    assert.equal(log.at(-1), 'waiting', name);
  }
});

test('acknowledgements', async () => {
  const [acks] = vectors('acks', 'acks');
  for (const { name, ids, json } of acks) {
    const { c, ws } = await live();
    c.on('message', () => {});
    for (const id of ids) ws.push(id);
    await tick(50);
    assert.deepEqual(ws.of(18).at(-1).body, json, name);
  }
});

test('spans of the backoff', async () => {
  const [spans] = vectors('backoff', 'spans');
  mock.method(Math, 'random', () => 0.9999999);
  for (const { min_ms: minBackoff, max_ms: maxBackoff, spans_ms: want } of spans) {
    const { c, ws, states } = await started({ minBackoff, maxBackoff });
    ws.drop();
    for (const span of want) {
      const { state, retryIn } = states.at(-1);
      assert.deepEqual([state, retryIn], ['waiting', span - 1]);
      await tick(retryIn);
      FakeWebSocket.last().drop();
    }
    await c.close();
  }
});

describe('addresses', () => {
  const isOurs = (address) => /^wss?:/.test(address);

  test('of the option', async () => {
    const [own, invalid] = vectors('addresses', 'own', 'invalid');
    for (const { address, url } of own.filter(({ address: one }) => isOurs(one))) {
      const { ws } = await started({ url: address });
      assert.equal(ws.url, url);
    }
    for (const { address } of invalid) {
      assert.throws(() => new ImgoClient({ url: address, token: 't' }), { code: 'invalid', message: /url/ }, address);
    }
  });

  test('of a server', () => {
    const [others, routes] = vectors('addresses', 'others', 'routes');
    for (const { own, other, url } of others.filter((one) => isOurs(one.own))) {
      assert.deepEqual(routeTo([other], own), url === null ? [own] : [url, own], other);
    }
    for (const { name, own, addresses, tries } of routes.filter((one) => isOurs(one.own))) {
      assert.deepEqual(routeTo(addresses, `${own}/sub`), tries, name);
    }
  });
});

test('names', () => {
  const [valid, invalid] = vectors('names', 'valid', 'invalid');
  for (const { text } of valid) assert.equal(checkedName('room', text), text);
  for (const { text } of invalid) assert.throws(() => checkedName('room', text), { code: 'invalid', message: /room/ }, text);
});
