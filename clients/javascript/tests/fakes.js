import { mock } from 'node:test';

/** A WebSocket whose server end is the test, and what every test needs with it. */
export class FakeWebSocket {
  static sockets = [];

  static last() {
    return FakeWebSocket.sockets.at(-1);
  }

  constructor(url) {
    if (FakeWebSocket.refuse) throw FakeWebSocket.refuse;
    this.url = url;
    this.readyState = 0;
    this.sent = [];
    this.closed = false;
    FakeWebSocket.sockets.push(this);
  }

  send(text) {
    if (this.readyState !== 1) throw new Error('not open');
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
    this.readyState = 3;
    queueMicrotask(() => this.onclose?.({ code: 1005, reason: '' }));
  }

  // The server's side.

  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  /** One text message: an array of frames. */
  frames(...frames) {
    this.onmessage?.({ data: JSON.stringify(frames) });
  }

  raw(data) {
    this.onmessage?.({ data });
  }

  accept(body = { session: 'comet1-1', heartbeat: 60, pending: 0 }) {
    this.open();
    this.frames({ ver: 2, op: 8, seq: this.sent[0].seq, body });
  }

  push(id, body = {}, op = 5) {
    this.frames({ ver: 2, op, seq: 0, id: String(id), body });
  }

  drop(code = 1006, reason = '') {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  /** Frames of one operation that the client sent. */
  of(op) {
    return this.sent.filter((frame) => frame.op === op);
  }

  /** Ids that the client acknowledged, in order. */
  get acked() {
    return this.of(18).flatMap((frame) => frame.body);
  }
}

/** Everything a client says, in order: "live", "message 7", "error handler" … */
export function record(client) {
  const log = [];
  client.on('state', (event) => log.push(event.code ? `${event.state} ${event.code}` : event.state));
  client.on('error', (error) => log.push(`error ${error.code}`));
  return log;
}

/** Lets the time pass, and then every promise go on. */
export async function tick(ms) {
  mock.timers.tick(ms);
  await settle();
}

/** Lets every promise that can go on go on. */
export function settle() {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
