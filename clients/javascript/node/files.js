/** Changes of files that are on the disk when they return. */
import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Returns the text of a file, or '' if there is none.
 *
 * @param {string} path
 */
export async function readText(path) {
  return readFile(path, 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
}

/**
 * Adds a text at the end of a file. A failure may leave a part of it there.
 *
 * @param {string} path
 * @param {string} text
 */
export async function append(path, text) {
  await write(path, 'a', text);
}

/**
 * Replaces a file in one step. After a failure the file is the old one, or the new one.
 *
 * @param {string} path
 * @param {string} text
 */
export async function replace(path, text) {
  const part = `${path}.new`;
  await write(part, 'w', text);
  await rename(part, path);
  await syncFolder(dirname(path));
}

/**
 * @param {string} path
 * @param {'a' | 'w'} flags
 * @param {string} text
 */
async function write(path, flags, text) {
  const file = await open(path, flags, 0o600);
  try {
    await file.writeFile(text);
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** @param {string} path */
async function syncFolder(path) {
  const folder = await open(path, 'r').catch(() => null); // Windows cannot open a folder
  try {
    await folder?.sync();
  } catch {
    // Some file systems cannot sync a folder.
  } finally {
    await folder?.close();
  }
}
