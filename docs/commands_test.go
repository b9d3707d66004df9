package docs_test

import (
	"bufio"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/internal/process"
	"imgo/internal/race"
)

// help returns the help text of a command, such as "imgo token new".
func (s *shell) help(command string) string {
	s.t.Helper()
	out, err := s.command(s.t.Context(), command+" --help").CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s --help: %v\n%s", command, err, out)
	}
	return string(out)
}

var (
	commandsPart    = regexp.MustCompile(`(?s)\nCOMMANDS:?\n(.*?)\n\n`)
	descriptionPart = regexp.MustCompile(`(?s)\n(?:DESCRIPTION|FIRST STEPS):?\n(.*?)\n\n`)
	commandName     = regexp.MustCompile(`(?m)^   ([a-z]+)`)
	remark          = regexp.MustCompile(`   +.*$`)
)

// commandHelps returns the help text of every command, by its name: "imgo", "imgo push", "imgo token new".
func (s *shell) commandHelps() map[string]string {
	all := map[string]string{}
	var visit func(name string)
	visit = func(name string) {
		text := s.help(name) + "\n\n"
		all[name] = text
		if part := commandsPart.FindStringSubmatch(text); part != nil {
			for _, sub := range commandName.FindAllStringSubmatch(part[1], -1) {
				if sub[1] != "help" {
					visit(name + " " + sub[1])
				}
			}
		}
	}
	visit("imgo")
	return all
}

// examples returns the command lines that a help text shows, without the remarks behind them.
func examples(text string) []string {
	part := descriptionPart.FindStringSubmatch(text)
	if part == nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(part[1]) {
		line = strings.TrimSpace(line)
		switch first, _, _ := strings.Cut(line, " "); {
		case first == "imgo", first == "tail", first == "source", strings.HasPrefix(first, "TOKEN="):
			all = append(all, strings.TrimSpace(remark.ReplaceAllString(line, "")))
		}
	}
	return all
}

// endless reports whether a command runs until it is interrupted, and returns what it prints first.
func endless(line string) (prints string, ok bool) {
	switch {
	case line == "imgo", strings.HasPrefix(line, "imgo --config"), strings.HasPrefix(line, "imgo serve"):
		return "is ready", true
	case strings.HasPrefix(line, "imgo events --follow"), strings.HasPrefix(line, "imgo notices --follow"):
		return "Ctrl-C ends", true
	case strings.HasPrefix(line, "imgo listen"):
		return "connected to", true
	}
	return "", false
}

// atOnce is what makes an example small, or fits it to this test. It is not what the example shows.
func (s *shell) atOnce(line, token string) string {
	ws := "ws://" + s.addresses[2][1] + "/sub"
	line = strings.NewReplacer("TOKEN=$", "TOKEN=$", "TOKEN", token, "wss://push.example.com/sub", ws,
		"push.example.com:8080", s.addresses[1][1], "10.0.0.9:7180", s.hook,
		"http://a:7172,http://b:7172", "http://"+s.addresses[0][1], "tail -f", "cat", "KEY", "unused-key", "~/", s.dir+"/").Replace(line)
	switch {
	case strings.HasPrefix(line, "imgo verify"):
		line += " --users 2 --rate 100 --duration 500ms"
		if strings.Contains(line, "--falsify") { // what it leaves out never arrives
			line += " --settle 3s"
		}
	case strings.HasPrefix(line, "source") && strings.Contains(line, "zsh"):
		line = "imgo completion zsh"
	}
	return line
}

