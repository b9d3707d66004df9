package javascript_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgo/clients/javascript/jstest"
	"imgo/internal/wait/waittest"
	"imgo/test/harness"
	"imgo/test/programs"
)

// budget bounds the client for browsers, minified and compressed, in bytes.
const budget = 10_000

// tool returns the path of a tool of package.json.
func tool(name string) string {
	return filepath.Join(jstest.Client(), "node_modules", ".bin", name)
}

// TestPackage judges the packed client by the rules for packages with types for both kinds of modules.
func TestPackage(t *testing.T) {
	tgz := jstest.Pack(t)
	programs.Run(t, ".", nil, tool("publint"), "--strict", tgz)
	programs.Run(t, ".", nil, tool("attw"), tgz)
	listed := programs.Run(t, ".", nil, "tar", "-tzf", tgz)
	for _, name := range []string{"LICENSE", "README.md", "src/imgo.js", "src/imgo.d.ts", "cjs/node/imgo.js", "cjs/server/api.d.ts"} {
		if !strings.Contains(listed, "package/"+name+"\n") {
			t.Errorf("the package has no %s:\n%s", name, listed)
		}
	}
	if strings.Contains(listed, "test") || strings.Contains(listed, "driver") {
		t.Errorf("the package has more than the client:\n%s", listed)
	}
}

// TestSize holds the client to its budget.
func TestSize(t *testing.T) {
	jstest.SetUp(t)
	out := filepath.Join(t.TempDir(), "imgo.js")
	programs.Run(t, ".", nil, tool("esbuild"), "src/imgo.js", "--bundle", "--minify", "--format=esm", "--outfile="+out)
	code, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	w, err := gzip.NewWriterLevel(&small, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(code); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", small.Len())
	if small.Len() > budget {
		t.Errorf("the client has %d bytes, minified and compressed; its budget is %d", small.Len(), budget)
	}
}

// TestAPITypes holds server/api.d.ts equal to what the OpenAPI document says.
func TestAPITypes(t *testing.T) {
	jstest.SetUp(t)
	made := filepath.Join(t.TempDir(), "api.d.ts")
	programs.Run(t, ".", nil, tool("openapi-typescript"), "../../roles/logic/httpapi/openapi.yaml", "--default-non-nullable=false", "-o", made)
	want, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("server/api.d.ts", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("server/api.d.ts")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("server/api.d.ts is not what the OpenAPI document says: go test ./clients/javascript -run TestAPITypes -update")
	}
}

// quickStart returns the commands and the programs of the quick start.
func quickStart(t *testing.T) (commands []string, files map[string]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/tutorial/javascript.md")
	if err != nil {
		t.Fatal(err)
	}
	shell := regexp.MustCompile("(?s)```sh\n(.*?)```").FindSubmatch(page)
	if shell == nil {
		t.Fatal("the quick start has no commands")
	}
	commands = strings.Split(strings.TrimSpace(string(shell[1])), "\n")
	files = map[string]string{}
	for _, m := range regexp.MustCompile("(?s)`([a-z]+\\.ts)`[^`]*(?:`[^`]*`)?[^`]*```ts\n(.*?)```").FindAllSubmatch(page, -1) {
		files[string(m[1])] = string(m[2])
	}
	if len(commands) != 5 || len(files) != 2 {
		t.Fatalf("the quick start has %d commands and %d programs", len(commands), len(files))
	}
	return commands, files
}

// TestQuickStart does what the quick start says, in an empty folder with the packed client only. With -commonjs the
// programs are compiled as the other kind of modules. Kept messages arrive in order and once, through kills of the server
// and of the program.
func TestQuickStart(t *testing.T) {
	tgz := jstest.Pack(t)
	kind := "module"
	if *commonJS {
		kind = "commonjs"
	}
	server := programs.StartServer(t)
	dir := t.TempDir()
	commands, files := quickStart(t)
	write(t, filepath.Join(dir, "package.json"), "{}")
	data, err := os.ReadFile(tgz)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, filepath.Base(tgz)), string(data))
	for name, text := range files {
		write(t, filepath.Join(dir, name), server.Real(text))
	}
	last := len(commands) - 1
	for _, command := range commands[:last] {
		command = strings.Replace(command, "type=module", "type="+kind, 1)
		command = strings.Replace(command, "npm install", "npm install --no-audit --no-fund --prefer-offline --ignore-scripts", 1)
		for _, name := range []string{"typescript", "@types/node", "ws"} { // the tested versions
			command = regexp.MustCompile(" "+name+"( |$)").ReplaceAllString(command, " "+jstest.Version(t, name)+"$1")
		}
		programs.Run(t, dir, nil, "bash", "-c", command)
	}
	if strings.Contains(string(read(t, filepath.Join(dir, "listen.js"))), "require(") != (kind == "commonjs") {
		t.Errorf("listen.js is no %s", kind)
	}
	receive(t, server, dir, commands[last])
}

// receive plays the story of the quick start with its compiled programs.
func receive(t *testing.T, server *programs.Server, dir, command string) {
	t.Helper()
	listen := func() *programs.Program { return programs.Start(t, dir, nil, "bash", "-c", "exec "+command) }
	push := func(texts ...string) {
		t.Helper()
		programs.Run(t, dir, nil, "node", append([]string{"push.js"}, texts...)...)
	}
	acknowledged := func() {
		t.Helper()
		waittest.Eventually(t, "everything is acknowledged", func() bool {
			var user struct{ Pending int }
			_, err := harness.Call(http.MethodGet, server.URL()+"/v1/users/ana", "", &user)
			return err == nil && user.Pending == 0
		})
	}
	line := func(text string) string { return fmt.Sprintf("{ text: '%s' }\n", text) }

	first := listen()
	first.Err.WaitFor(t, "live")
	push("first")
	first.Out.WaitFor(t, line("first"))
	acknowledged() // a handler that Ctrl-C ends leaves its message in the mailbox
	first.Interrupt()

	push("one", "two", "three")
	server.Kill()
	second := listen() // before the server is back
	second.Err.WaitFor(t, "waiting")
	server.Start()
	second.Out.WaitFor(t, line("three"))
	acknowledged()
	second.Kill()

	third := listen()
	third.Err.WaitFor(t, "live")
	server.Kill()
	third.Err.WaitFor(t, "waiting")
	server.Start()
	push("last")
	third.Out.WaitFor(t, line("last"))
	acknowledged()
	third.Interrupt()
	got := second.Out.String() + third.Out.String()
	if want := line("one") + line("two") + line("three") + line("last"); got != want {
		t.Errorf("the messages are\n%swant\n%s", got, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
