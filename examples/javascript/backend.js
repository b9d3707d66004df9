// A backend. It knows who its users are, makes tokens for their clients, and pushes.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { PushClient } from 'imgo-client/server';

const imgo = new PushClient({ servers: ['http://127.0.0.1:7172'], key: process.env.IMGO_KEY });

const files = {
  '/': ['page.html', 'text/html; charset=utf-8'],
  '/react': ['react/index.html', 'text/html; charset=utf-8'],
  '/react/app.js': ['react/app.js', 'text/javascript; charset=utf-8'],
};

// A real backend takes the user from its own session, never from the request.
const userOf = (url) => url.searchParams.get('user') ?? 'ana';

async function textOf(request) {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > 10_000) throw new Error('the message is too long');
  }
  return text;
}

async function answer(request, response) {
  const url = new URL(request.url, 'http://localhost');
  const file = files[url.pathname];
  if (request.method === 'GET' && file) {
    response.setHeader('Content-Type', file[1]);
    response.end(await readFile(new URL(file[0], import.meta.url)));
  } else if (request.method === 'POST' && url.pathname === '/token') {
    const { token } = await imgo.newToken(userOf(url), { ttl: '1h' });
    response.end(token);
  } else if (request.method === 'POST' && url.pathname === '/push') {
    // With the caller's key a repeated request is no second message.
    const idempotency_key = request.headers['idempotency-key'];
    const { id } = await imgo.push({ user: userOf(url), body: { text: await textOf(request) }, idempotency_key });
    response.end(id);
  } else {
    response.writeHead(404).end('there is no such page');
  }
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) response.writeHead(502);
    response.end(error.message);
  });
});
server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
  console.log(`the backend is at http://127.0.0.1:${server.address().port}`);
});
