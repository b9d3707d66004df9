// Package docs_test checks the documents. Every link leads somewhere. Every example in a
// block marked console is typed into a shell beside a real imgo, and its output is
// compared.
//
// A block marked console has commands behind "$ " and, below each, its output. In an output "…" stands
// for anything up to the end of the line or the next text. A line "…" alone stands for any number of
// lines. A number of 12 digits or more stands for any number. In a command it stands for the number
// that the output had in its place. A command that ends with "&" goes on in the background, and its
// output may come while later blocks run. The addresses are the defaults. The test uses free ports in
// their place. /path/to/imgo is this checkout. A block below "`NAME`:" is the file NAME of the folder
// in which the commands run.
package docs_test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/config"
	"imgo/envelope"
	"imgo/internal/wait/waittest"
)

// documents returns the documents of people, relative to this folder.
func documents(t *testing.T) []string {
	t.Helper()
	files := []string{"../bench/README.md"}
	for _, pattern := range []string{"*.md", "*/*.md", "../*.md", "../clients/*.md", "../clients/*/*.md", "../examples/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 20 {
		t.Fatalf("there are %d documents", len(files))
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]+`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```$")
)

// slugs returns the anchors of a document's headings, as GitHub makes them.
func slugs(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all[strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), ""), " ", "-")] = true
	}
	return all
}

func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		text := read(t, file)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to := m[1]
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			path, anchor, _ := strings.Cut(to, "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: the link %s leads nowhere", file, to)
				continue
			}
			if anchor != "" && !info.IsDir() && strings.HasSuffix(target, ".md") && !slugs(read(t, target))[anchor] {
				t.Errorf("%s: the link %s leads to no heading of %s", file, to, target)
			}
		}
	}
}

// TestClientLibraries checks that the list of the client libraries has a row for each library, with all of its links.
func TestClientLibraries(t *testing.T) {
	list := read(t, "../clients/README.md")
	for _, language := range driver.Languages() {
		for _, to := range []string{language.Name + "/README.md", "../docs/tutorial/" + language.Name + ".md", "../examples/" + language.Name} {
			if !strings.Contains(list, "]("+to+")") {
				t.Errorf("clients/README.md has no link to %s", to)
			}
		}
	}
}

