/** The main script: connects the forms to the API and to the client, and shows what happens. */
import { nameProblem, webSocketURL } from './address.js';
import { Api, pushOutcome } from './api.js';
import { ImgoClient } from './client/imgo.js';
import { MessageList } from './messages.js';
import { Notice, Pill, markInvalid, refusal } from './show.js';

const MEMORY = 'imgo.console';
const $ = (id) => document.getElementById(id);

const pill = new Pill({ pill: $('state'), text: $('state-text'), count: $('state-count') });
const connectNotice = new Notice($('connect-error'));
const pushNotice = new Notice($('push-result'));
const messages = new MessageList({
  list: $('list'),
  empty: $('empty'),
  count: $('count'),
  clear: $('clear'),
  announce: $('announce'),
});

let client = null; // the client of the user that the page shows as connected
let wasLive = false; // whether that client has ever been live
let live = false; // the state that the page has shown
let connecting = false; // whether the connect form is being processed
const targets = { user: '', room: '', all: '' };
let targetEdited = false; // edited by hand, so it no longer follows the user
let keepWanted = true;

// ------------------------------------------------------------------- memory

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(MEMORY)) ?? {};
  } catch {
    return {}; // there is no storage, or its content is invalid; the page works without it
  }
}

function remember(user, device) {
  try {
    localStorage.setItem(MEMORY, JSON.stringify({ user, device }));
  } catch {
    // A private window has no storage. The next visit starts with empty fields.
  }
}

function newDevice() {
  const bytes = crypto.getRandomValues(new Uint8Array(2));
  return `web-${[...bytes].map((b) => b.toString(16).padStart(2, '0')).join('')}`;
}

// --------------------------------------------------------------- connecting

async function connect() {
  if (connecting) return;
  const user = $('user').value.trim();
  const device = $('device').value.trim() || newDevice();
  $('device').value = device;
  connectNotice.hide();
  markInvalid($('connect-form'), null);
  for (const [field, what, value] of [
    ['user', 'user', user],
    ['device', 'device', device],
  ]) {
    const wrong = nameProblem(what, value);
    if (wrong) return formProblem(field, wrong);
  }
  const typed = $('address').value.trim();
  let url = '';
  try {
    if (typed) url = webSocketURL(typed, location);
  } catch (error) {
    return formProblem('address', error.message);
  }

  setConnecting(true);
  try {
    const api = new Api($('key').value.trim());
    const token = await tokenFor(api, user);
    if (!url) url = webSocketURL(await addressFrom(api), location);
    remember(user, device);
    startClient({ url, token, user, device, getToken: () => tokenFor(api, user) });
  } catch (error) {
    pill.set('idle', 'Not connected');
    if (error.field === 'key') $('more').open = true;
    const field = { key: 'key', user: 'user' }[error.field];
    formProblem(field ?? null, error.message);
  } finally {
    setConnecting(false);
  }
}

function formProblem(field, message) {
  connectNotice.show(message, 'bad');
  if (!field) return;
  markInvalid($('connect-form'), $(field));
  if (field === 'key' || field === 'address') $('more').open = true;
  $(field).focus();
}

function setConnecting(on) {
  connecting = on;
  $('connect').setAttribute('aria-disabled', String(on));
  $('connect').textContent = on ? 'Connecting…' : 'Connect';
  if (on) pill.set('connecting', 'Connecting…');
}

/**
 * Returns a token from the API. If the server issues none, it returns the user name, because the
 * server may accept that (auth.mode none). Otherwise the server's answer to the auth packet
 * explains the refusal.
 */
async function tokenFor(api, user) {
  try {
    return await api.token(user);
  } catch (error) {
    const refusedItself = error.final && error.status !== 401 && error.status !== 403 && error.field !== 'user';
    if (!refusedItself) throw error;
    messages.note('The server makes no tokens; trying the name of the user instead');
    return user;
  }
}

async function addressFrom(api) {
  const known = document.documentElement.dataset.ws ?? '';
  try {
    return (await api.webSocketAddress()) || known;
  } catch {
    return known; // the default port is worth a try
  }
}

