package java_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imgo/internal/wait/waittest"
	"imgo/test/hooktest"
	"imgo/test/programs"
)

// imgo runs a command of imgo, such as `push`, and returns what it printed.
func imgo(t *testing.T, s *programs.Server, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Binary(), args...)
	cmd.Env = append(os.Environ(), "IMGO_SERVER="+s.URL())
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("imgo %s: %v\n%s", strings.Join(args, " "), err, &problem)
	}
	return strings.TrimSpace(string(out))
}

// waitAcknowledged waits until no message waits for user 123.
func waitAcknowledged(t *testing.T, s *programs.Server) {
	t.Helper()
	waittest.Eventually(t, "the acknowledgements", func() bool { return s.Pending("123") == 0 })
}

// crash kills the server with SIGKILL and starts it again.
func crash(t *testing.T, s *programs.Server) {
	t.Helper()
	s.Kill()
	s.Start()
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
			if entry.Name() == part || entry.Name() == "imgo" { // a developer may have installed the build's own parent
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
	s := programs.StartServer(t)
	page := string(readFile(t, "../../docs/tutorial/java.md"))
	project := newProject(t, map[string]string{
		"pom.xml":                  strings.ReplaceAll(block(t, page, "xml", "<project"), "/path/to/imgo/dist", packed),
		"src/main/java/Hello.java": strings.ReplaceAll(block(t, page, "java", "class Hello"), "127.0.0.1:8080", s.TCP),
	})
	commands := block(t, page, "sh", "mvn ")
	for _, command := range []string{"TOKEN=$(/path/to/imgo/imgo token new --user 123)", `imgo push --user 123 '{"hello":"java"}'`} {
		if !strings.Contains(commands, command) {
			t.Errorf("the page has another command than the test: %s", command)
		}
	}
	token := imgo(t, s, "token", "new", "--user", "123")
	command := regexp.MustCompile(`(?m)^mvn .*$`).FindString(commands)
	command = strings.ReplaceAll(command, "$TOKEN", token)
	words := append(strings.Fields(command), "-Dmaven.repo.local="+packedRepository(t))
	// Maven compiles the program once. Later runs take the same classes.
	again := func() *programs.Program {
		return programs.Start(t, project, nil, "java", "-cp", "target/classes:"+filepath.Join(packed, "*"), "Hello", token)
	}

	first := programs.Start(t, project, nil, words[0], words[1:]...)
	first.WaitFor("^connected$")
	imgo(t, s, "push", "--user", "123", `{"hello":"java"}`)
	first.WaitFor(`^{"hello":"java"}$`)
	first.Stop()
	for _, n := range []string{"1", "2", "3"} {
		imgo(t, s, "push", "--user", "123", `{"away":`+n+`}`)
	}
	crash(t, s)

	second := again()
	second.WaitFor(`^{"away":3}$`)
	crash(t, s)
	imgo(t, s, "push", "--user", "123", `{"after":"the crash"}`)
	second.WaitFor(`^{"after":"the crash"}$`)
	waitAcknowledged(t, s)
	second.Kill()
	want := []string{`{"away":1}`, `{"away":2}`, `{"away":3}`, `{"after":"the crash"}`}
	if got := messages(second); !slices.Equal(got, want) {
		t.Errorf("the program got %q, want %q", got, want)
	}

	third := again()
	imgo(t, s, "push", "--user", "123", `{"last":true}`)
	third.WaitFor(`^{"last":true}$`)
	third.Stop()
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
	s := programs.StartServer(t)
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
		"src/main/kotlin/Hello.kt": strings.ReplaceAll(block(t, page, "kotlin", "fun main"), "127.0.0.1:8090", s.WS),
	})
	for n := range 3 {
		imgo(t, s, "push", "--user", "123", strconv.Itoa(n))
	}
	token := imgo(t, s, "token", "new", "--user", "123")
	hello := programs.Start(t, project, nil, "mvn", "-q", "compile", "exec:java", "-Dexec.args="+token,
		"-Dmaven.repo.local="+packedRepository(t), "-Dkotlin.compiler.daemon=false") // the daemon would stay for hours
	hello.WaitFor("^2$")
	waitAcknowledged(t, s)
	hello.Kill()
	numbers := slices.DeleteFunc(lines(hello), func(line string) bool { return !regexp.MustCompile(`^[0-9]$`).MatchString(line) })
	if want := []string{"0", "1", "2"}; !slices.Equal(numbers, want) {
		t.Errorf("the program got %q, want %q", numbers, want)
	}
}

