package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestFirstSteps does the first steps of a new user with the real command, in an empty folder: run,
// token, listen, push. Then the listener stops, three messages are pushed, and it starts again.
func TestFirstSteps(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	server := serve(t, dir, freePorts()...)
	if _, err := os.Stat(dir + "/imgo-data"); err != nil {
		t.Errorf("the data folder is missing: %v", err)
	}
	env := []string{"IMGO_SERVER=" + server.node.base}

	token := strings.TrimSpace(imgo(t, env, "token", "new", "--user", "123"))
	listen := func() *process {
		t.Helper()
		p := run(t, t.TempDir(), env, "listen", "--token", token)
		eventually(t, "it listens", func() bool { return strings.Contains(p.log.String(), "connected to") })
		return p
	}
	prints := func(p *process, want string) {
		t.Helper()
		eventually(t, fmt.Sprintf("it prints %q", want), func() bool { return len(p.out.String()) >= len(want) })
		if got := p.out.String(); got != want {
			t.Errorf("it prints %q, want %q", got, want)
		}
	}
	interrupt := func(p *process) {
		t.Helper()
		p.signal(syscall.SIGINT)
		if code := p.exit(); code != 0 {
			t.Errorf("Ctrl-C ends listen with exit code %d", code)
		}
	}

	listener := listen()
	if out := imgo(t, env, "push", "--user", "123", `{"test":1}`); !strings.Contains(out, "1 session") {
		t.Errorf("imgo push printed %q", out)
	}
	prints(listener, "{\"test\":1}\n")
	interrupt(listener)
	prints(listener, "{\"test\":1}\n")

	eventually(t, "it is away, and its acknowledgement is applied", func() bool {
		s := server.node.user(t, "123")
		return !s.Online && s.Pending == 0
	})
	for i := range 3 {
		if out := imgo(t, env, "push", "--user", "123", fmt.Sprintf(`{"test":%d}`, 2+i)); !strings.Contains(out, "is kept") {
			t.Errorf("imgo push printed %q", out)
		}
	}
	if out := imgo(t, env, "users", "show", "123"); !strings.Contains(out, "3") {
		t.Errorf("users show says %q", out)
	}
	three := "{\"test\":2}\n{\"test\":3}\n{\"test\":4}\n"
	listener = listen()
	prints(listener, three)
	imgo(t, env, "push", "--user", "123", "last")
	prints(listener, three+"last\n") // in order and without duplicates
	interrupt(listener)
	eventually(t, "nothing waits", func() bool { return server.node.user(t, "123").Pending == 0 })

	// The server may restart while the message waits.
	imgo(t, env, "push", "--user", "123", "over the restart")
	args := []string{
		"--tcp", server.tcp, "--ws", server.ws, "--http", strings.TrimPrefix(server.node.base, "http://"), "--log-format", "json",
	}
	server.stop()
	server = serve(t, dir, args...)
	listener = listen() // the token is still valid
	prints(listener, "over the restart\n")
	// The server may also restart during listen, which reconnects by itself.
	server.stop()
	server = serve(t, dir, args...)
	eventually(t, "the listener is back", func() bool { return server.node.user(t, "123").Online })
	imgo(t, env, "push", "--user", "123", "after it")
	prints(listener, "over the restart\nafter it\n")
	interrupt(listener)
	server.stop()
}
