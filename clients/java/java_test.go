// Package java_test tests the Java libraries: their own tests beside a real imgo, what clients/java/pack writes, the program
// of the quick start in an empty project, and the examples. Everything is built in copies. One build tests the libraries, and
// most tests use what it made. Each test of the package is skipped if Java or Maven is missing, or fails with CI=true.
package java_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/clients/conformance/driver"
	"imgo/test/programs"
)

// buildLimit bounds one run of Maven, which may have to download its plugins first.
const buildLimit = 12 * time.Minute

// modules are those that are published.
var modules = []string{"imgo-client", "imgo-client-kotlin", "imgo-client-okhttp", "imgo-server"}

var twice = flag.Bool("twice", false, "build the libraries a second time, and compare the bytes")

// shared is what the tests make once: a folder, the built libraries and the packed ones.
var shared struct {
	dir       string
	buildOnce sync.Once
	buildLog  []byte
	buildErr  error
	packOnce  sync.Once
	packErr   error
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "imgo-java-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		defer programs.CleanUp()
		shared.dir = dir
		// Most programs in Java run for a few seconds here.
		if err := os.Setenv("JDK_JAVA_OPTIONS", driver.BriefJava); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
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

// built returns a copy of the sources in which all modules were built and tested, and what Maven printed.
func built(t *testing.T) (dir string, log []byte) {
	t.Helper()
	needsJava(t)
	sources := filepath.Join(shared.dir, "java")
	shared.buildOnce.Do(func() {
		if shared.buildErr = copySources(shared.dir); shared.buildErr != nil {
			return
		}
		env := []string{"TEST_IMGO=" + programs.Binary(t)}
		if shared.buildLog, shared.buildErr = run(context.Background(), sources, env, "mvn", "-Ppack", "verify"); shared.buildErr != nil {
			return
		}
		shared.buildErr = driver.ShareJava(sources)
	})
	if shared.buildErr != nil {
		t.Fatal(shared.buildErr)
	}
	return sources, shared.buildLog
}

// dist returns the folder of the packed libraries.
func dist(t *testing.T) string {
	t.Helper()
	sources, _ := built(t)
	dir := filepath.Join(shared.dir, "dist")
	shared.packOnce.Do(func() { _, shared.packErr = run(context.Background(), ".", nil, "./pack", dir, sources) })
	if shared.packErr != nil {
		t.Fatal(shared.packErr)
	}
	return dir
}

// copySources copies clients/java without what was built, and the vectors beside it, into a folder.
func copySources(to string) error {
	for _, folder := range []string{"java", "vectors"} {
		if err := driver.CopySources(filepath.Join("..", folder), filepath.Join(to, folder)); err != nil {
			return err
		}
	}
	return nil
}

// TestLibraries runs the tests of all modules, and looks at what is packed.
func TestLibraries(t *testing.T) {
	_, log := built(t)
	if skipped := regexp.MustCompile(`(?m)^.*Tests run: .*Skipped: [1-9].*$`).Find(log); skipped != nil {
		t.Errorf("tests were skipped: %s", skipped)
	}
	packed := dist(t)
	for _, file := range packedFiles(t) {
		readFile(t, filepath.Join(packed, file))
	}
}

// TestSecondBuild packs the libraries in two folders, with a build for each. Both give the same bytes.
func TestSecondBuild(t *testing.T) {
	if !*twice {
		t.Skip("builds the libraries twice; only with -twice")
	}
	needsJava(t)
	var packed [2]string
	for i := range packed {
		packed[i] = t.TempDir()
		if _, err := run(t.Context(), ".", nil, "./pack", packed[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range packedFiles(t) {
		if !bytes.Equal(readFile(t, filepath.Join(packed[0], file)), readFile(t, filepath.Join(packed[1], file))) {
			t.Errorf("two builds of %s differ", file)
		}
	}
}

// packedFiles returns the paths of the files that pack makes, without their checksums.
func packedFiles(t *testing.T) []string {
	t.Helper()
	group, version := coordinates(t)
	var files []string
	for _, module := range modules {
		name := module + "-" + version
		files = append(files, name+".jar")
		for _, suffix := range []string{".jar", ".pom", "-sources.jar", "-javadoc.jar"} {
			files = append(files, filepath.Join("maven", strings.ReplaceAll(group, ".", "/"), module, version, name+suffix))
		}
	}
	return files
}

// TestCoordinates installs and deploys the libraries with another group id and version, given as the two properties. An empty
// project then compiles with what was deployed. What is not published is in neither repository.
func TestCoordinates(t *testing.T) {
	needsJava(t)
	const group, version = "com.example.push", "1.2.3"
	defaultGroup, defaultVersion := coordinates(t)
	sources, _ := built(t)
	dir, deployed, local := t.TempDir(), t.TempDir(), repository(t, group)
	if err := os.CopyFS(dir, os.DirFS(sources)); err != nil {
		t.Fatal(err)
	}
	// Without sources, Maven packs what was compiled for the default names under the new ones.
	folders, err := filepath.Glob(filepath.Join(dir, "*", "src"))
	if err != nil || len(folders) < len(modules) {
		t.Fatalf("there are sources of %d modules: %v", len(folders), err)
	}
	for _, folder := range folders {
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	}
	_, err = run(t.Context(), dir, nil, "mvn", "-Dimgo.group="+group, "-Drevision="+version, "-Dmaven.test.skip=true",
		"-Danimal.sniffer.skip=true", "-Dmaven.repo.local="+local, "-DaltDeploymentRepository=test::file://"+deployed, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{local, deployed} {
		if found := foldersIn(t, filepath.Join(root, "com", "example", "push")); !slices.Equal(found, modules) {
			t.Errorf("the group has %q, want %q", found, modules)
		}
		if _, err := os.Stat(filepath.Join(root, "imgo")); !os.IsNotExist(err) {
			t.Errorf("the group of the build's own parent is there, too: %v", err)
		}
		for _, module := range modules {
			name := filepath.Join(root, "com", "example", "push", module, version, module+"-"+version)
			readFile(t, name+".jar")
			pom := string(readFile(t, name+".pom"))
			for _, want := range []string{"  <groupId>" + group + "</groupId>\n", "  <version>" + version + "</version>\n"} {
				if !strings.Contains(pom, want) {
					t.Errorf("%s.pom has no %s", name, want)
				}
			}
			for _, bad := range []string{"${", "<parent>", "imgo.build", "<groupId>" + defaultGroup + "<"} {
				if strings.Contains(pom, bad) {
					t.Errorf("%s.pom has %s", name, bad)
				}
			}
		}
	}

	page := string(readFile(t, "../../docs/tutorial/java.md"))
	project := newProject(t, map[string]string{
		"pom.xml": strings.NewReplacer("/path/to/imgo/dist/maven", deployed, "<groupId>"+defaultGroup+"<", "<groupId>"+group+"<",
			"<version>"+defaultVersion+"<", "<version>"+version+"<").Replace(block(t, page, "xml", "<project")),
		"src/main/java/Hello.java": block(t, page, "java", "class Hello"),
	})
	if _, err := run(t.Context(), project, nil, "mvn", "compile", "-Dmaven.repo.local="+repository(t, group)); err != nil {
		t.Fatal(err)
	}
}

var dependency = regexp.MustCompile(`<groupId>(.*)</groupId>\s*<artifactId>imgo-(?:client|server).*</artifactId>\s*<version>(.*)</version>`)

// TestPages compares the group id and the version in the quick start and the example with the properties of the build.
func TestPages(t *testing.T) {
	group, version := coordinates(t)
	for _, file := range []string{"../../docs/tutorial/java.md", "../../examples/java/spring/pom.xml"} {
		found := dependency.FindAllStringSubmatch(string(readFile(t, file)), -1)
		if len(found) == 0 {
			t.Errorf("%s has no dependency on a library", file)
		}
		for _, m := range found {
			if m[1] != group || m[2] != version {
				t.Errorf("%s has %s, version %s; clients/java/pom.xml has %s, version %s", file, m[1], m[2], group, version)
			}
		}
	}
}

// foldersIn returns the names of the folders in a folder, sorted.
func foldersIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

// TestLicence compares the licence in the jars with that of the repository.
func TestLicence(t *testing.T) {
	if !bytes.Equal(readFile(t, "LICENSE"), readFile(t, "../../LICENSE")) {
		t.Error("clients/java/LICENSE is not the LICENSE of the repository: copy it")
	}
}

var groupOf, versionOf = regexp.MustCompile(`<imgo.group>(.*)</imgo.group>`), regexp.MustCompile(`<revision>(.*)</revision>`)

// coordinates returns the group id and the version of the libraries.
func coordinates(t *testing.T) (group, version string) {
	t.Helper()
	pom := readFile(t, "pom.xml")
	g, v := groupOf.FindSubmatch(pom), versionOf.FindSubmatch(pom)
	if g == nil || v == nil {
		t.Fatal("pom.xml has no property imgo.group or revision")
	}
	return string(g[1]), string(v[1])
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
