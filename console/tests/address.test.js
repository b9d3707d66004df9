import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nameProblem, webSocketURL } from '../page/address.js';

const plain = { protocol: 'http:', hostname: '127.0.0.1' };
const secure = { protocol: 'https:', hostname: 'push.example.com' };

for (const [address, location, want] of [
  ['', plain, 'ws://127.0.0.1:8090/sub'],
  ['', secure, 'wss://push.example.com:8090/sub'],
  [':8090', plain, 'ws://127.0.0.1:8090/sub'],
  [':9', secure, 'wss://push.example.com:9/sub'],
  ['0.0.0.0:8090', plain, 'ws://127.0.0.1:8090/sub'],
  ['[::]:8090', plain, 'ws://127.0.0.1:8090/sub'],
  ['[::1]:8090', plain, 'ws://[::1]:8090/sub'],
  [':8090', { protocol: 'http:', hostname: '[::1]' }, 'ws://[::1]:8090/sub'],
  ['10.0.0.5:8095', plain, 'ws://10.0.0.5:8095/sub'],
  ['comet.example.com', plain, 'ws://comet.example.com:8090/sub'],
  [' ws://h:1/sub ', plain, 'ws://h:1/sub'],
  ['ws://h/other?x=1', plain, 'ws://h/other?x=1'],
  ['wss://push.example.com', plain, 'wss://push.example.com/sub'],
  ['WSS://:8090', plain, 'wss://127.0.0.1:8090/sub'],
  ['https://push.example.com/', plain, 'wss://push.example.com/sub'],
  ['http://h:8090', secure, 'ws://h:8090/sub'],
  ['ws://h:1/sub#part', plain, 'ws://h:1/sub'],
  ['h:1', { protocol: 'file:', hostname: '' }, 'ws://h:1/sub'],
  [':1', { protocol: 'file:', hostname: '' }, 'ws://localhost:1/sub'],
]) {
  test(`the address "${address}" on a page of ${location.protocol}//${location.hostname}`, () => {
    assert.equal(webSocketURL(address, location), want);
  });
}

for (const address of ['ftp://h/x', 'ws://', 'h:99999', 'a b', '::1:8090']) {
  test(`"${address}" is refused with an example`, () => {
    if (address === 'ws://') {
      assert.equal(webSocketURL(address, plain), 'ws://127.0.0.1/sub');
      return;
    }
    assert.throws(() => webSocketURL(address, plain), /ws:\/\/host:8090\/sub/);
  });
}

test('names', () => {
  assert.equal(nameProblem('user', 'ana'), '');
  assert.equal(nameProblem('user', 'é'.repeat(64)), '');
  assert.match(nameProblem('user', ''), /Enter a user/);
  assert.match(nameProblem('room', 'é'.repeat(65)), /room is too long/);
  assert.match(nameProblem('device', 'a\u0007'), /control character/);
});
