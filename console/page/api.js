/** The calls of the HTTP API that the page makes. Every error has a message that says what to do. */

/** The error of a call. `final` is true if a retry would not help. */
export class ApiProblem extends Error {
  constructor(message, { status = 0, field = '', final = false } = {}) {
    super(message);
    this.name = 'ApiProblem';
    this.status = status;
    this.field = field;
    this.final = final;
  }
}

const TIMEOUT = 15_000;

/** The API with one API key ('' for none). */
export class Api {
  #key;
  #fetch;
  #base;

  constructor(key, { fetch = globalThis.fetch.bind(globalThis), base = '' } = {}) {
    this.#key = key;
    this.#fetch = fetch;
    this.#base = base;
  }

  /** Issues a token for a user, valid for one hour. */
  async token(user) {
    const made = await this.#call('POST', '/v1/tokens', JSON.stringify({ user, ttl: '1h' }));
    if (typeof made?.token !== 'string') {
      throw new ApiProblem('The server answered without a token. Is another program on this port?', { status: 200 });
    }
    return made.token;
  }

  /** Returns the first WebSocket address that a node tells clients, or '' if no node tells one. */
  async webSocketAddress() {
    const answer = await this.#call('GET', '/v1/nodes');
    const nodes = Array.isArray(answer) ? answer : (answer?.nodes ?? []);
    const open = nodes.filter((node) => typeof node?.clients?.ws === 'string' && node.clients.ws !== '');
    return (open.find((node) => node.ready !== false) ?? open[0])?.clients.ws ?? '';
  }

  /**
   * Pushes a text to { user, kept }, { room } or { all }. If `json` is true, the text is JSON and
   * is sent unchanged, because JSON.parse would round its large numbers.
   */
  push(command, text, json) {
    const content = json ? `"body":${text}` : `"body_text":${JSON.stringify(text)}`;
    return this.#call('POST', '/v1/push', `${JSON.stringify(command).slice(0, -1)},${content}}`);
  }

  async #call(method, path, body) {
    const headers = { Accept: 'application/json' };
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    if (this.#key) headers['X-API-Key'] = this.#key;
    let response;
    let text;
    try {
      response = await this.#fetch(this.#base + path, {
        method,
        headers,
        body,
        cache: 'no-store',
        credentials: 'same-origin',
        signal: AbortSignal.timeout(TIMEOUT),
      });
      text = await response.text();
    } catch (error) {
      if (error?.name === 'TimeoutError') throw new ApiProblem('The server did not answer within 15 seconds. Try again.');
      throw new ApiProblem('The server cannot be reached. Is imgo still running?');
    }
    let answer = null;
    try {
      answer = JSON.parse(text);
    } catch {
      // The body is not JSON. The status is enough.
    }
    if (response.ok) return answer;
    throw problem(response, answer?.error, this.#key !== '');
  }
}

function problem(response, error, withKey) {
  const { status } = response;
  const field = typeof error?.field === 'string' ? error.field : '';
  const said = typeof error?.message === 'string' && error.message !== '' ? sentence(error.message) : '';
  if (status === 401) {
    const message = withKey ? 'The server does not know this API key. Check it and try again.' : 'This server asks for an API key. Enter one and try again.';
    return new ApiProblem(message, { status, field: 'key', final: true });
  }
  if (status === 429) {
    const seconds = Number(response.headers.get('Retry-After')) || 1;
    return new ApiProblem(`Too many calls. Try again in ${seconds} s.`, { status });
  }
  if (status === 503) return new ApiProblem(said || 'The server is busy or starting. Try again in a moment.', { status });
  if (error?.code === 'disk_full') {
    return new ApiProblem('The disk of the server is nearly full, so it takes no pushes. Free some space; no restart is needed.', { status });
  }
  if (status >= 500) return new ApiProblem(said || `The server failed (status ${status}). Its log says why.`, { status });
  return new ApiProblem(said || `The server refused (status ${status}).`, { status, field, final: true });
}

/** Turns an error message of the API into a sentence: "user is too long" becomes "User is too long." */
function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** Describes the outcome of a push. `answer` is null if the response had no JSON. */
export function pushOutcome(answer, command) {
  const sessions = Number(answer?.sessions ?? NaN);
  const where = Number.isNaN(sessions) ? 'on its way' : `on its way to ${sessions === 1 ? '1 session' : `${sessions} sessions`}`;
  if (command.kept) {
    const kept = answer?.id ? `Kept as ${answer.id}` : 'Kept';
    return sessions === 0 ? `${kept}. ${command.user} is not online: it waits.` : `${kept}, ${where}.`;
  }
  if (sessions !== 0) return `Sent, ${where}.`;
  if (command.user === undefined) return 'Sent, but the server knows of nobody there.';
  return `${command.user} is not online, and the message was not to be kept: it is gone.`;
}
