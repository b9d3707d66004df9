package javascript_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgo/clients/javascript"
)

// TestModulesAreComplete follows the imports: a module that is not embedded
// would be missing in every browser.
func TestModulesAreComplete(t *testing.T) {
	imports := regexp.MustCompile(`(?m)^(?:import|export) [^;]*? from '([^']+)';`)
	seen := map[string]bool{}
	queue := []string{"imgo.js"}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		source, err := fs.ReadFile(javascript.Modules(), name)
		if err != nil {
			t.Fatalf("%s is imported and not embedded: %v", name, err)
		}
		for _, m := range imports.FindAllStringSubmatch(string(source), -1) {
			if !strings.HasPrefix(m[1], "./") {
				t.Errorf("%s imports %q: the client has no dependencies", name, m[1])
				continue
			}
			queue = append(queue, path.Clean(m[1]))
		}
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range seen {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not name %s", name)
		}
	}
}

// TestNode runs the client's own tests, so that the Go test run covers them.
func TestNode(t *testing.T) {
	setUp(t)
	run(t, 3*time.Minute, "node", "--test", "tests/")
}

// TestTypes checks the types in the sources' comments.
func TestTypes(t *testing.T) {
	setUp(t)
	run(t, 3*time.Minute, "node_modules/.bin/tsc")
}

// run runs a program in this folder and returns what it printed. It fails the test if the program fails.
func run(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	return runIn(t, ".", limit, name, args...)
}

// runIn is run in another folder.
func runIn(t *testing.T, dir string, limit time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// setUp installs the tools of package.json. Without Node or a network it skips the test, or fails it if
// CI=true.
func setUp(t *testing.T) {
	t.Helper()
	reason := nodeMissing(t.Context())
	if reason == "" {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "./setup").CombinedOutput()
		if err == nil {
			return
		}
		reason = "the JavaScript client's tests need the tools of package.json, and ./setup failed: " + err.Error() + "\n" + string(out)
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// nodeMissing says why the client's tests cannot run; "" when they can.
func nodeMissing(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "node", "--version").Output()
	if err != nil {
		return "the JavaScript client's tests need Node 20 or newer, and there is no node: " + err.Error()
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		return "the JavaScript client's tests need Node 20 or newer, and this is " + strings.TrimSpace(string(out))
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return "the JavaScript client's tests need npm: " + err.Error()
	}
	return ""
}