// lines returns the lines that a program printed to standard output.
func lines(p *programs.Program) []string { return strings.Split(p.Out.String(), "\n") }

// messages returns the lines of a program that are JSON objects.
func messages(p *programs.Program) []string {
	return slices.DeleteFunc(lines(p), func(line string) bool { return !strings.HasPrefix(line, "{") })
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
	s := programs.StartServer(t)
	backend := programs.Start(t, t.TempDir(), nil, "java", java(t, "../../examples/java/Backend.java", s.URL(), "0")...)
	address := backend.WaitFor(`^backend on (http://\S+)$`)[1]
	status, token := post(t, address+"/login", "text/plain", "123")
	if status != http.StatusOK {
		t.Fatalf("the log-in was answered %d: %s", status, token)
	}
	terminal := programs.Start(t, t.TempDir(), nil, "java", java(t, "../../examples/java/Terminal.java", "tcp://"+s.TCP, token)...)
	terminal.WaitFor(`^\* LIVE$`)
	if status, answer := post(t, address+"/push/123", "text/plain", "hello"); status != http.StatusOK {
		t.Errorf("the push was answered %d: %s", status, answer)
	}
	terminal.WaitFor("^> hello$")
	if _, err := io.WriteString(terminal.In, "/join lobby\n"); err != nil {
		t.Fatal(err)
	}
	terminal.WaitFor(`^\* done$`)
	imgo(t, s, "push", "--room", "lobby", "to the room")
	terminal.WaitFor("to the room")
	if _, err := io.WriteString(terminal.In, "/quit\n"); err != nil {
		t.Fatal(err)
	}
	terminal.Wait()
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
	if shown := imgo(t, s, "users", "show", "123"); !strings.Contains(shown, "1") {
		t.Errorf("after a push of the page's backend: %s", shown)
	}
}

// TestSpringExample builds the example with the packed libraries, logs in and pushes through it, and has it receive events.
func TestSpringExample(t *testing.T) {
	packed := dist(t)
	hooktest.Short(t, "../../examples/java/spring/src/main/java/example/Receiver.java")
	listen := waittest.FreeAddress(t)
	address := "http://" + listen
	s := programs.StartServer(t, "--config", hooktest.Settings(t, address+"/events"))
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
	spring := programs.Start(t, project, nil, "java", "-jar", "target/imgo-spring-example.jar",
		"--server.port="+port, "--imgo.servers="+s.URL())
	spring.WaitFor(`Tomcat started on port \d+`)
	status, answer := post(t, address+"/login", "application/json", `{"user":"123"}`)
	var login struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(answer), &login); err != nil || status != http.StatusOK || login.Token == "" {
		t.Fatalf("the log-in was answered %d: %s", status, answer)
	}
	listener := programs.Start(t, t.TempDir(), nil, s.Binary(), "listen", "--server", s.URL(), "--connect", s.TCP, "--token", login.Token)
	listener.Err.WaitFor(t, "connected")
	order := `{"user":"123","number":"17","state":"paid"}`
	status, first := post(t, address+"/orders", "application/json", order)
	if status != http.StatusOK || !strings.Contains(first, `"message"`) {
		t.Fatalf("the order was answered %d: %s", status, first)
	}
	if _, again := post(t, address+"/orders", "application/json", order); again != first {
		t.Errorf("the order was pushed twice: %s and %s", first, again)
	}
	listener.WaitFor(`"order":"17"`)
	if status, answer := post(t, address+"/login", "application/json", `{"user":""}`); status != http.StatusBadRequest {
		t.Errorf("a log-in without a user was answered %d: %s", status, answer)
	}
	hooktest.Check(t, s.URL(), s.TCP, address+"/events", spring.Out.String)
	spring.Stop()
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
