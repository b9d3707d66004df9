package javascript_test

import (
	"context"
	"fmt"
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
	published, err := os.ReadFile("package.json")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range seen {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not name %s", name)
		}
		if !strings.Contains(string(published), fmt.Sprintf("%q", name)) {
			t.Errorf("%s is not among the files of package.json", name)
		}
	}
}

// TestNode runs the client's own tests, so that the Go test run covers them.
func TestNode(t *testing.T) {
	if reason := nodeMissing(t.Context()); reason != "" {
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "node", "--test").CombinedOutput()
	if err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
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
	return ""
}
