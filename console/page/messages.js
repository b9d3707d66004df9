/** The list of messages and events, newest first. */

const LIMIT = 200;
const MAX_BODY = 20_000; // characters shown of one body; a longer text would block the page
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });

/**
 * Shows the newest 200 entries. It draws the new entries together, once per animation frame, so
 * that a flood of messages draws at most 200 of them.
 */
export class MessageList {
  #list;
  #empty;
  #count;
  #clear;
  #announce;
  #waiting = []; // entries that are not drawn yet, oldest first
  #scheduled = false;
  #total = 0; // messages since the last clear
  #unannounced = 0;
  #announceTimer = null;

  constructor({ list, empty, count, clear, announce }) {
    this.#list = list;
    this.#empty = empty;
    this.#count = count;
    this.#clear = clear;
    this.#announce = announce;
    clear.addEventListener('click', () => this.clear());
    this.#refresh();
  }

  /** Adds a message that has just arrived. */
  add(message) {
    this.#total++;
    this.#unannounced++;
    this.#push({ message, at: new Date() });
  }

  /** Adds a line about the connection. */
  note(text) {
    this.#push({ text, at: new Date() });
  }

  clear() {
    this.#waiting = [];
    this.#total = 0;
    this.#list.replaceChildren();
    this.#refresh();
  }

  #push(entry) {
    this.#waiting.push(entry);
    if (this.#waiting.length > LIMIT) this.#waiting.shift();
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A hidden page gets no animation frames.
    if (document.hidden) setTimeout(() => this.#draw(), 200);
    else requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#scheduled = false;
    const fresh = document.createDocumentFragment();
    for (const entry of this.#waiting.splice(0).reverse()) {
      fresh.append(entry.message ? messageItem(entry) : noteItem(entry));
    }
    this.#list.prepend(fresh);
    while (this.#list.childElementCount > LIMIT) this.#list.lastElementChild.remove();
    this.#refresh();
    // Announce a total from time to time. A screen reader cannot keep up with every message.
    this.#announceTimer ??= setTimeout(() => {
      this.#announceTimer = null;
      if (this.#unannounced === 0) return;
      this.#announce.textContent = this.#unannounced === 1 ? 'One new message' : `${this.#unannounced} new messages`;
      this.#unannounced = 0;
    }, 1000);
  }

  #refresh() {
    const none = this.#list.childElementCount === 0;
    this.#list.hidden = none;
    this.#empty.hidden = !none;
    this.#clear.hidden = none;
    this.#count.textContent = String(this.#total);
    this.#count.title = this.#total > LIMIT ? `The newest ${LIMIT} are shown` : '';
  }
}

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text; // never markup: a body may come from anybody
  return e;
}

function timeElement(at) {
  const e = element('time', '', clock.format(at));
  e.dateTime = at.toISOString();
  e.title = at.toLocaleString();
  return e;
}

function messageItem({ message, at }) {
  const item = element('li', 'message fresh');
  item.dataset.kept = String(message.kept);
  if (message.kept) item.dataset.id = message.id;
  const meta = element('div', 'meta');
  meta.append(element('span', message.kept ? 'mark kept' : 'mark', message.kept ? 'kept' : 'not kept'));
  if (message.kept) {
    const id = element('span', 'id', message.id);
    id.title = 'The id in the mailbox of the user';
    meta.append(id);
  }
  if (message.op !== 5) meta.append(element('span', 'op', `op ${message.op}`));
  meta.append(timeElement(at));
  item.append(meta, element('pre', 'body', bodyText(message.body)));
  return item;
}

function noteItem({ text, at }) {
  const item = element('li', 'event');
  item.append(element('span', '', text), timeElement(at));
  return item;
}

/** Returns a body as text for a person. JSON is indented. */
export function bodyText(body) {
  const text = typeof body === 'string' ? body : JSON.stringify(body, null, 2);
  if (text === '') return '(empty)';
  if (text.length <= MAX_BODY) return text;
  return `${text.slice(0, MAX_BODY)}\n… and ${text.length - MAX_BODY} more characters`;
}
