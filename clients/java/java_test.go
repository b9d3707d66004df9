// Package java_test tests the Java libraries: their own tests beside a real imgo, what clients/java/pack writes, the program
// of the quick start in an empty project, and the examples. Everything is built in copies. Each test of the
// package is skipped if Java or Maven is missing, or fails with CI=true.
package java_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/bench/process"
)

// buildLimit bounds one run of Maven, which may have to download its plugins first.
const buildLimit = 12 * time.Minute

// modules are those that are published.
var modules = []string{"imgo-client", "imgo-client-kotlin", "imgo-client-okhttp", "imgo-server"}

// shared is what the tests make once: a folder, the packed libraries, and the server's program.
var shared struct {
	dir                 string
	packOnce, buildOnce sync.Once
	packErr, buildErr   error
	imgo                string
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "imgo-java-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shared.dir = dir
		return m.Run()
	}())
}

// needsJava skips the test without Java or Maven. With CI=true it fails.
func needsJava(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"javac", "mvn"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing; with CI=true that is an error", tool)
			}
			t.Skipf("%s is missing", tool)
		}
	}
}

// run runs a program to its end and returns what it printed. env is added to the environment.
func run(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	// Maven's children keep its output open if only Maven is killed.
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, complaints(out))
	}
	return out, nil
}

var complaint = regexp.MustCompile(`(?m)^\[(WARNING|ERROR)\].*$`)

// complaints returns the warnings and errors of Maven, or everything if there are none.
func complaints(out []byte) string {
	if lines := complaint.FindAllString(string(out), -1); len(lines) > 0 {
		return strings.Join(lines, "\n")
	}
	return string(out)
}

// builtImgo returns the path of the server's program.
func builtImgo(t *testing.T) string {
	t.Helper()
	shared.buildOnce.Do(func() { shared.imgo, shared.buildErr = process.Build(context.Background(), shared.dir, false) })
	if shared.buildErr != nil {
		t.Fatal(shared.buildErr)
	}
	return shared.imgo
}

// dist returns the folder of the packed libraries.
func dist(t *testing.T) string {
	t.Helper()
	needsJava(t)
	dir := filepath.Join(shared.dir, "dist")
	shared.packOnce.Do(func() { _, shared.packErr = run(context.Background(), ".", nil, "./pack", dir) })
	if shared.packErr != nil {
		t.Fatal(shared.packErr)
	}
	return dir
}

// copySources copies clients/java without what was built, and the vectors beside it.
func copySources(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	for _, folder := range []string{"java", "vectors"} {
		from := filepath.Join("..", folder)
		err := filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, _ := filepath.Rel("..", path)
			if entry.IsDir() {
				if entry.Name() == "target" {
					return filepath.SkipDir
				}
				return os.MkdirAll(filepath.Join(to, name), 0o755)
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(to, name), data, info.Mode())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(to, "java")
}

// TestLibraries runs the tests of all modules, and packs what they were run with. Another build in another folder, which
// clients/java/pack makes, gives the same bytes.
func TestLibraries(t *testing.T) {
	needsJava(t)
	sources := copySources(t)
	out, err := run(t.Context(), sources, []string{"TEST_IMGO=" + builtImgo(t)}, "mvn", "-Ppack", "verify")
	if err != nil {
		t.Fatal(err)
	}
	if skipped := regexp.MustCompile(`(?m)^.*Tests run: .*Skipped: [1-9].*$`).Find(out); skipped != nil {
		t.Errorf("tests were skipped: %s", skipped)
	}
	packed := dist(t)
	group, version := coordinates(t)
	repository := filepath.Join(packed, "maven", filepath.Join(strings.Split(group, ".")...))
	for _, module := range modules {
		name := module + "-" + version
		for _, suffix := range []string{".jar", ".pom", "-sources.jar", "-javadoc.jar"} {
			one := readFile(t, filepath.Join(sources, module, "target", name+suffix))
			other := readFile(t, filepath.Join(repository, module, version, name+suffix))
			if !bytes.Equal(one, other) {
				t.Errorf("two builds of %s%s differ", name, suffix)
			}
		}
		readFile(t, filepath.Join(packed, name+".jar"))
	}
}

// TestCoordinates gives the libraries another group id and another version, in a copy.
func TestCoordinates(t *testing.T) {
	sources := copySources(t)
	script := filepath.Join(sources, "coordinates")
	if out, err := exec.CommandContext(t.Context(), script, "com.example.push", "1.2.3").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	poms, err := filepath.Glob(filepath.Join(sources, "*", "pom.xml"))
	if err != nil || len(poms) < len(modules) {
		t.Fatal(poms, err)
	}
	group, version := coordinates(t)
	for _, pom := range append(poms, filepath.Join(sources, "pom.xml")) {
		text := string(readFile(t, pom))
		for _, want := range []string{"<groupId>com.example.push</groupId>", "<version>1.2.3</version>"} {
			if n := strings.Count(text, want); n != 1 {
				t.Errorf("%s has %s %d times", pom, want, n)
			}
		}
		for _, old := range []string{"<groupId>" + group + "</groupId>", "<version>" + version + "</version>"} {
			if strings.Contains(text, old) {
				t.Errorf("%s still has %s", pom, old)
			}
		}
	}
	for _, bad := range [][]string{{}, {"com.example"}, {"no group", "1.0.0"}, {"com.example", "v1#"}, {"com..example", "1"}} {
		if out, err := exec.CommandContext(t.Context(), script, bad...).CombinedOutput(); err == nil {
			t.Errorf("coordinates %q are taken: %s", bad, out)
		}
	}
}

// TestLicence compares the licence in the jars with that of the repository.
func TestLicence(t *testing.T) {
	if !bytes.Equal(readFile(t, "LICENSE"), readFile(t, "../../LICENSE")) {
		t.Error("clients/java/LICENSE is not the LICENSE of the repository: copy it")
	}
}

var coordinatesOf = regexp.MustCompile(`(?m)^  <groupId>(.*)</groupId>\n  <artifactId>imgo-parent</artifactId>\n  <version>(.*)</version>$`)

// coordinates returns the group id and the version of the libraries.
func coordinates(t *testing.T) (group, version string) {
	t.Helper()
	m := coordinatesOf.FindSubmatch(readFile(t, "pom.xml"))
	if m == nil {
		t.Fatal("pom.xml has no group id and version")
	}
	return string(m[1]), string(m[2])
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
