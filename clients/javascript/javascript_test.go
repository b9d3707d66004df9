package javascript_test

import (
	"flag"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"imgo/clients/javascript"
	"imgo/clients/javascript/jstest"
	"imgo/test/programs"
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
	jstest.SetUp(t)
	programs.Run(t, ".", nil, "node", "--test", "tests/")
}

// TestTypes checks the types in the sources' comments.
func TestTypes(t *testing.T) {
	jstest.SetUp(t)
	programs.Run(t, ".", nil, tool("tsc"))
}

var (
	update   = flag.Bool("update", false, "write the files that are made from others")
	commonJS = flag.Bool("commonjs", false, "compile the programs of the quick start as CommonJS, in place of ES modules")
)

func TestMain(m *testing.M) {
	code := m.Run()
	jstest.CleanUp()
	os.Exit(code)
}
