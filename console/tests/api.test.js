import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Api, ApiProblem, pushOutcome } from '../page/api.js';

/** An API whose one answer is given. */
function api(status, body, { key = '', headers = {} } = {}) {
  const calls = [];
  const fetch = async (path, init) => {
    calls.push({ path, ...init });
    if (status instanceof Error) throw status;
    return new Response(typeof body === 'string' ? body : JSON.stringify(body), { status, headers });
  };
  return { calls, api: new Api(key, { fetch }) };
}

test('a token', async () => {
  const { api: a, calls } = api(201, { token: 'T', user: 'ana', expires_ms: 1 }, { key: 'k' });
  assert.equal(await a.token('ana'), 'T');
  assert.equal(calls[0].path, '/v1/tokens');
  assert.equal(calls[0].method, 'POST');
  assert.equal(calls[0].headers['X-API-Key'], 'k');
  assert.deepEqual(JSON.parse(calls[0].body), { user: 'ana', ttl: '1h' });
  await assert.rejects(api(200, '<html>').api.token('ana'), /another program/);
});

test('the address: a ready node first, whatever the form', async () => {
  const nodes = [
    { name: 'a', clients: {} },
    { name: 'b', ready: false, clients: { ws: ':1' } },
    { name: 'c', ready: true, clients: { tcp: ':8080', ws: ':2' } },
  ];
  assert.equal(await api(200, { nodes }).api.webSocketAddress(), ':2');
  assert.equal(await api(200, nodes).api.webSocketAddress(), ':2');
  assert.equal(await api(200, { nodes: nodes.slice(0, 2) }).api.webSocketAddress(), ':1');
  assert.equal(await api(200, { nodes: [] }).api.webSocketAddress(), '');
  assert.equal(await api(200, 'null').api.webSocketAddress(), '');
});

test('a push sends JSON as it was typed, and anything else as text', async () => {
  const { api: a, calls } = api(202, { id: '1', user: 'ana', sessions: 1 });
  await a.push({ user: 'ana', kept: true }, '{"n": 9007199254740993}', true);
  await a.push({ all: true }, 'say "hi"', false);
  assert.equal(calls[0].body, '{"user":"ana","kept":true,"body":{"n": 9007199254740993}}');
  assert.equal(calls[1].body, '{"all":true,"body_text":"say \\"hi\\""}');
});

for (const [name, status, body, options, words, fields] of [
  ['no key', 401, { error: { code: 'unauthorized' } }, {}, /asks for an API key/, { field: 'key', final: true }],
  ['a wrong key', 401, '', { key: 'x' }, /does not know this API key/, { field: 'key', final: true }],
  ['too often', 429, '', { headers: { 'Retry-After': '7' } }, /again in 7 s/, { final: false }],
  ['busy', 503, { error: { message: 'the owner moved; try again' } }, {}, /^The owner moved; try again\.$/, { final: false }],
  ['a full disk', 507, { error: { code: 'disk_full', message: 'x' } }, {}, /Free some space/, { final: false }],
  ['a full mailbox', 507, { error: { code: 'mailbox_full', message: 'the mailbox is full' } }, {}, /^The mailbox is full\.$/, { final: false }],
  ['a bug', 500, 'oops', {}, /status 500/, { final: false }],
  ['a wrong field', 400, { error: { code: 'invalid', field: 'user', message: 'user is too long' } }, {}, /^User is too long\.$/, { field: 'user', final: true }],
  ['no such thing', 404, 'not found', {}, /refused \(status 404\)/, { status: 404, final: true }],
  ['nobody there', new TypeError('fetch failed'), '', {}, /cannot be reached/, { status: 0, final: false }],
  ['no answer', Object.assign(new Error('x'), { name: 'TimeoutError' }), '', {}, /within 15 seconds/, { final: false }],
]) {
  test(`in words: ${name}`, async () => {
    await assert.rejects(api(status, body, options).api.token('ana'), (error) => {
      assert.ok(error instanceof ApiProblem);
      assert.match(error.message, words);
      for (const [field, value] of Object.entries(fields)) assert.equal(error[field], value, field);
      return true;
    });
  });
}

for (const [answer, command, words] of [
  [{ id: '7', sessions: 1 }, { user: 'ana', kept: true }, 'Kept as 7, on its way to 1 session.'],
  [{ id: '7', sessions: 0 }, { user: 'ana', kept: true }, 'Kept as 7. ana is not online: it waits.'],
  [null, { user: 'ana', kept: true }, 'Kept, on its way.'],
  [{ id: '0', sessions: 2 }, { user: 'ana', kept: false }, 'Sent, on its way to 2 sessions.'],
  [{ id: '0', sessions: 0 }, { user: 'ana', kept: false }, 'ana is not online, and the message was not to be kept: it is gone.'],
  [{ sessions: 0 }, { room: 'a' }, 'Sent, but the server knows of nobody there.'],
  [{ sessions: 3 }, { all: true }, 'Sent, on its way to 3 sessions.'],
]) {
  test(`in words: ${words}`, () => assert.equal(pushOutcome(answer, command), words));
}
