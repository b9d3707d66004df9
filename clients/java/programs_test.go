package java_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"imgo/bench/process"
	"imgo/internal/wait/waittest"
	"imgo/test/hooktest"
)

// program is a process whose lines of output a test waits for.
type program struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}

	mu    sync.Mutex
	lines []string
}

// startProgram starts a program in a group of its own. It is killed at the end of the test.
func startProgram(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(name, args...), ended: make(chan struct{})} //nolint:noctx // the cleanup ends it
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	read, write := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = write, write
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // a test that cares reads ProcessState
		_ = write.Close()
	}()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
		_, _ = io.Copy(io.Discard, read) // after a line that is too long
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.ended
		<-copied
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, strings.Join(p.output(), "\n"))
		}
	})
	return p
}

func (p *program) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// waitFor waits until a line of the output matches, and returns the match.
func (p *program) waitFor(t *testing.T, pattern string) []string {
	t.Helper()
	line := regexp.MustCompile(pattern)
	var match []string
	waittest.Eventually(t, "a line "+pattern, func() bool {
		for _, l := range p.output() {
			if match = line.FindStringSubmatch(l); match != nil {
				return true
			}
		}
		select {
		case <-p.ended:
			t.Fatalf("the program ended without a line %s: %s", pattern, strings.Join(p.output(), "\n"))
		default:
		}
		return false
	})
	return match
}

// end ends the program as Ctrl-C does, and waits for it.
func (p *program) end(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.waitEnd(t)
}

// kill ends the program at once.
func (p *program) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.waitEnd(t)
}

func (p *program) waitEnd(t *testing.T) {
	t.Helper()
	waittest.Eventually(t, "the end of the program", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
}

// server is a real imgo at addresses of its own.
type server struct {
	*process.Process
	tcp, ws string
}

// startServer starts imgo with an empty data folder. It ends with the test. flags are more flags.
func startServer(t *testing.T, flags ...string) *server {
	t.Helper()
	dir := t.TempDir()
	tcp, ws, api := freeAddress(t), freeAddress(t), freeAddress(t)
	s := &server{tcp: tcp, ws: ws, Process: &process.Process{
		Binary: builtImgo(t), Name: "imgo", HTTP: api, Log: filepath.Join(dir, "log"),
		Args: append([]string{"--data-dir", filepath.Join(dir, "data"), "--tcp", tcp, "--ws", ws, "--http", api}, flags...),
	}}
	s.restart(t)
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) restart(t *testing.T) {
	t.Helper()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crash kills the server with SIGKILL and starts it again.
func (s *server) crash(t *testing.T) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
}

// command runs a command of imgo, such as `push`, and returns what it printed.
func (s *server) command(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Binary, args...)
	cmd.Env = append(os.Environ(), "IMGO_SERVER=http://"+s.HTTP)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("imgo %s: %v\n%s", strings.Join(args, " "), err, &problem)
	}
	return strings.TrimSpace(string(out))
}

