/** The README names every method, and what it shows of messages to the backend works. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { ImgoClient } from '../src/imgo.js';
import { FakeWebSocket, settle } from './fakes.js';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const AsyncFunction = (async () => {}).constructor;

beforeEach(() => {
  FakeWebSocket.sockets = [];
  FakeWebSocket.refuse = null;
  mock.timers.enable({ apis: ['setTimeout'] });
});

afterEach(() => mock.timers.reset());

test('every method is named', () => {
  for (const name of Object.getOwnPropertyNames(ImgoClient.prototype)) {
    if (name === 'constructor' || name === 'openSocket') continue;
    assert.match(readme, new RegExp(`\\b${name}\\b`), `README.md does not name ${name}`);
  }
});

test('what it shows of messages to the backend', async () => {
  const [, section] = readme.split('\n## To the backend\n');
  const [, code] = /```js\n([^]*?)```/.exec(section);
  const client = new ImgoClient({ url: 'ws://h', token: 't', device: 'd', WebSocket: FakeWebSocket });
  client.connect();
  await settle();
  const ws = FakeWebSocket.last();
  ws.accept({ published: '9223372036854775807' }); // it is above the clock
  const said = [];
  const run = new AsyncFunction('client', 'show', 'hide', code);
  const done = run(
    client,
    (...all) => said.push(all),
    (...all) => said.push(all),
  );
  await settle();
  const [sent] = ws.of(4);
  assert.deepEqual([sent.id, sent.body], ['9223372036854775808', { order: 17, accepted: true }]);
  ws.frames({ ver: 2, op: 4, seq: sent.seq, id: '0', body: { thanks: 1 } });
  const [read] = ws.of(24);
  assert.deepEqual([read.id, read.body], ['41', []]);
  ws.frames({ ver: 2, op: 25, seq: read.seq, id: '0', body: {} }, { ver: 2, op: 26, seq: 0, id: '0', body: ['7'] });
  await done;
  await settle();
  assert.deepEqual(said, [
    [1, 'waits'],
    [['7'], null],
    [1, 'done', { thanks: 1 }],
  ]);
  await client.close();
});
