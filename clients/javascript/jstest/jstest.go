// Package jstest is for tests that run JavaScript: the client's tools, its package, and programs that use it
// in Node and in Chromium.
package jstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"imgo/test/programs"
)

// Client returns the folder of the JavaScript client.
func Client() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// SetUp installs the tools of package.json. Without Node or a network it skips the test, or fails it if
// CI=true.
func SetUp(t testing.TB) {
	t.Helper()
	reason := nodeMissing(t.Context())
	if reason == "" {
		ctx, cancel := context.WithTimeout(t.Context(), programs.Limit)
		defer cancel()
		out, err := exec.CommandContext(ctx, filepath.Join(Client(), "setup")).CombinedOutput()
		if err == nil {
			return
		}
		reason = fmt.Sprintf("the JavaScript tests need the tools of package.json, and clients/javascript/setup failed: %v\n%s", err, out)
	}
	missing(t, reason)
}

// missing skips the test, or fails it if CI=true.
func missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// nodeMissing says why JavaScript tests cannot run; "" when they can.
func nodeMissing(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "node", "--version").Output()
	if err != nil {
		return "the JavaScript tests need Node 20 or newer, and there is no node: " + err.Error()
	}
	version := strings.TrimSpace(string(out))
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		return "the JavaScript tests need Node 20 or newer, and this is " + version
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return "the JavaScript tests need npm: " + err.Error()
	}
	return ""
}

var packed struct {
	once sync.Once
	path string
	err  error
}

// Pack packs the client once for all tests of the process, and returns the path of the package.
func Pack(t testing.TB) string {
	t.Helper()
	SetUp(t)
	packed.once.Do(func() {
		var dir string
		if dir, packed.err = os.MkdirTemp("", "imgo-pack-"); packed.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), programs.Limit)
		defer cancel()
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, filepath.Join(Client(), "pack"), dir)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			packed.err = fmt.Errorf("pack: %w\n%s%s", err, out, stderr.String())
		}
		packed.path = strings.TrimSpace(string(out))
	})
	if packed.err != nil {
		t.Fatal(packed.err)
	}
	return packed.path
}

// CleanUp removes what Pack and programs.StartServer have made for all tests. A TestMain calls it at the end.
func CleanUp() {
	if packed.path != "" {
		_ = os.RemoveAll(filepath.Dir(packed.path))
	}
	programs.CleanUp()
}

// Version returns the version of a tool in package-lock.json, such as "ws@8.23.0".
func Version(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Client(), "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct {
			Version string `json:"version"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		t.Fatal(err)
	}
	version := lock.Packages["node_modules/"+name].Version
	if version == "" {
		t.Fatalf("package-lock.json has no version of %s", name)
	}
	return name + "@" + version
}

// Project makes an empty project outside of the repository, in which the packed client and other
// packages are installed, and returns its folder. moduleType is "module" or "commonjs".
func Project(t testing.TB, moduleType string, packages ...string) string {
	t.Helper()
	args := []string{"install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", Pack(t)}
	for _, name := range packages {
		args = append(args, Version(t, name))
	}
	dir := t.TempDir()
	manifest := fmt.Sprintf(`{"name":"empty","private":true,"type":%q}`, moduleType)
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	programs.Run(t, dir, nil, "npm", args...)
	return dir
}

// Browser returns the path of Chromium. Without one it skips the test, or fails it if CI=true.
func Browser(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "the browser test needs Chromium (Debian: apt-get install chromium), and there is none")
	return ""
}

// Browse opens a page in Chromium, until the test ends.
func Browse(t testing.TB, url string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "imgo-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a process of Chromium may still write
	programs.Start(t, dir, []string{"HOME=" + dir}, Browser(t), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-quic", "--user-data-dir="+dir, url)
}