// waitAcknowledged waits until no message waits for user 123.
func (s *server) waitAcknowledged(t *testing.T) {
	t.Helper()
	waittest.Eventually(t, "the acknowledgements", func() bool {
		var user struct {
			Pending int `json:"pending"`
		}
		return json.Unmarshal([]byte(s.command(t, "users", "show", "123", "--json")), &user) == nil && user.Pending == 0
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it listens for a moment
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// block returns a block of a document, of a language and with a text in it.
func block(t *testing.T, document, language, text string) string {
	t.Helper()
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(document, -1) {
		if strings.Contains(m[1], text) {
			return m[1]
		}
	}
	t.Fatalf("the document has no block of %s with %q", language, text)
	return ""
}

// repository returns a local repository for Maven that has everything which the user's own one has, except the libraries of a
// group: those come from what was packed or deployed.
func repository(t *testing.T, group string) string {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	from, root := filepath.Join(home, ".m2", "repository"), t.TempDir()
	to := root
	for part := range strings.SplitSeq(group, ".") {
		entries, err := os.ReadDir(from)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Name() == part {
				continue
			}
			if err := os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
		from, to = filepath.Join(from, part), filepath.Join(to, part)
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// packedRepository returns a local repository without the libraries of imgo.
func packedRepository(t *testing.T) string {
	t.Helper()
	group, _ := coordinates(t)
	return repository(t, group)
}

// newProject makes a folder with files.
func newProject(t *testing.T, files map[string]string) string {
	t.Helper()
	project := t.TempDir()
	for file, text := range files {
		path := filepath.Join(project, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return project
}

// TestQuickStart makes an empty project, and types what the quick start says. Its program gets what was pushed while it was
// away, in order and once, though the server and the program are killed.
func TestQuickStart(t *testing.T) {
	packed := dist(t)
	s := startServer(t)
	page := string(readFile(t, "../../docs/tutorial/java.md"))
	project := newProject(t, map[string]string{
		"pom.xml":                  strings.ReplaceAll(block(t, page, "xml", "<project"), "/path/to/imgo/dist", packed),
		"src/main/java/Hello.java": strings.ReplaceAll(block(t, page, "java", "class Hello"), "127.0.0.1:8080", s.tcp),
	})
	commands := block(t, page, "sh", "mvn ")
	for _, command := range []string{"TOKEN=$(/path/to/imgo/imgo token new --user 123)", `imgo push --user 123 '{"hello":"java"}'`} {
		if !strings.Contains(commands, command) {
			t.Errorf("the page has another command than the test: %s", command)
		}
	}
	token := s.command(t, "token", "new", "--user", "123")
	command := regexp.MustCompile(`(?m)^mvn .*$`).FindString(commands)
	command = strings.ReplaceAll(command, "$TOKEN", token)
	words := append(strings.Fields(command), "-Dmaven.repo.local="+packedRepository(t))
	start := func() *program { return startProgram(t, project, words[0], words[1:]...) }

	first := start()
	first.waitFor(t, "^connected$")
	s.command(t, "push", "--user", "123", `{"hello":"java"}`)
	first.waitFor(t, `^{"hello":"java"}$`)
	first.end(t)
	for _, n := range []string{"1", "2", "3"} {
		s.command(t, "push", "--user", "123", `{"away":`+n+`}`)
	}
	s.crash(t)

	second := start()
	second.waitFor(t, `^{"away":3}$`)
	s.crash(t)
	s.command(t, "push", "--user", "123", `{"after":"the crash"}`)
	second.waitFor(t, `^{"after":"the crash"}$`)
	s.waitAcknowledged(t)
	second.kill(t)
	want := []string{`{"away":1}`, `{"away":2}`, `{"away":3}`, `{"after":"the crash"}`}
	if got := messages(second); !slices.Equal(got, want) {
		t.Errorf("the program got %q, want %q", got, want)
	}

	third := start()
	s.command(t, "push", "--user", "123", `{"last":true}`)
	third.waitFor(t, `^{"last":true}$`)
	third.end(t)
	if got := messages(third); !slices.Equal(got, []string{`{"last":true}`}) {
		t.Errorf("after it was killed, the program got %q", got)
	}
}

var mavenDependencies = regexp.MustCompile(`(?s)<dependencies>.*</dependencies>`)

// kotlinPlugin compiles src/main/kotlin, with the version of Kotlin that the libraries have.
const kotlinPlugin = `<build>
    <sourceDirectory>src/main/kotlin</sourceDirectory>
    <plugins>
      <plugin>
        <groupId>org.jetbrains.kotlin</groupId>
        <artifactId>kotlin-maven-plugin</artifactId>
        <version>VERSION</version>
        <configuration><jvmTarget>11</jvmTarget></configuration>
        <executions><execution><goals><goal>compile</goal></goals></execution></executions>
      </plugin>
    </plugins>`

// TestKotlinQuickStart makes an empty project with Kotlin from the dependencies and the program of the quick start. The program
// receives over WebSocket.
func TestKotlinQuickStart(t *testing.T) {
	packed := dist(t)
	s := startServer(t)
	page := string(readFile(t, "../../docs/tutorial/java.md"))
	pom := strings.ReplaceAll(block(t, page, "xml", "<project"), "/path/to/imgo/dist", packed)
	pom = mavenDependencies.ReplaceAllLiteralString(pom, block(t, page, "xml", "imgo-client-kotlin"))
	kotlin := regexp.MustCompile(`<kotlin.version>(.*)</kotlin.version>`).FindSubmatch(readFile(t, "pom.xml"))
	if kotlin == nil {
		t.Fatal("pom.xml has no version of Kotlin")
	}
	pom = strings.Replace(pom, "<build>", strings.Replace(kotlinPlugin, "VERSION", string(kotlin[1]), 1), 1)
	project := newProject(t, map[string]string{
		"pom.xml":                  strings.ReplaceAll(pom, "<exec.mainClass>Hello<", "<exec.mainClass>HelloKt<"),
		"src/main/kotlin/Hello.kt": strings.ReplaceAll(block(t, page, "kotlin", "fun main"), "127.0.0.1:8090", s.ws),
	})
	for n := range 3 {
		s.command(t, "push", "--user", "123", strconv.Itoa(n))
	}
	token := s.command(t, "token", "new", "--user", "123")
	hello := startProgram(t, project, "mvn", "-q", "compile", "exec:java", "-Dexec.args="+token,
		"-Dmaven.repo.local="+packedRepository(t), "-Dkotlin.compiler.daemon=false") // the daemon would stay for hours
	hello.waitFor(t, "^2$")
	s.waitAcknowledged(t)
	hello.kill(t)
	numbers := slices.DeleteFunc(hello.output(), func(line string) bool { return !regexp.MustCompile(`^[0-9]$`).MatchString(line) })
	if want := []string{"0", "1", "2"}; !slices.Equal(numbers, want) {
		t.Errorf("the program got %q, want %q", numbers, want)
	}
}

// messages returns the lines of a program that are JSON objects.
func messages(p *program) []string {
	return slices.DeleteFunc(p.output(), func(line string) bool { return !strings.HasPrefix(line, "{") })
}

// java returns the arguments that run a program of one file with the packed libraries.
func java(t *testing.T, file string, args ...string) []string {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"-cp", filepath.Join(dist(t), "*"), path}, args...)
}

// TestExamples runs the examples of one file: a client in a terminal gets what a backend pushes. The backend of the quick start
// pushes, too.
func TestExamples(t *testing.T) {
	dist(t)
	for _, file := range []string{"Backend.java", "Terminal.java"} {
		if lines := strings.Count(string(readFile(t, "../../examples/java/"+file)), "\n"); lines > 60 {
			t.Errorf("examples/java/%s has %d lines; an example has at most 60", file, lines)
		}
	}
	s := startServer(t)
	backend := startProgram(t, t.TempDir(), "java", java(t, "../../examples/java/Backend.java", "http://"+s.HTTP, "0")...)
	address := backend.waitFor(t, `^backend on (http://\S+)$`)[1]
	status, token := post(t, address+"/login", "text/plain", "123")
	if status != http.StatusOK {
		t.Fatalf("the log-in was answered %d: %s", status, token)
	}
	terminal := startProgram(t, t.TempDir(), "java", java(t, "../../examples/java/Terminal.java", "tcp://"+s.tcp, token)...)
	terminal.waitFor(t, `^\* LIVE$`)
	if status, answer := post(t, address+"/push/123", "text/plain", "hello"); status != http.StatusOK {
		t.Errorf("the push was answered %d: %s", status, answer)
	}
	terminal.waitFor(t, "^> hello$")
	if _, err := io.WriteString(terminal.stdin, "/join lobby\n"); err != nil {
		t.Fatal(err)
	}
	terminal.waitFor(t, `^\* done$`)
	s.command(t, "push", "--room", "lobby", "to the room")
	terminal.waitFor(t, "to the room")
	if _, err := io.WriteString(terminal.stdin, "/quit\n"); err != nil {
		t.Fatal(err)
	}
	terminal.waitEnd(t)
	if code := terminal.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the terminal ended with %d", code)
	}
	if status, answer := post(t, address+"/login", "text/plain", ""); status != http.StatusBadRequest || answer != "invalid\n" {
		t.Errorf("a log-in without a user was answered %d %q", status, answer)
	}

	page := string(readFile(t, "../../docs/tutorial/java.md"))
	file := filepath.Join(t.TempDir(), "Backend.java")
	text := strings.ReplaceAll(block(t, page, "java", "class Backend"), "127.0.0.1:7172", s.HTTP)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), ".", nil, "java", java(t, file)...); err != nil {
		t.Fatal(err)
	}
	if shown := s.command(t, "users", "show", "123"); !strings.Contains(shown, "1") {
		t.Errorf("after a push of the page's backend: %s", shown)
	}
}

// TestSpringExample builds the example with the packed libraries, logs in and pushes through it, and has it receive events.
func TestSpringExample(t *testing.T) {
	packed := dist(t)
	hooktest.Short(t, "../../examples/java/spring/src/main/java/example/Receiver.java")
	listen := freeAddress(t)
	address := "http://" + listen
	s := startServer(t, "--config", hooktest.Settings(t, address+"/events"))
	project := t.TempDir()
	if err := os.CopyFS(project, os.DirFS("../../examples/java/spring")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), project, nil, "mvn", "--batch-mode", "--no-transfer-progress", "package",
		"-Dimgo.repository=file://"+packed+"/maven", "-Dmaven.repo.local="+packedRepository(t)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOOK_SECRET", hooktest.Secret)
	_, port, _ := strings.Cut(listen, ":")
	spring := startProgram(t, project, "java", "-jar", "target/imgo-spring-example.jar",
		"--server.port="+port, "--imgo.servers=http://"+s.HTTP)
	spring.waitFor(t, `Tomcat started on port \d+`)
	status, answer := post(t, address+"/login", "application/json", `{"user":"123"}`)
	var login struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(answer), &login); err != nil || status != http.StatusOK || login.Token == "" {
		t.Fatalf("the log-in was answered %d: %s", status, answer)
	}
	listener := startProgram(t, t.TempDir(), s.Binary, "listen", "--server", "http://"+s.HTTP, "--connect", s.tcp, "--token", login.Token)
	listener.waitFor(t, "connected")
	order := `{"user":"123","number":"17","state":"paid"}`
	status, first := post(t, address+"/orders", "application/json", order)
	if status != http.StatusOK || !strings.Contains(first, `"message"`) {
		t.Fatalf("the order was answered %d: %s", status, first)
	}
	if _, again := post(t, address+"/orders", "application/json", order); again != first {
		t.Errorf("the order was pushed twice: %s and %s", first, again)
	}
	listener.waitFor(t, `"order":"17"`)
	if status, answer := post(t, address+"/login", "application/json", `{"user":""}`); status != http.StatusBadRequest {
		t.Errorf("a log-in without a user was answered %d: %s", status, answer)
	}
	hooktest.Check(t, "http://"+s.HTTP, s.tcp, address+"/events", func() string { return strings.Join(spring.output(), "\n") + "\n" })
	spring.end(t)
}

var caller = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: waittest.Limit}

func post(t *testing.T, url, contentType, body string) (status int, answer string) {
	t.Helper()
	resp, err := caller.Post(url, contentType, strings.NewReader(body)) //nolint:noctx // the client has a timeout
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}
