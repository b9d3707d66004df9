package driver

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"imgo/internal/process"
)

// Language is a client library that has a driver.
type Language struct {
	Name string
	// Tools are the programs that the driver needs.
	Tools []string
	// LibC is true if the runtime reads the clock through the C library.
	LibC bool

	build func(ctx context.Context, clients, dir string) (Command, error)
}

// Languages returns all languages with a driver.
func Languages() []Language {
	return []Language{
		{Name: "go", Tools: []string{"go"}, build: buildGo},
		{Name: "java", Tools: []string{"java", "mvn"}, LibC: true, build: buildJava},
		{Name: "javascript", Tools: []string{"node", "npm"}, LibC: true, build: buildJavaScript},
		{Name: "python", Tools: []string{"python3"}, LibC: true, build: buildPython},
	}
}

// Missing returns an error if a tool of the language is not installed.
func (l Language) Missing() error {
	for _, tool := range l.Tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the driver of %s needs %s: %w", l.Name, tool, err)
		}
	}
	return nil
}

// Build makes the driver ready and returns its command. clients is the path of the folder clients of this repository.
// dir is a folder for what is built.
func (l Language) Build(ctx context.Context, clients, dir string) (Command, error) {
	clients, err := filepath.Abs(clients)
	if err != nil {
		return Command{}, fmt.Errorf("build the driver of %s: %w", l.Name, err)
	}
	c, err := l.build(ctx, clients, dir)
	if err != nil {
		return Command{}, fmt.Errorf("build the driver of %s: %w", l.Name, err)
	}
	return c, nil
}

func run(ctx context.Context, dir, name string, args ...string) error {
	_, err := output(ctx, dir, name, args...)
	return err
}

// output returns what a program printed to standard output.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.WaitDelay = dir, endTimeout // a grandchild may hold the pipes
	var out, log tail
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out.String(), log.String())
	}
	return out.String(), nil
}

func buildGo(ctx context.Context, clients, dir string) (Command, error) {
	program := filepath.Join(dir, "go-driver")
	return Command{Args: []string{program}}, run(ctx, filepath.Join(clients, "go"), "go", "build", "-o", program, "./driver")
}

// BriefJava makes a JVM compile and collect as little as it can. A program that runs for a minute or less costs half
// of the CPU time then. Other programs take it by the variable JDK_JAVA_OPTIONS.
const BriefJava = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"

// buildJava takes the driver that ShareJava has left. Else it builds in a copy, so that two tests may do it at the same time.
func buildJava(ctx context.Context, clients, dir string) (Command, error) {
	command := func(jar string) Command {
		return Command{Args: slices.Concat([]string{"java"}, strings.Fields(BriefJava), []string{"-jar", jar})}
	}
	if shared, ok := sharedJava(); ok {
		jar := filepath.Join(shared, javaJar)
		if _, err := os.Stat(jar); err == nil {
			return command(jar), nil
		}
	}
	copied := filepath.Join(dir, "java")
	if err := CopySources(filepath.Join(clients, "java"), copied); err != nil {
		return Command{}, err
	}
	return command(filepath.Join(copied, javaTarget, javaJar)), run(ctx, copied,
		"mvn", "-q", "-B", "-Dmaven.test.skip=true", "-pl", ":imgo-client-driver", "-am", "package")
}

const (
	javaTarget = "imgo-client-driver/target"
	javaJar    = "imgo-client-driver.jar"
)

// sharedJava returns the folder of the driver that the tests of several packages share. ok is false without scripts/test.
func sharedJava() (dir string, ok bool) {
	built := os.Getenv(process.Built)
	return filepath.Join(built, "java-driver"), built != ""
}

// ShareJava leaves the driver of a copy of clients/java, in which Maven has run, for the tests of other packages. It does nothing
// without scripts/test.
func ShareJava(copied string) error {
	shared, ok := sharedJava()
	if _, err := os.Stat(shared); !ok || err == nil {
		return nil
	}
	next, err := os.MkdirTemp(filepath.Dir(shared), "java-driver-")
	if err != nil {
		return err
	}
	if err := os.CopyFS(next, os.DirFS(filepath.Join(copied, javaTarget))); err != nil {
		return err
	}
	return os.Rename(next, shared) // other tests find a whole driver or none
}

// CopySources copies a folder without what Maven has built in it.
func CopySources(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && entry.Name() == "target":
			return filepath.SkipDir
		case entry.IsDir():
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
}

func buildJavaScript(ctx context.Context, clients, _ string) (Command, error) {
	folder := filepath.Join(clients, "javascript")
	// setup installs the package ws.
	return Command{Args: []string{"node", filepath.Join(folder, "driver", "driver.js")}}, run(ctx, folder, "./setup")
}

// buildPython takes the interpreter of the library's tests, which has the package websockets.
func buildPython(ctx context.Context, clients, _ string) (Command, error) {
	folder := filepath.Join(clients, "python")
	programs, err := output(ctx, filepath.Dir(clients), "scripts/python", filepath.Join(folder, "requirements.txt"))
	return Command{Args: []string{filepath.Join(strings.TrimSpace(programs), "python"), filepath.Join(folder, "driver.py")}}, err
}