// TestSettings loads every block marked toml as a settings file.
func TestSettings(t *testing.T) {
	blocks := 0
	for _, file := range documents(t) {
		for _, m := range settingsBlock.FindAllStringSubmatch(read(t, file), -1) {
			blocks++
			path := filepath.Join(t.TempDir(), "imgo.toml")
			if err := os.WriteFile(path, []byte(m[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(config.Sources{File: path}); err != nil {
				t.Errorf("%s: the settings\n%s\nare refused: %v", file, m[1], err)
			}
		}
	}
	if blocks == 0 {
		t.Error("no document shows settings")
	}
}

var settingsBlock = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")

// firstOffset is the lowest offset of an id in an example: a log that one process keeps begins at the Unix
// milliseconds of its first start. This is the beginning of 2026.
const firstOffset = 1767225600000

// TestMessageIDs checks that a server could give the ids that the blocks of the documents and the API's description show.
func TestMessageIDs(t *testing.T) {
	const openapi = "../roles/logic/httpapi/openapi.yaml"
	seen := 0
	check := func(file, text string) {
		for _, digits := range number.FindAllString(text, -1) {
			id, err := strconv.ParseUint(digits, 10, 64)
			if err != nil {
				continue
			}
			generation, offset := envelope.SplitID(id)
			if generation == 0 { // a time
				continue
			}
			if seen++; generation > 1 || offset < firstOffset {
				t.Errorf("%s: no server gives the id %s: generation %d, offset %d", file, digits, generation, offset)
			}
		}
	}
	for _, file := range documents(t) {
		for _, block := range fence.FindAllString(read(t, file), -1) {
			check(file, block)
		}
	}
	for line := range strings.Lines(read(t, openapi)) {
		if strings.Contains(line, "value:") || strings.Contains(line, "example") {
			check(openapi, line)
		}
	}
	if seen < 10 {
		t.Errorf("only %d ids were checked", seen)
	}
}

// step is a command and the output that the document shows for it.
type step struct {
	line          int
	command, want string
}

// steps returns the steps of all blocks marked console.
func steps(text string) []step {
	var all []step
	inside := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			all = append(all, step{line: i + 1, command: line[2:]})
		case len(all) == 0:
		case strings.HasSuffix(all[len(all)-1].command, `\`):
			all[len(all)-1].command += "\n" + line
		default:
			all[len(all)-1].want += line + "\n"
		}
	}
	return all
}

// Columns are as wide as their values, so any number of spaces is like any other.
var spaces = regexp.MustCompile(` +`)

// number is an id or a time, another one at each run.
var number = regexp.MustCompile(`\d{12,}`)

// pattern makes a regular expression of a shown output.
func pattern(want string) *regexp.Regexp {
	if strings.TrimSpace(want) == "" {
		return regexp.MustCompile(`^\s*$`)
	}
	var b strings.Builder
	b.WriteString(`^`)
	for line := range strings.Lines(strings.TrimRight(want, "\n") + "\n") {
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " \n"), "…")
		for i, part := range parts {
			if i > 0 {
				b.WriteString(`.*?`)
			}
			quoted := number.ReplaceAllString(regexp.QuoteMeta(part), `(\d+)`)
			b.WriteString(spaces.ReplaceAllString(quoted, ` +`))
		}
		b.WriteString(` *\n`)
	}
	b.WriteString(`$`)
	return regexp.MustCompile(b.String())
}

// shell runs the steps of one document in an empty folder, beside a server whose
// data is empty.
type shell struct {
	t         *testing.T
	dir       string
	env       []string
	addresses [][2]string       // as the document has it, as it is
	numbers   map[string]string // the same of the numbers in outputs
	hook      string            // the address at which imgo verify receives events
}

func newShell(t *testing.T, bin string) *shell {
	s := &shell{t: t, dir: t.TempDir(), hook: waittest.FreeAddress(t), numbers: map[string]string{}}
	http, tcp, ws := waittest.FreeAddress(t), waittest.FreeAddress(t), waittest.FreeAddress(t)
	checkout, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	port := func(address string) string { _, p, _ := net.SplitHostPort(address); return p }
	s.addresses = [][2]string{
		{"127.0.0.1:7172", http}, {"127.0.0.1:8080", tcp}, {"127.0.0.1:8090", ws}, {"localhost:8090", "localhost:" + port(ws)}, {":8080 ",
			":" + port(tcp) + " "}, {"127.0.0.1:3000", waittest.FreeAddress(t)}, {"/path/to/imgo", checkout},
	}
	s.env = append(os.Environ(), "PATH="+filepath.Dir(bin)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"IMGO_HTTP_LISTEN="+http, "IMGO_COMET_TCP=:"+port(tcp), "IMGO_COMET_WS=:"+port(ws), "IMGO_SERVER=http://"+http, "IMGO_NODE_ID=laptop",
		"IMGO_LOGGING_FORMAT=console", "NO_COLOR=1")
	return s
}

// fileBlock matches a block that is a file: its name and its text.
var fileBlock = regexp.MustCompile("(?ms)`([a-z]+\\.[a-z]+)`:\n\n```[a-z]+\n(.*?)^```$")

// write makes the files of a document.
func (s *shell) write(text string) {
	s.t.Helper()
	for _, m := range fileBlock.FindAllStringSubmatch(text, -1) {
		if err := os.WriteFile(filepath.Join(s.dir, m[1]), []byte(s.real(m[2])), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// real puts the addresses of this run into a text of the document, and shown the
// other way round.
func (s *shell) real(text string) string {
	for _, a := range s.addresses {
		text = strings.ReplaceAll(text, a[0], a[1])
	}
	return number.ReplaceAllStringFunc(text, func(n string) string { return cmp.Or(s.numbers[n], n) })
}

func (s *shell) shown(text string) string {
	for _, a := range s.addresses {
		text = strings.ReplaceAll(text, a[1], a[0])
	}
	return text
}

// limit bounds one step.
const limit = time.Minute

// command prepares a command line for bash.
func (s *shell) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", s.real(line))
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = limit
	return cmd
}

// start runs a command in the background, until the document ends.
func (s *shell) start(where, line string, want *regexp.Regexp) {
	// The context of the test ends before its clean-up, which waits for the output.
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	out, err := os.CreateTemp(s.dir, "out")
	if err != nil {
		s.t.Fatal(err)
	}
	// exec: the signal is to reach the program, not the shell.
	cmd := s.command(ctx, "exec "+line)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		_ = out.Close()
	})
	s.t.Cleanup(func() { // before the end: the whole output
		s.eventually(where, out.Name(), want)
	})
	s.ready()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if data, err := os.ReadFile(out.Name()); err == nil && strings.Contains(string(data), "\n") {
			return
		}
	}
	s.t.Errorf("%s: there is no output", where)
}

// ready waits until the server of the document answers, if there is one.
func (s *shell) ready() {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if exec.Command("bash", "-c",
			"curl -sf http://"+s.addresses[0][1]+"/readyz >/dev/null").Run() == nil { //nolint:noctx // it takes a moment
			return
		}
	}
	s.t.Fatal("no server is ready")
}

// eventually waits until a file has what the document shows.
func (s *shell) eventually(where, file string, want *regexp.Regexp) {
	var got string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		data, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		if got = s.shown(string(data)); want.MatchString(got) {
			return
		}
	}
	s.t.Errorf("%s: the output in the background is\n%s\nand not like %s", where, got, want)
}

func TestExamples(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is missing")
	}
	bin := builtImgo(t)
	count := 0
	for _, file := range documents(t) {
		all := steps(read(t, file))
		count += len(all)
		if len(all) == 0 {
			continue
		}
		t.Run(strings.TrimPrefix(file, "../"), func(t *testing.T) {
			s := newShell(t, bin)
			s.write(read(t, file))
			for _, step := range all {
				where := fmt.Sprintf("%s:%d: %s", file, step.line, step.command)
				if line, ok := strings.CutSuffix(step.command, " &"); ok {
					s.start(where, line, pattern(step.want))
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				out, err := s.command(ctx, step.command).CombinedOutput()
				cancel()
				got := s.shown(string(out))
				matched := pattern(step.want).FindStringSubmatch(got + newlineFor(got))
				if matched == nil {
					t.Fatalf("%s\ngot  %s\nwant %s\n(%v)", where, got, step.want, err)
				}
				for i, n := range number.FindAllString(step.want, -1) {
					s.numbers[n] = matched[i+1]
				}
			}
		})
	}
	if count < 20 {
		t.Errorf("only %d commands were run", count)
	}
}

// newlineFor returns what a text lacks to end with a line feed.
func newlineFor(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return ""
	}
	return "\n"
}