function startClient({ url, token, user, device, getToken }) {
  dropClient();
  let first = token; // the one that the person's attempt has made already
  const tokenSource = () => {
    const next = first ?? getToken();
    first = null;
    return next;
  };
  const mine = new ImgoClient({ url, tokenSource, device, platform: 'web' });
  client = mine;
  wasLive = false;
  mine.on('message', (message) => messages.add(message));
  mine.on('state', (event) => {
    if (client !== mine) return;
    if (event.state === 'live' && event.user && event.user !== user && token !== user) {
      // With auth.mode none the server takes every token for a name.
      startClient({ url, token: user, user, device, getToken: () => user });
      return;
    }
    showState(event, url);
  });
  mine.on('room', ({ room, joined, reason }) => {
    if (client !== mine) return;
    showRooms();
    messages.note(`${joined ? 'The server has put you into' : 'The server has taken you out of'} the room ${room}${reason && `: ${reason}`}`);
  });
  mine.on('error', (error) => {
    if (client === mine) connectNotice.show(error.message, 'warn');
  });
  $('who-user').textContent = user;
  $('who-device').textContent = device;
  $('who-address').textContent = url;
  showForm(false);
  $('toggle').focus({ preventScroll: true });
  if (!targetEdited) setTarget('user', user);
  showRooms();
  mine.connect();
}

/** Closes the client without a message to the person. */
function dropClient() {
  const old = client;
  client = null;
  old?.close();
}

/** Shows either the connect form or the connected client. */
function showForm(on) {
  $('connect-form').hidden = !on;
  $('connected').hidden = on;
  $('client-title').classList.toggle('hidden', !on);
}

function showState(event, url) {
  const closed = event.state === 'closed';
  $('toggle').textContent = !closed ? 'Go offline' : event.failed ? 'Try again' : 'Come back';
  $('toggle').classList.toggle('primary', closed);
  switch (event.state) {
    case 'connecting':
      pill.set('connecting', 'Connecting…');
      break;
    case 'live': {
      wasLive = true;
      pill.set('live', 'Live');
      connectNotice.hide();
      const { pending } = event;
      const waiting = pending === 1 ? ', 1 kept message was waiting' : `, ${pending} kept messages were waiting`;
      messages.note(`Live${pending > 0 ? waiting : ''}`);
      break;
    }
    case 'waiting': {
      pill.countDown('waiting', event.retryIn, 'Retrying');
      const retry = { label: 'Try now', action: () => client?.connect() };
      if (wasLive) {
        const why = event.code >= 3000 ? ` (${event.reason})` : '';
        connectNotice.show(`The connection was lost${why}. The page comes back by itself.`, 'warn', retry);
        if (live) messages.note(`Connection lost${why}`);
      } else {
        const mend = 'Is that address right, and open to this browser? The page keeps trying.';
        connectNotice.show(`${url} does not take the connection (${event.reason}). ${mend}`, 'warn', retry);
      }
      break;
    }
    case 'closed':
      if (event.failed) {
        pill.set('refused', 'Refused');
        connectNotice.show(refusal(event.code, event.reason), 'bad');
        messages.note('Refused by the server');
      } else {
        pill.set('offline', 'Offline');
        connectNotice.hide();
        messages.note('Offline');
      }
      break;
  }
  live = event.state === 'live';
  $('steps').hidden = true; // the first step is done
  $('empty-text').textContent = live ? 'Push something: it arrives here.' : 'While you are away, kept messages wait for this device.';
}

function toggle() {
  if (!client) return;
  connectNotice.hide();
  pushNotice.hide(); // its text about online sessions is about to be wrong
  if (client.state === 'closed') client.connect();
  else client.close();
}

function changeUser() {
  dropClient();
  showForm(true);
  connectNotice.hide();
  pill.set('idle', 'Not connected');
  $('user').focus();
  $('user').select();
}

// -------------------------------------------------------------------- rooms

function showRooms() {
  const chips = (client?.rooms ?? []).map((room) => {
    const chip = document.createElement('li');
    const name = document.createElement('span');
    name.textContent = room;
    const leave = document.createElement('button');
    leave.type = 'button';
    leave.textContent = '×';
    leave.setAttribute('aria-label', `Leave room ${room}`);
    leave.addEventListener('click', () => changeRoom('leave', room));
    chip.append(name, leave);
    return chip;
  });
  $('rooms').replaceChildren(...chips);
  $('rooms-count').textContent = String(chips.length);
}

