import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { FileStore } from '../node/file-store.js';

const dir = mkdtempSync(join(tmpdir(), 'imgo-store-'));
after(() => rmSync(dir, { recursive: true }));

let files = 0;
const newPath = () => join(dir, `ids-${++files}`);
const idsOf = (path) => readFileSync(path, 'utf8').split('\n').slice(0, -1);

test('ids are there after a restart, oldest first', async () => {
  const path = newPath();
  const store = new FileStore(path);
  assert.deepEqual(await store.load(), []);
  await store.add(['1', '18446744073709551615']);
  await store.add(['2']);
  assert.deepEqual(await new FileStore(path).load(), ['1', '18446744073709551615', '2']);
});

test('the file has at most twice as many ids as are remembered', async () => {
  const path = newPath();
  const store = new FileStore(path, { remember: 3 });
  for (let id = 1; id <= 20; id++) {
    await store.add([String(id)]);
    const ids = idsOf(path);
    assert.ok(ids.length <= 6, `${ids}`);
    assert.deepEqual(ids.slice(-3), [id - 2, id - 1, id].filter((one) => one > 0).map(String));
  }
  assert.deepEqual(await new FileStore(path, { remember: 3 }).load(), ['18', '19', '20']);
});

test('an incomplete line of a crash is forgotten, and spoils no other', async () => {
  const path = newPath();
  await new FileStore(path).add(['1', '2']);
  appendFileSync(path, '28147');
  const store = new FileStore(path);
  assert.deepEqual(await store.load(), ['1', '2']);
  await store.add(['3']);
  assert.deepEqual(await new FileStore(path).load(), ['1', '2', '3']);
});

test('foreign lines are ignored', async () => {
  const path = newPath();
  writeFileSync(path, 'hello\n7\n\n-1\n8\n');
  assert.deepEqual(await new FileStore(path).load(), ['7', '8']);
});

test('a file that cannot be used is an error', async () => {
  await assert.rejects(new FileStore(dir).load(), { code: 'EISDIR' });
  await assert.rejects(new FileStore(join(dir, 'no', 'ids')).add(['1']), { code: 'ENOENT' });
});
