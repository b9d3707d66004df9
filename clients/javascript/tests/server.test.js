import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, describe, test } from 'node:test';
import { PushClient, PushError, verifyWebhook } from '../server/server.js';

const servers = [];
after(() => servers.forEach((server) => server.close()));

/** A server of the API that answers as it is told to, and knows what it was asked. */
async function api(...answers) {
  const asked = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const { method, url, headers } = request;
    asked.push({ method, url, key: headers.authorization, body: body === '' ? undefined : JSON.parse(body) });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer === 'hang') return;
    if (answer === 'cut') {
      request.socket.destroy();
      return;
    }
    const [status, value] = answer;
    response.writeHead(status, { 'Content-Type': 'application/json', Connection: 'close' });
    response.end(typeof value === 'string' ? value : JSON.stringify(value));
  });
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  after(() => server.closeAllConnections());
  return { address: `http://127.0.0.1:${server.address().port}`, asked };
}

/** An address that refuses connections. */
async function nobody() {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return `http://127.0.0.1:${port}`;
}

const problem = (status, code, field) => [status, { error: { code, message: `it is ${code}`, field } }];

describe('answers', () => {
  test('that are no objects are unexpected', async () => {
    const { address } = await api([200, 'null'], [200, '7'], [200, { results: [] }], [200, {}]);
    const client = new PushClient({ servers: [address] });
    const fails = (call) => assert.rejects(call, (error) => error instanceof PushError && error.code === 'unexpected');
    await fails(client.kick('a'));
    await fails(client.push({ user: 'a', body: 1 }));
    await fails(client.pushBatch([{ user: 'a', body: 1 }]));
    await fails(client.pushBatch([{ user: 'a', body: 1 }]));
  });

  test('have a bound', async () => {
    const { address } = await api([200, JSON.stringify('x'.repeat(5 << 20))]);
    await assert.rejects(new PushClient({ servers: [address] }).user('a'), { code: 'unexpected', message: /larger than 4194304/ });
  });
});

describe('calls', () => {
  test('are those of the API', async () => {
    const answer = { results: [{ status: 202 }], sessions: 2, revoked: 1, token: 'imgo_x', pending: 3, member: true, members: [] };
    const { address, asked } = await api([200, answer]);
    const client = new PushClient({ servers: [`${address}/`], key: 'k' });
    assert.deepEqual(await client.push({ user: 'a', body: { n: 1 } }), answer);
    assert.deepEqual(await client.pushBatch([{ user: 'a', body: 1 }]), [{ status: 202 }]);
    assert.equal((await client.user('a/b')).pending, 3);
    assert.equal(await client.kick('a/b', { device: 'd' }), 2);
    assert.equal(await client.kick('..'), 2);
    assert.equal(await client.read('a/b', { ids: ['7'], up_to: '3' }), 2);
    assert.equal((await client.newToken('a', { ttl: '1h', rooms: ['r'] })).token, 'imgo_x');
    assert.equal(await client.revokeToken('t', { close: false }), 1);
    assert.equal((await client.addToRoom('r/1', 'a&b')).member, true);
    await client.removeFromRoom('r', 'a');
    assert.deepEqual((await client.room('r', { limit: 5 })).members, []);
    assert.ok(asked.every(({ key }) => key === 'Bearer k'));
    assert.deepEqual(
      asked.map(({ method, url, body }) => [method, url, body]),
      [
        ['POST', '/v1/push', { user: 'a', body: { n: 1 } }],
        ['POST', '/v1/push/batch', { pushes: [{ user: 'a', body: 1 }] }],
        ['GET', '/v1/user?user=a%2Fb', undefined],
        ['POST', '/v1/user/kick?user=a%2Fb', { device: 'd' }],
        ['POST', '/v1/user/kick?user=..', {}],
        ['POST', '/v1/user/read?user=a%2Fb', { ids: ['7'], up_to: '3' }],
        ['POST', '/v1/tokens', { ttl: '1h', rooms: ['r'], user: 'a' }],
        ['POST', '/v1/tokens/revoke', { token: 't', close: false }],
        ['PUT', '/v1/memberships?room=r%2F1&user=a%26b', undefined],
        ['DELETE', '/v1/memberships?room=r&user=a', undefined],
        ['GET', '/v1/room?room=r&limit=5', undefined],
      ],
    );
  });

  test('go to the servers in turn', async () => {
    const [a, b] = [await api([200, {}]), await api([200, {}])];
    const client = new PushClient({ servers: [a.address, b.address] });
    for (let i = 0; i < 4; i++) await client.push({ user: 'a', body: i });
    assert.deepEqual([a.asked.length, b.asked.length], [2, 2]);
    assert.equal(a.asked[0].key, undefined);
  });
});

