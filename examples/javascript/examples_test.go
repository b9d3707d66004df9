// Package javascript_test runs the examples with the packed client, beside a real imgo.
package javascript_test

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgo/clients/javascript/jstest"
	"imgo/internal/wait/waittest"
	"imgo/test/hooktest"
	"imgo/test/programs"
)

// maxLines is the most that a reader of an example should have to read.
const maxLines = 60

func TestMain(m *testing.M) {
	code := m.Run()
	jstest.CleanUp()
	os.Exit(code)
}

// project copies the examples into a project with the packed client. change edits each file.
func project(t *testing.T, change func(name, text string) string) string {
	t.Helper()
	dir := jstest.Project(t, "module", "ws", "react", "react-dom", "esbuild")
	files := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		ext := filepath.Ext(path)
		if err != nil || entry.IsDir() || ext != ".js" && ext != ".jsx" && ext != ".html" || path == filepath.Join("react", "app.js") {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.WriteFile(to, []byte(change(path, string(data))), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 7 {
		t.Fatalf("there are only %d examples", files)
	}
	return dir
}

// backend starts the example's backend and returns its address.
func backend(t *testing.T, dir string) string {
	t.Helper()
	p := programs.Start(t, dir, []string{"PORT=0"}, "node", "backend.js")
	p.Out.WaitFor(t, "the backend is at http://127.0.0.1:")
	return regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(p.Out.String())
}

// post makes a call to the example's backend.
func post(t *testing.T, url, body string) string {
	t.Helper()
	response, err := http.Post(url, "text/plain", strings.NewReader(body)) //nolint:noctx // the server has timeouts
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %d %s %v", url, response.StatusCode, answer, err)
	}
	return string(answer)
}

func TestShort(t *testing.T) {
	for _, pattern := range []string{"*.js", "*.html", "react/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			if file == filepath.Join("react", "app.js") {
				continue // made by npm run build
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(string(text), "\n"); lines > maxLines {
				t.Errorf("%s has %d lines; an example has at most %d", file, lines, maxLines)
			}
		}
	}
}

// TestTerminal has two users talk to each other. One of them is away for a while.
func TestTerminal(t *testing.T) {
	server := programs.StartServer(t)
	dir := project(t, func(_, text string) string { return server.Real(text) })
	env := []string{"BACKEND=" + backend(t, dir)}
	say := func(p *programs.Program, line string) {
		t.Helper()
		if _, err := fmt.Fprintln(p.In, line); err != nil {
			t.Fatal(err)
		}
	}
	ana := programs.Start(t, dir, env, "node", "terminal.js", "ana")
	ana.Out.WaitFor(t, "live as ana, 0 messages waited")
	say(ana, "hello")
	ana.Out.WaitFor(t, `write "user: text"`)
	say(ana, "ben: one")
	say(ana, "ben: two")
	say(ana, "ana: to myself")
	ana.Out.WaitFor(t, "> to myself")
	waittest.Eventually(t, "both messages wait for ben", func() bool {
		response, err := http.Get(server.URL() + "/v1/users/ben") //nolint:noctx // the server has timeouts
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return err == nil && strings.Contains(string(text), `"pending":2`)
	})

	ben := programs.Start(t, dir, env, "node", "terminal.js", "ben")
	ben.Out.WaitFor(t, "> two")
	if got := ben.Out.Count("> one"); got != 1 {
		t.Errorf("the first message came %d times", got)
	}
	server.Kill()
	ben.Out.WaitFor(t, "offline: ")
	server.Start()
	waittest.Eventually(t, "ben is live again", func() bool { return ben.Out.Count("live as ben") == 2 })
	post(t, strings.TrimPrefix(env[0], "BACKEND=")+"/push?user=ben", "three")
	ben.Out.WaitFor(t, "> three")
	ben.Interrupt()
	if err := ana.In.Close(); err != nil { // Ctrl-D
		t.Fatal(err)
	}
	ana.Wait()
	if got := ben.Out.Count("> "); got != 3 {
		t.Errorf("ben got %d messages, want 3:\n%s", got, &ben.Out)
	}
}

// TestReceiver runs the receiver of a hook.
func TestReceiver(t *testing.T) {
	hooktest.Short(t, "receiver.js")
	dir := jstest.Project(t, "module")
	text, err := os.ReadFile("receiver.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "receiver.js"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	p := programs.Start(t, dir, []string{"PORT=0", hooktest.Env}, "node", "receiver.js")
	url := p.WaitFor(`http://\S+/events$`)[0]
	server := programs.StartServer(t, "--config", hooktest.Settings(t, url))
	hooktest.Check(t, server.URL(), server.WebSocket(), url, p.Out.String)
}

// person is a script that uses a page as a person does. Messages tell it what to do.
const person = `<script>
let done = false;
new MutationObserver(() => {
  const form = document.querySelector('form');
  if (done || !form || !document.body.innerText.includes('submit the form')) return;
  done = true;
  form.querySelector('input').value = 'from the form';
  form.requestSubmit();
}).observe(document.body, { subtree: true, childList: true });
</script>`

// TestPages opens both pages. Each shows what waited and what comes, and after a reload nothing twice.
func TestPages(t *testing.T) {
	jstest.Browser(t)
	server := programs.StartServer(t)
	for _, page := range []string{"/", "/react"} {
		t.Run(page, func(t *testing.T) {
			reporter := jstest.NewReporter(t)
			dir := project(t, func(name, text string) string {
				if filepath.Ext(name) == ".html" {
					text = strings.Replace(text, "</html>", reporter.Watch()+person+"</html>", 1)
				}
				return server.Real(text)
			})
			programs.Run(t, dir, nil, "npx", "esbuild", "react/app.jsx", "--bundle", "--minify", "--outfile=react/app.js")
			base := backend(t, dir)
			user := "user" + strings.ReplaceAll(page, "/", "-")
			post(t, base+"/push?user="+user, "it waited")
			jstest.Browse(t, base+page+"?user="+user)
			reporter.WaitFor(t, "live it waited")
			post(t, base+"/push?user="+user, "<b>it came</b>")
			reporter.WaitFor(t, "live it waited <b>it came</b>")
			if page == "/" {
				post(t, base+"/push?user="+user, "submit the form")
				reporter.WaitFor(t, "submit the form from the form")
			}
			if strings.Contains(reporter.String(), "error: ") {
				t.Error("the page has errors")
			}
		})
	}
}
