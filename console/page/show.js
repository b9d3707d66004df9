/** Small parts of the page that show a state, a notice or an invalid field. */

/** The label in the title bar. It shows one state in words, with a countdown if there is one. */
export class Pill {
  #pill;
  #text;
  #count;
  #timer = null;

  constructor({ pill, text, count }) {
    this.#pill = pill;
    this.#text = text;
    this.#count = count;
  }

  set(state, words, count = '') {
    clearTimeout(this.#timer);
    this.#pill.dataset.state = state;
    // A screen reader announces the words when they change. It must not announce every second.
    if (this.#text.textContent !== words) this.#text.textContent = words;
    this.#count.textContent = count;
  }

  /** Shows the words and the seconds that are left. */
  countDown(state, ms, words) {
    const end = Date.now() + ms;
    const tick = () => {
      const left = end - Date.now();
      this.set(state, words, ` in ${Math.max(1, Math.ceil(left / 1000))} s`);
      if (left > 1000) this.#timer = setTimeout(tick, left % 1000 || 1000);
    };
    tick();
  }
}

/** A message under a form, with an optional button. */
export class Notice {
  #box;

  constructor(box) {
    this.#box = box;
  }

  show(text, tone, button) {
    this.#box.className = `notice ${tone}`;
    const words = document.createElement('span');
    words.textContent = text;
    this.#box.replaceChildren(words);
    if (button) {
      const b = document.createElement('button');
      b.type = 'button';
      b.textContent = button.label;
      b.addEventListener('click', button.action);
      this.#box.append(b);
    }
    this.#box.hidden = false;
  }

  hide() {
    this.#box.hidden = true;
    this.#box.replaceChildren();
  }
}

/** Marks one field of a form as invalid, and clears the mark of the others. */
export function markInvalid(form, field) {
  for (const other of form.querySelectorAll('[aria-invalid]')) other.removeAttribute('aria-invalid');
  field?.setAttribute('aria-invalid', 'true');
}

const REFUSALS = {
  3501: 'The server does not accept the token. If it takes only tokens from elsewhere (JWT), this page cannot connect to it.',
  3502: 'The token has expired, and so had the new one: compare the clocks of the server and of who makes its tokens.',
  3503: 'The token was revoked. Come back with a new one.',
  3504: 'This user has as many sessions as the server allows. Close another one, then come back.',
  3505: 'Another session with the same key took this one’s place.',
  3506: 'Somebody ended this session through the API. You may come back.',
  3507: 'The server refused a message as too large.',
  3510: 'This user has as many devices as the server allows. Have one of them forgotten, then come back.',
  3509: 'The server waited too long for the login. Come back to try again.',
};

/** Says why the server refused the connection, and what to do. */
export function refusal(code, reason) {
  return REFUSALS[code] ?? `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
}
