/** The client in Node with the package ws, over real sockets. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, describe, test } from 'node:test';
import { WebSocketServer } from 'ws';
import { ImgoClient } from '../node/imgo.js';

/** A server that accepts every client and answers heartbeats and acknowledgements. */
async function server(onLive, { heartbeat = 60, silent = false } = {}) {
  const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(wss, 'listening');
  after(() => {
    wss.clients.forEach((ws) => ws.terminate());
    wss.close();
  });
  const acked = [];
  let heartbeats = 0;
  wss.on('connection', (ws) => {
    const say = (...frames) => ws.send(JSON.stringify(frames));
    ws.on('message', (data) => {
      const { op, seq, body } = JSON.parse(String(data));
      if (op === 7) {
        say({ ver: 2, op: 8, seq, body: { session: 's', user: 'u', heartbeat, pending: 0 } });
        onLive({ ws, say });
      } else if (op === 2) {
        heartbeats++;
        if (!silent) say({ ver: 2, op: 3, seq, body: {} });
      } else if (op === 18) {
        acked.push(...body);
        if (seq !== 0) say({ ver: 2, op: 19, seq, body: {} });
      }
    });
  });
  return { url: `ws://127.0.0.1:${wss.address().port}`, acked, wss, heartbeats: () => heartbeats };
}

async function until(what, condition) {
  for (const end = Date.now() + 60_000; !condition(); await new Promise((resolve) => setTimeout(resolve, 2))) {
    assert.ok(Date.now() < end, `not in time: ${what}`);
  }
}

describe('flow control', () => {
  test('a slow listener stops the reading; the connection lives, and nothing is lost', async () => {
    const count = 5000;
    const filler = 'x'.repeat(2000);
    let socket;
    const { url, acked, heartbeats } = await server(
      ({ ws, say }) => {
        socket = ws;
        for (let id = 1; id <= count; id++) say({ ver: 2, op: 5, seq: 0, id: String(id), body: filler });
      },
      { heartbeat: 0.05 },
    );
    const client = new ImgoClient({ url, token: 't', queue: 8, heartbeatTimeout: 1000 });
    const states = [];
    client.on('state', ({ state }) => states.push(state));
    let go;
    const gate = new Promise((resolve) => {
      go = resolve;
    });
    const got = [];
    client.on('message', async ({ id }) => {
      await gate;
      got.push(id);
    });
    await client.connect();
    await until('heartbeats while the listener is slow', () => heartbeats() >= 40); // two seconds
    assert.ok(socket.bufferedAmount > 1_000_000, `the server could write all but ${socket.bufferedAmount} bytes`);
    assert.ok(client.counts.received < count / 2, `${client.counts.received} messages were read`);
    assert.equal(client.state, 'live');
    go();
    await until('all are acknowledged', () => acked.length === count);
    const want = Array.from({ length: count }, (_, i) => String(i + 1));
    assert.deepEqual(got, want);
    assert.deepEqual(acked, want);
    await client.close();
    assert.deepEqual(states, ['connecting', 'live', 'closed']);
  });

  test('a peer that is dead is noticed while the listener is slow', async () => {
    const { url } = await server(({ say }) => say(...[1, 2, 3].map((id) => ({ ver: 2, op: 5, seq: 0, id: String(id), body: id }))), {
      heartbeat: 0.05,
      silent: true,
    });
    const client = new ImgoClient({ url, token: 't', queue: 1, heartbeatTimeout: 100, closeTimeout: 0 });
    client.on('message', () => new Promise(() => {}));
    const waiting = new Promise((resolve) => {
      client.on('state', (event) => event.state === 'waiting' && resolve(event));
    });
    await client.connect();
    assert.match((await waiting).reason, /no sign of the server/);
    await client.close();
  });
});

describe('the end', () => {
  const resources = () => process.getActiveResourcesInfo().filter((name) => /^(Timeout|TCPSocketWrap)/.test(name)).length;

  test('close() acknowledges, ends with a closing handshake, and leaves nothing', async () => {
    let code;
    const { url, acked } = await server(({ ws, say }) => {
      ws.on('close', (given) => {
        code = given;
      });
      say({ ver: 2, op: 5, seq: 0, id: '7', body: 1 });
    });
    const before = resources();
    const client = new ImgoClient({ url, token: 't' });
    const handled = new Promise((resolve) => {
      client.on('message', resolve);
    });
    await client.connect();
    await handled;
    await client.close();
    assert.deepEqual(acked, ['7']);
    await until('the server sees the end', () => code !== undefined);
    assert.equal(code, 1000);
    await until('timers and sockets are gone', () => resources() <= before);
  });

  test('close() does not hang on a server that says nothing', async () => {
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    await once(wss, 'listening');
    after(() => wss.close());
    wss.on('connection', (ws) => {
      ws.send('[{"ver":2,"op":8,"seq":1,"body":{}}]');
      ws._socket.pause();
    });
    const client = new ImgoClient({ url: `ws://127.0.0.1:${wss.address().port}`, token: 't' });
    await client.connect();
    await client.close();
    assert.equal(client.state, 'closed');
    wss.clients.forEach((ws) => ws.terminate());
  });

  test('a server that refuses connections, and a client that is closed meanwhile', async () => {
    const { url, wss } = await server(() => {});
    await new Promise((resolve) => wss.close(resolve));
    const before = resources();
    const client = new ImgoClient({ url, token: 't', minBackoff: 1, maxBackoff: 5 });
    let waits = 0;
    const refused = client.connect();
    client.on('state', ({ state, code, reason }) => {
      if (state !== 'waiting') return;
      waits++;
      assert.equal(code, 0);
      assert.match(reason, /ECONNREFUSED/);
    });
    await until('some attempts', () => waits >= 3);
    await client.close();
    await assert.rejects(refused, { code: 'closed' });
    await until('timers and sockets are gone', () => resources() <= before);
  });
});

describe('a server that misbehaves', () => {
  /** Runs a server whose accepted connection does what the test says, and returns the events of a client. */
  async function events(what) {
    const { url } = await server(({ ws }) => what(ws._socket, ws));
    const client = new ImgoClient({ url, token: 't', minBackoff: 60_000, maxBackoff: 60_000 });
    const errors = [];
    client.on('error', ({ code }) => errors.push(code));
    const ended = new Promise((resolve) => {
      client.on('state', (event) => (event.state === 'waiting' || event.state === 'closed') && resolve(event));
    });
    client.connect().catch(() => {});
    const { state, code, reason } = await ended;
    await client.close();
    return { state, code, reason, errors };
  }

  test('a close frame without the end of the connection ends the session', async () => {
    const frame = (code) => Buffer.from([0x88, 2, code >> 8, code & 255]);
    const lost = await events((socket) => socket.write(frame(3001)));
    assert.deepEqual([lost.state, lost.code, lost.errors], ['waiting', 3001, []]);
    const refused = await events((socket) => socket.write(frame(3506)));
    assert.deepEqual([refused.state, refused.code], ['closed', 3506]);
  });

  for (const [name, bytes, reason] of [
    ['text that is not UTF-8', [0x81, 2, 0xff, 0xff], /UTF-8/],
    ['a frame of 2 GiB', [0x81, 127, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff], /payload/],
    ['a reserved bit', [0xf1, 1, 0x61], /RSV/],
  ]) {
    test(`${name} is the error protocol`, async () => {
      const end = await events((socket) => socket.write(Buffer.from(bytes)));
      assert.deepEqual([end.state, end.code, end.errors], ['waiting', 0, ['protocol']]);
      assert.match(end.reason, reason);
    });
  }
});
