package e2e_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"imgo/roles"
)

// expectStartFailure runs the server with settings that must prevent its start. It checks the exit
// code and that the message names the problem and the remedy.
func expectStartFailure(t *testing.T, env []string, args []string, code int, says ...string) {
	t.Helper()
	p := run(t, t.TempDir(), env, args...)
	if got := p.exit(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	log := p.log.String()
	for _, part := range says {
		if !strings.Contains(log, part) {
			t.Errorf("the log does not have %q:\n%s", part, log)
		}
	}
	if strings.Contains(log, "goroutine ") || strings.Contains(log, "panic") {
		t.Errorf("the log has a stack:\n%s", log)
	}
}

// TestWrongSettings checks that wrong settings end the process with code 2 and a message that names
// the place and a correct value.
func TestWrongSettings(t *testing.T) {
	t.Parallel() // it mostly waits
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "imgo.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name, file string
		env, args  []string
		says       []string
	}{
		{"unknown key", "# mine\n[comet]\ntpc = \":1\"\n", nil, nil,
			[]string{"imgo.toml:3:1", `unknown key "comet.tpc"`, `did you mean "comet.tcp"`, "tpc = "}},
		{"unknown section", "[comets]\ntcp = \":1\"\n", nil, nil, []string{"imgo.toml:1", "comets", `did you mean`}},
		{"wrong type", "[limits]\nconnections = \"many\"\n", nil, nil, []string{"imgo.toml:2", "limits.connections", "many"}},
		{"a number for a string", "node_id = 5\n", nil, nil, []string{"imgo.toml:1", "node_id"}},
		{"a duration without a unit", "[kept]\nttl = 3600\n", nil, nil, []string{"imgo.toml:2", "kept.ttl", "7d"}},
		{"out of bounds", "[kept]\nmailbox_length = 0\n", nil, nil, []string{"imgo.toml:2", "kept.mailbox_length", "from 1 to"}},
		{"no TOML", "comet = [\n", nil, nil, []string{"imgo.toml:"}},
		{"two at once", "nodeid = 'a'\n[comet]\ntpc = ':1'\n", nil, nil, []string{"2 problems", "node_id", "comet.tcp"}},
		{"variable", "", []string{"IMGO_LIMITS_CONNECTIONS=x"}, nil, []string{"IMGO_LIMITS_CONNECTIONS", `"x"`}},
		{"flag", "", nil, []string{"--kept-ttl", "soon"}, []string{"--kept-ttl", "is not a duration", "7d"}},
		{"open to the world", "", nil, []string{"--http", "0.0.0.0:0"}, []string{"API key", "127.0.0.1"}},
		{"auth none beyond loopback", "", nil, []string{"--auth-mode", "none", "--tcp", "0.0.0.0:0"},
			[]string{"anybody could be anybody", "--tcp 127.0.0.1:0"}},
		{"other nodes", "", nil, []string{"--cluster-join", "10.0.0.1"}, []string{"cluster.join", "leave --join out"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append(freePorts(), test.args...)
			if test.file != "" {
				args = append(args, "--config", file(test.file))
			}
			expectStartFailure(t, test.env, args, 78, test.says...)
		})
	}
	t.Run("unknown flag", func(t *testing.T) {
		expectStartFailure(t, nil, append(freePorts(), "--kept-tll", "1d"), 64, "--kept-tll")
	})
	t.Run("no such file", func(t *testing.T) {
		expectStartFailure(t, nil, append(freePorts(), "--config", "/nowhere/imgo.toml"), 78, "/nowhere/imgo.toml")
	})
}

// TestPortInUse occupies the port of each of the three listeners.
func TestPortInUse(t *testing.T) {
	t.Parallel() // it mostly waits
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, flag := range []string{"--tcp", "--ws", "--http"} {
		t.Run(flag, func(t *testing.T) {
			expectStartFailure(t, nil, append(freePorts(), flag, taken.Addr().String()), 1,
				taken.Addr().String(), "address already in use", "another process (perhaps another imgo) has it", flag)
		})
	}
}

