// A receiver of a hook's events. It prints each of them once.
import { createServer } from 'node:http';
import { verifyWebhook } from 'imgo-client/server';

const secret = process.env.HOOK_SECRET;
const seen = new Set(); // a real backend stores the ids together with what it does

async function receive(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > 1 << 20) throw new Error('the body is too long');
  }
  const event = await verifyWebhook({ secret, headers: request.headers, body: Buffer.concat(chunks) });
  if (seen.has(event.id)) return;
  console.log(event.type, event.data.ref ?? '', event.subject); // the subject is the user
  seen.add(event.id);
  if (seen.size > 1000) seen.delete(seen.values().next().value); // the oldest
}

const server = createServer((request, response) => {
  receive(request).then(
    () => response.writeHead(204).end(),
    (error) => response.writeHead(401).end(error.message),
  );
});
server.listen(Number(process.env.PORT ?? 3001), '127.0.0.1', () => {
  console.log(`the receiver is at http://127.0.0.1:${server.address().port}/events`);
});