// TestHelpExamples types every command line that a help text shows into a shell beside a real imgo.
func TestHelpExamples(t *testing.T) {
	s := newShell(t, builtImgo(t))
	// verify waits for old clients' next packet otherwise, which is half a minute.
	const secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	s.env = append(s.env, "IMGO_DELIVERY_AUTO_ACK=tcp", "IMGO_UPSTREAM=4:events", "IMGO_PRESENCE_EVENTS=true",
		"IMGO_HOOKS=orders:"+secret+":http://127.0.0.1:9/nobody,verify:"+secret+":http://"+s.hook+"/", "IMGO_VERIFY_HOOK_SECRET="+secret)
	for name, text := range map[string]string{
		"users.txt": "123\n456\n", "message.json": `{"test":1}`, "events.log": "one\ntwo\n", ".config/fish/completions/none": "",
	} {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start("imgo", "imgo", pattern("…\nimgo … is ready (node laptop)\n…"))
	helps := s.commandHelps()
	if len(helps) < 15 {
		t.Fatalf("there are only %d commands", len(helps))
	}
	ran := 0
	for name, text := range helps {
		lines := examples(text)
		ran += len(lines)
		for _, line := range lines {
			t.Run(strings.ReplaceAll(line, "/", "|"), func(t *testing.T) { s.runExample(t, name, line) })
		}
	}
	if ran < 25 {
		t.Errorf("only %d examples were run", ran)
	}
}

// runExample runs one example of the help of a command.
func (s *shell) runExample(t *testing.T, name, line string) {
	made, err := s.command(t.Context(), "imgo token new --user 123").Output()
	if err != nil {
		t.Fatal(err)
	}
	typed := s.atOnce(line, strings.TrimSpace(string(made)))
	switch {
	case line == "imgo": // the server that runs already
		return
	case strings.Contains(line, "--driver"): // bench/soak runs verify with the drivers, which need their languages
		return
	}
	if prints, ok := endless(line); ok {
		s.untilPrints(t, typed, prints)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := s.command(ctx, typed).CombinedOutput()
	switch {
	case strings.HasPrefix(line, "imgo partitions grow"): // right, but not in one process
		if !strings.Contains(string(out), "in one process") {
			t.Errorf("%s --help shows: %s\n%v\n%s", name, line, err, out)
		}
	case strings.HasPrefix(line, "imgo users forget"): // right, but the user may have no such device
		if err != nil && !strings.Contains(string(out), "has no device") {
			t.Errorf("%s --help shows: %s\n%v\n%s", name, line, err, out)
		}
	case strings.HasPrefix(line, "imgo hooks resume"): // right, but the hook goes on already
		if !strings.Contains(string(out), "is not paused") {
			t.Errorf("%s --help shows: %s\n%v\n%s", name, line, err, out)
		}
	case strings.HasPrefix(line, "imgo explain"): // right, but there may be no such message
		if err != nil && !strings.Contains(string(out), "there is no message") {
			t.Errorf("%s --help shows: %s\n%v\n%s", name, line, err, out)
		}
	case strings.Contains(line, "--falsify"): // finds what it falsified
		if !strings.Contains(string(out), "VIOLATION") {
			t.Errorf("%s --help shows: %s\n%v\n%s", name, line, err, out)
		}
	case err != nil:
		t.Errorf("%s --help shows: %s\n%v\n%s", name, line, err, out)
	}
}

// untilPrints runs a command until it has printed a text, and interrupts it then.
func (s *shell) untilPrints(t *testing.T, line, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := s.command(ctx, "exec "+line)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	var seen strings.Builder
	found := false
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		seen.WriteString(lines.Text() + "\n")
		if !found && strings.Contains(lines.Text(), text) {
			found = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !found {
		t.Errorf("%s: %v, without %q in\n%s", line, err, text, seen.String())
	}
}

// codeLine matches an indented line of code, and inlineCode code within a sentence.
var (
	codeLine   = regexp.MustCompile(`(?m)^    (\S.*)$`)
	inlineCode = regexp.MustCompile("`([^`\n]+)`")
	shellNote  = regexp.MustCompile(`\s+#.*$`)
)

// TestShownCommands checks every command line of imgo in the documents, in the deployment files and in
// the texts of the program: the command exists, and so do its flags.
func TestShownCommands(t *testing.T) {
	s := newShell(t, builtImgo(t))
	helps := s.commandHelps()
	for name := range helps {
		if name == "imgo" { // whose help shows the common flags only
			helps[name] += s.help("imgo serve")
		}
	}
	seen := 0
	check := func(where, line string) {
		problem, ok := wrongCommand(helps, line)
		if !ok {
			return
		}
		if seen++; problem != "" {
			t.Errorf("%s: %s: %s", where, line, problem)
		}
	}
	for _, file := range documents(t) {
		text := strings.ReplaceAll(read(t, file), "\\\n", " ")
		for _, m := range codeLine.FindAllStringSubmatch(text, -1) {
			check(file, shellNote.ReplaceAllString(m[1], ""))
		}
		for _, m := range inlineCode.FindAllStringSubmatch(text, -1) {
			check(file, m[1])
		}
	}
	for where, text := range programTexts(t) {
		for _, m := range regexp.MustCompile("(?:^|[`:(\\s])imgo [a-z-][^\n`;]*").FindAllString(text, -1) {
			line := strings.TrimLeft(m, "`:( \t\n")
			if words := strings.Fields(line); helps["imgo "+words[1]] != "" || strings.HasPrefix(words[1], "--") {
				check(where, line)
			}
		}
	}
	if seen < 80 {
		t.Errorf("only %d command lines were checked", seen)
	}
}

// wrongCommand says what is wrong with a command line. ok is false if it is not one of imgo.
func wrongCommand(helps map[string]string, line string) (problem string, ok bool) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "imgo" && words[0] != "./imgo" {
		return "", false
	}
	name := "imgo"
	rest := words[1:]
	for len(rest) > 0 {
		if strings.HasPrefix(rest[0], "-") || helps[name+" "+rest[0]] == "" {
			break
		}
		name, rest = name+" "+rest[0], rest[1:]
	}
	if name == "imgo" && len(rest) > 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(rest[0]) {
		return "there is no such command", true
	}
	for _, word := range rest {
		flag, _, _ := strings.Cut(strings.Trim(word, "`.,:;)("), "=")
		known := regexp.MustCompile(regexp.QuoteMeta(flag) + `\b`)
		if strings.HasPrefix(flag, "--") && len(flag) > 2 && !known.MatchString(helps[name]+" --version --help") {
			return name + " has no flag " + flag, true
		}
	}
	return "", true
}

// programTexts returns the strings in the program's source, by their place.
func programTexts(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	fset := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		other := strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"test", "node_modules"}, entry.Name())
		if entry.IsDir() && path != ".." && other {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parse: %w", err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					texts[fset.Position(lit.Pos()).String()] = text
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// hint is a command that imgo's own error texts offer.
var hint = regexp.MustCompile(`export IMGO_[A-Z_]+=\S*\$\([^)]*\)`)

// TestHints types what the errors of a refused start offer, and the settings are good then.
func TestHints(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is missing")
	}
	s := newShell(t, builtImgo(t))
	for _, flags := range []string{
		"--http 0.0.0.0:7172",
		"--roles=router --join=10.0.0.1,10.0.0.2 --kafka=10.0.0.9:9092", // the nodes of how-to/cluster.md
	} {
		check := "imgo config check " + flags
		out, err := s.command(t.Context(), check).CombinedOutput()
		found := hint.FindString(string(out))
		if err == nil || found == "" {
			t.Fatalf("%s: %v, and no hint in\n%s", check, err, out)
		}
		if out, err := s.command(t.Context(), found+"; "+check).CombinedOutput(); err != nil {
			t.Errorf("%s; %s: %v\n%s", found, check, err, out)
		}
	}
}

var (
	// indentedCommand matches an indented line that is a command, in a list as well.
	indentedCommand = regexp.MustCompile(
		`(?m)^ {4,}((?:curl|docker|export|git|go|\./imgo|imgo|kubectl|make|node|npm|pip|python3?|source|wget)\s.*)$`)
	// typedIndented matches those that TestIndentedExamples runs.
	typedIndented = regexp.MustCompile(`^(export IMGO_|imgo -|imgo config )`)
)

// notTyped has the beginnings of the indented commands that TestIndentedExamples does not run, and why.
// TestShownCommands checks the names and flags of those of imgo.
var notTyped = map[string]string{
	"make ":                "it builds, or runs for minutes, and the tests run by it",
	"go run ./bench/chaos": "it needs Kafka and minutes",
	"go build -race -o":    "it runs the benchmark for minutes",
	"go tool pprof":        "it reads the profiles of the benchmark",
	"./imgo bench":         "it measures for minutes",
	"go test ./":           "the tests run it by themselves",
	"node --test":          "the tests run it by themselves",
	"kubectl ":             "it needs Kubernetes",
	"docker ":              "it needs Docker",
	"imgo partitions ":     "it needs a cluster",
	"imgo hooks ":          "it needs a hook with dead letters",
	"imgo verify ":         "it runs for half a minute or longer; TestHelpExamples runs the same for a shorter time",
}

// TestIndentedExamples runs the indented command lines of the documents that start or check a server, in
// order. A server that would need other machines is only asked whether its settings are good. Any other
// command has to be in a block marked console, which TestExamples runs, or in notTyped.
func TestIndentedExamples(t *testing.T) {
	bin := builtImgo(t)
	ran, excepted := 0, map[string]bool{}
	for _, file := range documents(t) {
		var lines []string
		for _, m := range indentedCommand.FindAllStringSubmatch(fence.ReplaceAllString(read(t, file), ""), -1) {
			line := strings.TrimSpace(shellNote.ReplaceAllString(m[1], ""))
			if typedIndented.MatchString(line) && !strings.HasSuffix(line, `\`) {
				lines = append(lines, line)
				continue
			}
			known := false
			for begin := range notTyped {
				if strings.HasPrefix(line, begin) {
					known, excepted[begin] = true, true
				}
			}
			if !known {
				t.Errorf("%s: no test runs the indented command %s", file, line)
			}
		}
		if len(lines) == 0 {
			continue
		}
		ran += len(lines)
		s := newShell(t, bin)
		script := "set -e\n"
		for _, line := range lines {
			if settings, ok := strings.CutPrefix(line, "imgo -"); ok {
				line = "imgo config check -" + settings
			}
			script += line + "\n"
		}
		if out, err := s.command(t.Context(), script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\nof\n%s", file, err, out, script)
		}
	}
	if ran < 4 {
		t.Errorf("only %d command lines were run", ran)
	}
	for begin := range notTyped {
		if !excepted[begin] {
			t.Errorf("no document has the command %q", begin)
		}
	}
}

// builtImgo returns the path of imgo, built once for all tests.
func builtImgo(t *testing.T) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var built string // the folder of the built imgo

var build = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return process.Build(ctx, built, race.Enabled)
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "imgo-docs")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
