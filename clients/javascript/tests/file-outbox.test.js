import assert from 'node:assert/strict';
import {
  appendFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  rmdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { FileOutbox } from '../node/file-store.js';

const dir = mkdtempSync(join(tmpdir(), 'imgo-outbox-'));
after(() => rmSync(dir, { recursive: true }));

let files = 0;
const newPath = () => join(dir, `outbox-${++files}`);
const message = (number, body = `m${number}`) => ({ number, op: 4, body });
const load = (path) => new FileOutbox(path).load();

test('messages, the base and the last number are there after a restart', async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  assert.deepEqual(await outbox.load(), { base: null, last: 0, messages: [] });
  assert.ok(!existsSync(path));
  await outbox.add(message(1, { a: ['\n', null] }));
  await outbox.add(message(2, { base: '7', removed: 9 }));
  await outbox.setBase('18446744073709551615');
  await outbox.add(message(3));
  await outbox.remove(1);
  const rest = [message(2, { base: '7', removed: 9 }), message(3)];
  assert.deepEqual(await load(path), { base: '18446744073709551615', last: 3, messages: rest });
  assert.deepEqual(await outbox.load(), await load(path));
  await new FileOutbox(path).remove(3);
  assert.deepEqual(await load(path), { base: '18446744073709551615', last: 3, messages: [] });
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test('changes without a load and side by side', async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  await Promise.all([outbox.add(message(1)), outbox.add(message(2)), outbox.setBase('5'), outbox.remove(1)]);
  assert.deepEqual(await load(path), { base: '5', last: 2, messages: [message(2)] });
});

test('the file has a bound, and the last number outlives the messages', async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  const filler = 'x'.repeat(1000);
  await outbox.setBase('5');
  for (let number = 1; number <= 500; number++) {
    await outbox.add(message(number, filler));
    await outbox.remove(number);
    assert.ok(statSync(path).size <= 70_000, `the file has ${statSync(path).size} bytes`);
  }
  assert.deepEqual(await load(path), { base: '5', last: 500, messages: [] });
  assert.deepEqual(readdirSync(dir).filter((name) => name.endsWith('.new')), []);
});

test('many messages that wait are in the file, which is not replaced for each of them', async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  const all = [];
  const nodes = new Set();
  for (let number = 1; number <= 300; number++) {
    all.push(message(number, 'x'.repeat(1000)));
    await outbox.add(all.at(-1));
    nodes.add(statSync(path).ino);
  }
  assert.ok(nodes.size < 10, `the file was replaced ${nodes.size} times`);
  assert.deepEqual((await load(path)).messages, all);
});

test('each prefix of the file, as a crash leaves it, has the changes of its whole lines', async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  const states = [{ base: null, last: 0, messages: [] }];
  await outbox.add(message(1));
  for (const change of [() => outbox.setBase('5'), () => outbox.add(message(2, 'ä')), () => outbox.remove(1), () => outbox.add(message(3))]) {
    await change();
  }
  const bytes = readFileSync(path);
  const lines = bytes.toString().split('\n').slice(0, -1);
  assert.equal(lines.length, 6);
  for (const content of [
    states[0],
    { base: null, last: 1, messages: [message(1)] },
    { base: '5', last: 1, messages: [message(1)] },
    { base: '5', last: 2, messages: [message(1), message(2, 'ä')] },
    { base: '5', last: 2, messages: [message(2, 'ä')] },
  ]) {
    states.push(content);
  }
  states.push({ base: '5', last: 3, messages: [message(2, 'ä'), message(3)] });
  for (let cut = 0; cut <= bytes.length; cut++) {
    const torn = newPath();
    writeFileSync(torn, bytes.subarray(0, cut));
    const whole = bytes.subarray(0, cut).toString().split('\n').length - 1;
    const restarted = new FileOutbox(torn);
    assert.deepEqual(await restarted.load(), states[whole], `${cut} bytes`);
    await restarted.add(message(9));
    const { messages } = await load(torn);
    assert.deepEqual(messages, [...states[whole].messages, message(9)], `${cut} bytes and a message`);
  }
});

test('a number that comes again replaces what a failed call has left', async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  await outbox.add(message(1));
  appendFileSync(path, `${JSON.stringify(message(2, 'of a failed call'))}\n`);
  const next = new FileOutbox(path);
  await next.add(message(2));
  assert.deepEqual(await load(path), { base: null, last: 2, messages: [message(1), message(2)] });
});

test('a failed change is as if it had not been, and the next one works', { skip: !existsSync('/dev/full') && 'needs /dev/full' }, async () => {
  const path = newPath();
  const outbox = new FileOutbox(path);
  await outbox.add(message(1));
  const full = () => {
    rmSync(path);
    symlinkSync('/dev/full', path);
  };
  full(); // for one write
  await assert.rejects(outbox.add(message(2)), { code: 'ENOSPC' });
  assert.ok(!lstatSync(path).isSymbolicLink(), 'the file was replaced by what it should have');
  assert.deepEqual(await load(path), { base: null, last: 1, messages: [message(1)] });

  full();
  mkdirSync(`${path}.new`); // the file cannot be replaced either
  await assert.rejects(outbox.add(message(2)), { code: 'ENOSPC' });
  rmdirSync(`${path}.new`);
  await outbox.setBase('5');
  assert.deepEqual(await load(path), { base: '5', last: 1, messages: [message(1)] });
});

test('a file that is no outbox is not touched', async () => {
  for (const text of ['hello\n', '7\n', '{}\n', 'null\n', '{"base":7}\n', '{"removed":1}\nx\n', '{"number":"1"}\n']) {
    const path = newPath();
    writeFileSync(path, text);
    await assert.rejects(load(path), /is not of an outbox/, text);
    await assert.rejects(new FileOutbox(path).add(message(1)), /is not of an outbox/, text);
    assert.equal(readFileSync(path, 'utf8'), text);
  }
});

test('a file that cannot be used is an error, and may be mended', async () => {
  await assert.rejects(load(dir), { code: 'EISDIR' });
  const folder = join(dir, 'no');
  const outbox = new FileOutbox(join(folder, 'outbox'));
  await assert.rejects(outbox.add(message(1)), { code: 'ENOENT' });
  mkdirSync(folder);
  await outbox.add(message(1));
  assert.deepEqual((await load(join(folder, 'outbox'))).messages, [message(1)]);
});