// TestDataDirectoryRefused uses a data folder that another process holds, or that cannot be written
// to. Permissions do not apply to root, so the test uses paths that even root cannot write to.
func TestDataDirectoryRefused(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	used := filepath.Join(dir, "used")
	p := serve(t, dir, freePorts("--data-dir", used)...)
	expectStartFailure(t, nil, freePorts("--data-dir", used), 1, used, "in use", fmt.Sprint("process ", p.cmd.Process.Pid), "--data-dir")
	id := p.node.push(t, "a", "still here")
	p.stop()
	p = serve(t, dir, freePorts("--data-dir", used)...)
	if s := p.node.user(t, "a"); s.Pending != 1 || id == 0 {
		t.Errorf("after the visit of another: %+v", s)
	}
	p.stop()

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	expectStartFailure(t, nil, freePorts("--data-dir", file), 1, file, "--data-dir")
	expectStartFailure(t, nil, freePorts("--data-dir", filepath.Join(file, "below")), 1, file, "--data-dir")
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	if runtime.GOOS == "linux" {
		expectStartFailure(t, nil, freePorts("--data-dir", "/proc/imgo"), 1, "/proc/imgo", "--data-dir")
		expectStartFailure(t, nil, freePorts("--data-dir", "/proc/self"), 1, "/proc/self", "--data-dir")
	}
	if os.Geteuid() != 0 {
		closed := filepath.Join(dir, "closed")
		if err := os.Mkdir(closed, 0o500); err != nil {
			t.Fatal(err)
		}
		expectStartFailure(t, nil, freePorts("--data-dir", closed), 1, closed, "not writable", "chown")
	}
}

// fingerprint returns the hash of each file in a folder.
func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = fmt.Sprintf("%x of %d bytes", sha256.Sum256(b), len(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestCorruptedFiles breaks each file of the data folder. The server must name the file and the
// remedy, and must change no file. After the file is restored, all data is there again.
func TestCorruptedFiles(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	p := serve(t, dir, freePorts("--data-dir", data)...)
	const messages = 50
	for i := range messages {
		p.node.push(t, "ann", fmt.Sprint(i))
	}
	p.stop()

	byKind := map[string]string{}
	files, err := os.ReadDir(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Size() > 0 {
			kind := filepath.Ext(f.Name())
			if kind == "" {
				kind = f.Name()
			}
			byKind[kind] = filepath.Join(data, f.Name())
		}
	}
	flip := func(b []byte) []byte {
		b = append([]byte(nil), b...)
		b[2*len(b)/3] ^= 0x10
		return b
	}
	for _, test := range []struct {
		kind string
		hurt func([]byte) []byte // nil: the file is deleted
	}{
		{".sst", flip}, {".sst", nil}, {"MANIFEST", flip}, {"MANIFEST", nil}, {"MANIFEST", func(b []byte) []byte { return b[:6] }},
		{"FORMAT", flip}, {"KEYREGISTRY", flip},
	} {
		path := byKind[test.kind]
		if path == "" {
			t.Errorf("the data directory has no %s: %v", test.kind, byKind)
			continue
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := test.kind
		if test.hurt == nil {
			name += " missing"
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, test.hurt(whole), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			before := fingerprint(t, data)
			for range 2 { // the first failed start must not change the result of the second
				expectStartFailure(t, nil, freePorts("--data-dir", data), 1, data, filepath.Base(path), "nothing was changed", "back-up")
			}
			after := fingerprint(t, data)
			for path, is := range before {
				if after[path] != is {
					t.Errorf("%s was %s and is %s", path, is, after[path])
				}
			}
			if len(after) != len(before) {
				t.Errorf("there were %d files and are %d", len(before), len(after))
			}
		})
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p = serve(t, dir, freePorts("--data-dir", data)...)
	if s := p.node.user(t, "ann"); s.Pending != messages {
		t.Errorf("with all files restored: %+v", s)
	}
	p.stop()
}

// TestFailedStartGivesEverythingBack lets the last step of the start fail. No port, folder lock or
// goroutine may remain.
func TestFailedStartGivesEverythingBack(t *testing.T) {
	n := start(t, nil)
	cfg := n.cfg
	cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = n.ClientAddr("tcp").String(), n.ClientAddr("ws").String(), n.HTTPAddr().String()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	broken := cfg
	broken.HTTP.TLSCert = filepath.Join(t.TempDir(), "cert.pem")
	broken.HTTP.TLSKey = broken.HTTP.TLSCert
	if err := os.WriteFile(broken.HTTP.TLSCert, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.New(t.Context(), broken, roles.RunOptions{}); err == nil || !strings.Contains(err.Error(), "http.tls_cert") {
		t.Fatalf("New: %v", err)
	}
	startWith(t, cfg, roles.RunOptions{})
}