describe('errors', () => {
  test("have the server's code, message, field and status", async () => {
    const { address } = await api(problem(400, 'invalid', 'user'), [502, '<html>'], [200, 'no JSON']);
    const client = new PushClient({ servers: [address] });
    await assert.rejects(client.push({ user: '', body: 1 }), (error) => {
      assert.ok(error instanceof PushError);
      assert.deepEqual([error.code, error.status, error.field, error.server], ['invalid', 400, 'user', address]);
      assert.match(error.message, /POST http.*\/v1\/push answered 400: it is invalid/);
      return true;
    });
    await assert.rejects(client.push({ user: 'a', body: 1 }), { code: 'unexpected', status: 502, message: /<html>/ });
    await assert.rejects(client.push({ user: 'a', body: 1 }), { code: 'unexpected', status: 200 });
  });

  test('of the options name the option', () => {
    for (const [options, name] of [
      [{ servers: [] }, /servers/],
      [{}, /servers/],
      [{ servers: ['localhost:7172'] }, /localhost:7172.*http/],
      [{ servers: ['http://a'], timeout: 0 }, /timeout/],
    ]) {
      assert.throws(() => new PushClient(options), { name: 'PushError', code: 'invalid', message: name });
    }
  });
});

describe('another server', () => {
  test('is asked if the first cannot have received the call', async () => {
    const { address, asked } = await api([200, { id: '7' }]);
    const client = new PushClient({ servers: [await nobody(), address] });
    for (let i = 0; i < 3; i++) assert.equal((await client.push({ user: 'a', body: i })).id, '7');
    assert.equal(asked.length, 3);
    await assert.rejects(new PushClient({ servers: [await nobody()] }).push({ user: 'a', body: 1 }), {
      code: 'unreachable',
      status: 0,
    });
  });

  test('is asked if the handshake of TLS with the first fails', async () => {
    const { address, asked } = await api([202, { id: '1' }]);
    for (const code of ['DEPTH_ZERO_SELF_SIGNED_CERT', 'ERR_TLS_CERT_ALTNAME_INVALID', 'CERT_HAS_EXPIRED', 'ERR_SSL_WRONG_VERSION_NUMBER']) {
      const fetch = (url, options) => {
        if (url.startsWith(address)) return globalThis.fetch(url, options);
        throw Object.assign(new TypeError('fetch failed'), { cause: { code } });
      };
      const client = new PushClient({ servers: ['https://bad.example', address], fetch });
      assert.equal((await client.push({ user: 'a', body: 1 })).id, '1', code);
    }
    assert.equal(asked.length, 4);
    // What Node itself says of a server without TLS.
    const plain = address.replace('http:', 'https:');
    assert.equal((await new PushClient({ servers: [plain, address] }).push({ user: 'a', body: 1 })).id, '1');
  });

  test('is asked without an answer if the call asks or sets only', async () => {
    for (const call of [
      (client) => client.user('a'),
      (client) => client.read('a', { up_to: '3' }),
      (client) => client.room('r'),
      (client) => client.addToRoom('r', 'a'),
      (client) => client.removeFromRoom('r', 'a'),
    ]) {
      const [a, b] = [await api('cut'), await api([200, { sessions: 1 }])];
      await call(new PushClient({ servers: [a.address, b.address] }));
      assert.deepEqual([a.asked.length, b.asked.length], [1, 1], String(call));
    }
    for (const call of [
      (client) => client.kick('a'),
      (client) => client.newToken('a'),
      (client) => client.revokeToken('t'),
    ]) {
      const [a, b] = [await api('cut'), await api([200, {}])];
      await assert.rejects(call(new PushClient({ servers: [a.address, b.address] })), { code: 'lost' }, String(call));
      assert.equal(b.asked.length, 0);
    }
  });

  test('is not asked if the first may have carried the call out', async () => {
    for (const [answer, code] of [
      ['cut', 'lost'],
      [problem(503, 'unavailable'), 'unavailable'],
    ]) {
      const [a, b] = [await api(answer), await api([200, {}])];
      const client = new PushClient({ servers: [a.address, b.address] });
      await assert.rejects(client.push({ user: 'a', body: 1 }), { code });
      await assert.rejects(new PushClient({ servers: [a.address, b.address] }).pushBatch([{ idempotency_key: 'k' }, {}]), { code });
      assert.equal(b.asked.length, 0);
    }
  });

  test('is asked with an idempotency key', async () => {
    for (const answer of ['cut', problem(503, 'unavailable'), 'hang']) {
      const [a, b] = [await api(answer), await api([200, { id: '7', results: [{}] }])];
      const options = { servers: [a.address, b.address], timeout: answer === 'hang' ? 3_000 : 15_000 };
      const push = { user: 'a', body: 1, idempotency_key: 'k' };
      assert.equal((await new PushClient(options).push(push)).id, '7');
      await new PushClient(options).pushBatch([push]);
      assert.deepEqual([a.asked.length, b.asked.length], [2, 2]);
    }
    const wrong = [await api(problem(400, 'invalid')), await api([200, {}])];
    const client = new PushClient({ servers: wrong.map(({ address }) => address) });
    await assert.rejects(client.push({ user: 'a', body: 1, idempotency_key: 'k' }), { code: 'invalid' });
    assert.equal(wrong[1].asked.length, 0);
  });

  test('a call ends after the timeout, whatever the servers do', async () => {
    const { address } = await api('hang');
    const client = new PushClient({ servers: [address], timeout: 100 });
    await assert.rejects(client.push({ user: 'a', body: 1, idempotency_key: 'k' }), { code: 'timeout', status: 0 });
  });
});

