package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgo/clients/conformance/driver"
)

// language is a client library with a driver.
type language struct {
	name string
	// tools are the programs that the driver needs.
	tools []string
	// libc is true if the runtime reads the clock through the C library.
	libc bool
	// build makes the driver and returns its command.
	build func(t *testing.T, clients string) driver.Command
}

func languages() []language {
	return []language{
		{name: "go", tools: []string{"go"}, build: buildGo},
		{name: "java", tools: []string{"java", "mvn"}, libc: true, build: buildJava},
		{name: "javascript", tools: []string{"node"}, libc: true, build: buildJavaScript},
		{name: "python", tools: []string{"python3"}, libc: true, build: buildPython},
	}
}

// chosenLanguages returns the languages of the flag.
func chosenLanguages(t *testing.T) []language {
	all := languages()
	if *languageFlag == "" {
		return all
	}
	var chosen []language
	for name := range strings.SplitSeq(*languageFlag, ",") {
		i := slices.IndexFunc(all, func(l language) bool { return l.name == name })
		if i < 0 {
			t.Fatalf("-language %q: there is no driver of that name", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen
}

// prepare returns the command of the driver. It skips the test if a tool is missing; with CI=true it fails.
func (l language) prepare(t *testing.T) driver.Command {
	t.Helper()
	for _, tool := range l.tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "the driver of "+l.name+" needs "+tool+": "+err.Error())
		}
	}
	clients, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return l.build(t, clients)
}

// missing skips a test that needs a tool, or fails it with CI=true.
func missing(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// run runs a program that builds a driver.
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func buildGo(t *testing.T, clients string) driver.Command {
	program := filepath.Join(t.TempDir(), "driver")
	run(t, filepath.Join(clients, "go"), "go", "build", "-o", program, "./driver")
	return driver.Command{Args: []string{program}}
}

func buildJava(t *testing.T, clients string) driver.Command {
	run(t, filepath.Join(clients, "java"), "mvn", "-q", "-B", "-DskipTests", "-pl", "imgo-client-driver", "-am", "package")
	return driver.Command{Args: []string{
		"java", "-XX:TieredStopAtLevel=1", "-jar", filepath.Join(clients, "java", "imgo-client-driver", "target", "imgo-client-driver.jar"),
	}}
}

func buildJavaScript(t *testing.T, clients string) driver.Command {
	run(t, filepath.Join(clients, "javascript"), "./setup") // it installs the package ws
	return driver.Command{Args: []string{"node", filepath.Join(clients, "javascript", "driver", "driver.js")}}
}

func buildPython(_ *testing.T, clients string) driver.Command {
	return driver.Command{Args: []string{"python3", filepath.Join(clients, "python", "driver.py")}}
}
