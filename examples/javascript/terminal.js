// A client in the terminal: node terminal.js USER. A line "ben: hello" goes to the user ben.
import { createInterface } from 'node:readline';
import { ImgoClient } from 'imgo-client';
import { FileStore } from 'imgo-client/file-store';

const backend = process.env.BACKEND ?? 'http://127.0.0.1:3000';
const user = process.argv[2] ?? 'ana';

async function post(path, body, headers) {
  const response = await fetch(`${backend}${path}`, { method: 'POST', body, headers });
  if (!response.ok) throw new Error(await response.text());
  return response.text();
}

const client = new ImgoClient({
  url: 'ws://127.0.0.1:8090',
  tokenSource: () => post(`/token?user=${encodeURIComponent(user)}`),
  device: 'terminal',
  platform: 'node',
  store: new FileStore(`${user}.ids`),
});
client.on('message', ({ body }) => console.log(`> ${body.text}`));
client.on('state', (event) => {
  if (event.state === 'live') console.log(`live as ${event.user}, ${event.pending} messages waited`);
  if (event.state === 'waiting') console.log(`offline: ${event.reason}`);
  if (event.state === 'closed' && event.failed) console.log(`refused: ${event.reason}`);
});
client.on('error', (error) => console.error(error.message));

const end = () => client.close().then(() => process.exit(0));
process.once('SIGINT', end);
client.connect().catch(() => {}); // the state event has told why

// One line after the other, so that the messages keep their order.
for await (const line of createInterface({ input: process.stdin })) {
  const [, to, text] = line.match(/^(\S+): (.*)$/) ?? [];
  if (!to) {
    console.log('write "user: text"');
    continue;
  }
  try {
    const key = { 'Idempotency-Key': crypto.randomUUID() };
    await post(`/push?user=${encodeURIComponent(to)}`, text, key);
  } catch (error) {
    console.error(`not sent: ${error.message}`);
  }
}
await end(); // the end of the input
