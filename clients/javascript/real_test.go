package javascript_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"imgo/clients/javascript/jstest"
	"imgo/internal/wait/waittest"
	"imgo/test/harness"
	"imgo/test/programs"
)

// script is what a page or a worker runs: a client that reports its states, messages and errors. A worker has no
// localStorage, so the page gives it none.
const script = `
import { ImgoClient, LocalStorageStore } from '%[1]s/console/client/imgo.js';
%[3]s
const options = { url: '%[2]s', token: %[4]q, device: %[5]q, queue: 4, %[6]s };
const client = new ImgoClient(options);
client.on('state', (event) => report(event.state + ' ' + (event.reason ?? '')));
client.on('error', (error) => report('error ' + error.code));
client.on('message', async ({ id, body }) => {
  if (body === 'slow') await new Promise((resolve) => setTimeout(resolve, 500));
  report('message ' + JSON.stringify(body));
  if (body === 'end') client.close();
});
client.connect();
`

// site serves a page with a script, and the script alone for a worker. Its origin is another one than that of imgo.
func site(t *testing.T, page, worker string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/worker.js" {
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = fmt.Fprint(w, worker)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><link rel="icon" href="data:,"><script type="module">%s</script>`, page)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// newToken makes a token.
func newToken(t *testing.T, server *programs.Server, user string) string {
	t.Helper()
	var answer struct{ Token string }
	if _, err := harness.Call(http.MethodPost, server.URL()+"/v1/tokens", fmt.Sprintf(`{"user":%q}`, user), &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Token
}

func push(t *testing.T, server *programs.Server, user string, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if _, err := harness.Call(http.MethodPost, server.URL()+"/v1/push", fmt.Sprintf(`{"user":%q,"body":%q}`, user, body), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// messages returns the reported bodies.
func messages(r *jstest.Reporter) string {
	var all []string
	for line := range strings.Lines(r.String()) {
		if body, ok := strings.CutPrefix(strings.TrimSpace(line), "message "); ok {
			all = append(all, body)
		}
	}
	return strings.Join(all, " ")
}

// TestBrowser runs the client in a page and in a worker of Chromium, with a real server that is killed.
// A listener that is slow makes more messages wait than the queue takes: a browser cannot stop reading, so the
// connection ends, and the messages come again in their order.
func TestBrowser(t *testing.T) {
	jstest.Browser(t)
	server := programs.StartServer(t)
	for _, where := range []string{"page", "worker"} {
		t.Run(where, func(t *testing.T) {
			reporter := jstest.NewReporter(t)
			more := ""
			if where == "page" {
				more = "store: new LocalStorageStore('ids')"
			}
			text := fmt.Sprintf(script, server.URL(), server.WebSocket(), reporter.Function(), newToken(t, server, where), "d", more)
			page, worker := text, ""
			if where == "worker" {
				page, worker = "new Worker('/worker.js', { type: 'module' })", text
			}
			push(t, server, where, "one", "slow", "three", "four", "five", "six", "seven", "eight", "nine")
			jstest.Browse(t, site(t, page, worker))
			reporter.WaitFor(t, `message "nine"`)
			if !strings.Contains(reporter.String(), "too slow") {
				t.Error("a full queue did not end the connection")
			}
			server.Kill()
			reporter.WaitFor(t, "waiting the connection was lost")
			server.Start()
			push(t, server, where, "end")
			reporter.WaitFor(t, "closed the client was closed")
			want := `"one" "slow" "three" "four" "five" "six" "seven" "eight" "nine" "end"`
			if got := messages(reporter); got != want {
				t.Errorf("the messages are\n%s, want\n%s", got, want)
			}
			waittest.Eventually(t, "all is acknowledged", func() bool { return pending(t, server, where) == 0 })
		})
	}
}

// pending returns the number of messages that wait for a user.
func pending(t *testing.T, server *programs.Server, user string) int {
	t.Helper()
	var answer struct{ Pending int }
	if _, err := harness.Call(http.MethodGet, server.URL()+"/v1/users/"+user, "", &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Pending
}

// TestReload opens a page again and again. With localStorage it handles no message twice, although the server
// repeats those whose acknowledgement was lost.
func TestReload(t *testing.T) {
	jstest.Browser(t)
	server := programs.StartServer(t)
	reporter := jstest.NewReporter(t)
	token := newToken(t, server, "ana")
	// The first visit saves the id and loses its acknowledgement: the page goes away before it is sent.
	text := fmt.Sprintf(`
import { ImgoClient, LocalStorageStore } from '%s/console/client/imgo.js';
%s
const visit = Number(localStorage.getItem('visit') ?? 0) + 1;
localStorage.setItem('visit', visit);
class Mute extends WebSocket {
  send(text) { if (visit > 1 || JSON.parse(text).op !== 18) super.send(text); }
}
const client = new ImgoClient({ url: '%s', token: %q, WebSocket: Mute, store: new LocalStorageStore('ids') });
client.on('message', ({ body }) => { report('message ' + JSON.stringify(body)); });
client.on('state', ({ state }) => report(visit + ' ' + state));
client.connect();
setInterval(() => {
  if (localStorage.getItem('ids')) { if (visit === 1) location.reload(); }
}, 10);
`, server.URL(), reporter.Function(), server.WebSocket(), token)
	push(t, server, "ana", "once")
	jstest.Browse(t, site(t, text, ""))
	reporter.WaitFor(t, "2 live")
	waittest.Eventually(t, "the repeated message is acknowledged", func() bool { return pending(t, server, "ana") == 0 })
	push(t, server, "ana", "again")
	reporter.WaitFor(t, `message "again"`)
	if got := messages(reporter); got != `"once" "again"` {
		t.Errorf("the messages are %s", got)
	}
}

// TestBackend calls every method of the client for backends at a real server that checks a key.
func TestBackend(t *testing.T) {
	server := programs.StartServer(t, "--http-api-keys", "backend:0123456789abcdef0123456789abcdef")
	dir := jstest.Project(t, "module", "ws")
	write(t, dir+"/backend.mjs", server.Real(`
import assert from 'node:assert/strict';
import { ImgoClient } from 'imgo-client';
import { PushClient } from 'imgo-client/server';

const servers = ['http://127.0.0.1:7172'];
await assert.rejects(new PushClient({ servers, key: 'wrong' }).push({ user: 'ana', body: 1 }), { status: 401 });
const backend = new PushClient({ servers, key: '0123456789abcdef0123456789abcdef' });

const push = { user: 'ana', body: { n: 1 }, idempotency_key: 'k' };
const first = await backend.push(push);
assert.deepEqual([first.user, first.duplicate], ['ana', false]);
assert.deepEqual(await backend.push(push), { ...first, duplicate: true });
const batch = await backend.pushBatch([{ user: 'ana', body: { n: 2 } }, { user: '', body: 1 }]);
assert.deepEqual(batch.map(({ status }) => status), [202, 400]);
await assert.rejects(backend.push({ user: 'ana', body: 1, ttl: 'soon' }), { code: 'invalid', status: 400, field: 'ttl' });
assert.equal((await backend.user('ana')).pending, 2);

const { token } = await backend.newToken('ana', { ttl: '1h' });
const client = new ImgoClient({ url: 'ws://127.0.0.1:8090', token, device: 'd' });
const got = [];
const two = new Promise((resolve) => {
  client.on('message', ({ body }) => got.push(body.n) === 2 && resolve());
});
const change = new Promise((resolve) => client.on('room', resolve));
const closed = new Promise((resolve) => client.on('state', (event) => event.state === 'closed' && resolve(event)));
await client.connect();
await two;
assert.deepEqual(got, [1, 2]);

const member = await backend.addToRoom('live://1', 'ana');
assert.deepEqual([member.room, member.member], ['live://1', true]);
const { room, joined } = await change;
assert.deepEqual([room, joined], ['live://1', true]);
const { sessions, members } = await backend.room('live://1');
assert.deepEqual([sessions, members.length, members[0].user], [1, 1, 'ana']);
assert.equal((await backend.removeFromRoom('live://1', 'ana')).member, false);
assert.equal(await backend.revokeToken(token, { close: false }), 1);
assert.equal(await backend.kick('ana', { device: 'd', reason: 'bye' }), 1);
const { code, failed, reason } = await closed;
assert.deepEqual([code, failed, reason], [3506, true, 'bye']);
`))
	programs.Run(t, dir, nil, "node", "backend.mjs")
}

// TestWebhook has a real server ask a backend about its clients. The backend believes signed calls only.
func TestWebhook(t *testing.T) {
	const secret = "whsec_V2hhdCBuYW1lcyBhIHNlY3JldCBpcyBub25lLg=="
	dir := jstest.Project(t, "module", "ws")
	write(t, dir+"/backend.mjs", `
import { createServer } from 'node:http';
import { verifyWebhook } from 'imgo-client/server';

const server = createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  try {
    const call = await verifyWebhook({ secret: '`+secret+`', headers: request.headers, body });
    const answer = call.auth.token === 'good' ? { user: 'ana' } : { refuse: 'who are you' };
    response.end(JSON.stringify(answer));
  } catch (error) {
    response.writeHead(400).end(error.message);
  }
});
server.listen(0, '127.0.0.1', () => console.log('port', server.address().port, '.'));
`)
	backend := programs.Start(t, dir, nil, "node", "backend.mjs")
	backend.Out.WaitFor(t, " .")
	port := strings.Fields(backend.Out.String())[1]
	address := "http://127.0.0.1:" + port
	if status, err := harness.Call(http.MethodPost, address, `{"auth":{"token":"good"}}`, nil); status != http.StatusBadRequest {
		t.Errorf("a call without a signature is answered %d, %v", status, err)
	}
	server := programs.StartServer(t, "--auth-mode", "webhook", "--auth-webhook-url", address, "--auth-webhook-secrets", secret)
	write(t, dir+"/client.mjs", server.Real(`