describe('webhooks', () => {
  const secret = `whsec_${Buffer.from('a secret of twenty-four..').toString('base64')}`;
  const body = '{"user":"ana","ü":1}';

  function signed(text = body, { with: other = secret, age = 0, id = 'msg_1' } = {}) {
    const timestamp = String(Math.floor(Date.now() / 1000) - age);
    const key = Buffer.from(other.slice('whsec_'.length), 'base64');
    const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${text}`).digest('base64');
    return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': `v1a,x v1,AAAA v1,${signature}` };
  }

  test('with a good signature are read', async () => {
    const want = { user: 'ana', ü: 1 };
    assert.deepEqual(await verifyWebhook({ secret, headers: signed(), body }), want);
    assert.deepEqual(await verifyWebhook({ secret, headers: new Headers(signed()), body: Buffer.from(body) }), want);
    const old = `whsec_${Buffer.from('another one of 24 bytes..').toString('base64')}`;
    assert.deepEqual(await verifyWebhook({ secret: [old, secret], headers: signed(), body }), want);
  });

  test('of Standard Webhooks are read', async () => {
    const headers = {
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTt/tmKEFUaVvzvtmWUoCzzZzWCgr0U=',
    };
    const call = { secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', headers, body: '{"test": 2432232314}', tolerance: 1e10 };
    const key = Buffer.from('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64');
    const text = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${call.body}`;
    headers['webhook-signature'] = `v1,${createHmac('sha256', key).update(text).digest('base64')}`;
    assert.deepEqual(await verifyWebhook(call), { test: 2432232314 });
  });

  test('with anything else are refused', async () => {
    const other = `whsec_${Buffer.from('another one of 24 bytes..').toString('base64')}`;
    for (const call of [
      { headers: signed(), body: `${body} ` },
      { headers: signed(body, { with: other }), body },
      { headers: signed(body, { age: 301 }), body },
      { headers: signed(body, { age: -302 }), body },
      { headers: { ...signed(), 'webhook-id': 'msg_2' }, body },
      { headers: { ...signed(), 'webhook-id': undefined }, body },
      { headers: { ...signed(), 'webhook-timestamp': 'now' }, body },
      { headers: { ...signed(), 'webhook-signature': 'v1,not base64!' }, body },
      { headers: {}, body },
    ]) {
      await assert.rejects(verifyWebhook({ secret, ...call }), { name: 'PushError', code: 'signature' });
    }
    await assert.rejects(verifyWebhook({ secret: 'whsec_!', headers: signed(), body }), { code: 'invalid', message: /secret/ });
  });
});