async function changeRoom(verb, room) {
  const mine = client;
  connectNotice.hide();
  const done = mine[verb](room);
  showRooms();
  try {
    await done;
    if (client === mine) messages.note(verb === 'join' ? `Joined the room ${room}` : `Left the room ${room}`);
  } catch (error) {
    if (client === mine && error.code !== 'closed') connectNotice.show(`The room ${room}: ${error.message}.`, 'bad');
  } finally {
    showRooms(); // a refused room is gone
  }
}

function join() {
  const room = $('room').value.trim();
  const wrong = nameProblem('room', room);
  markInvalid($('join-form'), wrong ? $('room') : null);
  if (wrong) {
    connectNotice.show(wrong, 'bad');
    $('room').focus();
    return;
  }
  $('room').value = '';
  if (!targets.room) targets.room = room;
  if (pushTo() === 'room' && !$('target').value) $('target').value = room;
  changeRoom('join', room);
}

// --------------------------------------------------------------------- push

function pushTo() {
  return $('push-form').elements.to.value;
}

function setTarget(kind, name) {
  targets[kind] = name;
  if (pushTo() === kind) $('target').value = name;
}

function showTarget() {
  const to = pushTo();
  $('target-field').hidden = to === 'all';
  $('target-label').textContent = to === 'room' ? 'Room' : 'User';
  $('target').value = targets[to];
  $('kept').disabled = to !== 'user';
  $('kept').checked = to === 'user' && keepWanted;
  $('kept-hint').textContent = to === 'user' ? 'until every device has it' : 'only for a user';
  markInvalid($('push-form'), null);
}

function isJSON(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false; // it is sent as text
  }
}

let pushing = false;

async function push() {
  if (pushing) return;
  const to = pushTo();
  const target = $('target').value.trim();
  markInvalid($('push-form'), null);
  const wrong = to === 'all' ? '' : nameProblem(to, target);
  if (wrong) return pushProblem('target', wrong);
  const text = $('body').value;
  if (text.trim() === '') return pushProblem('body', 'Write a message.');

  const command = to === 'all' ? { all: true } : { [to]: target };
  if (to === 'user') command.kept = $('kept').checked;

  setPushing(true);
  try {
    const answer = await new Api($('key').value.trim()).push(command, text, isJSON(text));
    pushNotice.show(pushOutcome(answer, command), 'good');
  } catch (error) {
    const field = { user: 'target', room: 'target', body: 'body', body_text: 'body' }[error.field] ?? null;
    if (error.field === 'key' && !$('connect-form').hidden) formProblem('key', error.message);
    pushProblem(field, error.message);
  } finally {
    setPushing(false);
  }
}

function pushProblem(field, message) {
  pushNotice.show(message, 'bad');
  if (!field) return;
  markInvalid($('push-form'), $(field));
  $(field).focus();
}

function setPushing(on) {
  pushing = on;
  $('push').setAttribute('aria-disabled', String(on));
}

// -------------------------------------------------------------------- start

function onSubmit(form, action) {
  $(form).addEventListener('submit', (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit('connect-form', connect);
onSubmit('join-form', join);
onSubmit('push-form', push);
$('toggle').addEventListener('click', toggle);
$('leave').addEventListener('click', changeUser);
for (const radio of document.querySelectorAll('input[name="to"]')) radio.addEventListener('change', showTarget);
$('target').addEventListener('input', () => {
  targets[pushTo()] = $('target').value;
  if (pushTo() === 'user') targetEdited = $('target').value !== '';
});
$('kept').addEventListener('change', () => {
  keepWanted = $('kept').checked;
});
$('body').addEventListener('input', () => {
  $('body-hint').textContent = isJSON($('body').value) ? 'JSON' : 'not JSON: sent as text';
});
$('body').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) push();
});
$('user').addEventListener('input', () => {
  if (!targetEdited) setTarget('user', $('user').value.trim());
});

const query = new URLSearchParams(location.search);
const before = remembered();
$('user').value = query.get('user') ?? before.user ?? '';
$('device').value = query.get('device') ?? before.device ?? newDevice();
setTarget('user', $('user').value);
showTarget();