import assert from 'node:assert/strict';
import { ImgoClient } from 'imgo-client';

const url = 'ws://127.0.0.1:8090';
const good = new ImgoClient({ url, token: 'good' });
assert.equal((await good.connect()).user, 'ana');
await good.close();
await assert.rejects(new ImgoClient({ url, token: 'bad' }).connect(), { code: 'refused', closeCode: 3501, message: /who are you/ });
`))
	programs.Run(t, dir, nil, "node", "client.mjs")
}

// TestRead has one device tell a real server what was read. The other device is told, and nothing waits for it any more.
func TestRead(t *testing.T) {
	server := programs.StartServer(t)
	dir := jstest.Project(t, "module", "ws")
	write(t, dir+"/read.mjs", server.Real(`
import assert from 'node:assert/strict';
import { ImgoClient } from 'imgo-client';
import { PushClient } from 'imgo-client/server';

const backend = new PushClient({ servers: ['http://127.0.0.1:7172'] });
const { token } = await backend.newToken('ana', { ttl: '1h' });
const make = (device) => new ImgoClient({ url: 'ws://127.0.0.1:8090', token, device });
const phone = make('phone'); // it has no listener, so its messages wait
const laptop = make('laptop');
const dismissed = [];
phone.on('dismiss', (event) => dismissed.push(event));
await phone.connect();
await laptop.connect();
const ids = [];
for (let n = 0; n < 3; n++) ids.push((await backend.push({ user: 'ana', body: n })).id);
assert.equal((await backend.user('ana')).pending, 3);
await laptop.read({ upTo: ids[0] });
await laptop.read({ ids: ids.slice(1, 2) });
assert.equal((await backend.user('ana')).pending, 1);
assert.equal(await backend.read('ana', { ids: ids.slice(2) }), 2);
assert.equal((await backend.user('ana')).pending, 0);
for (const end = Date.now() + 60_000; dismissed.length < 3; await new Promise((resolve) => setTimeout(resolve, 5))) {
  assert.ok(Date.now() < end, 'the phone was not told');
}
assert.deepEqual(dismissed, [{ ids: [], upTo: ids[0] }, { ids: ids.slice(1, 2), upTo: null }, { ids: ids.slice(2), upTo: null }]);
await Promise.all([phone.close(), laptop.close()]);
`))
	programs.Run(t, dir, nil, "node", "read.mjs")
}
