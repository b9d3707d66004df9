// Package scripts_test runs the scripts of this folder.
package scripts_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// copyTree copies the files of the repository, without those of tools.
func copyTree(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && slices.Contains([]string{".git", ".cache", "node_modules", "target", "dist", "imgo-data", "results"}, name) {
			return fs.SkipDir
		}
		target := filepath.Join(to, strings.TrimPrefix(path, ".."))
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case !entry.Type().IsRegular() || name == "imgo":
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test removed it
		}
		data, rerr := os.ReadFile(path)
		if err := errors.Join(err, rerr); err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// in runs a command in a folder. It returns all output.
func in(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestModulePath gives a copy of the repository another module path. Both modules find all their packages there, and the
// client, which others import, is built.
func TestModulePath(t *testing.T) {
	tree := copyTree(t)
	script := filepath.Join(tree, "scripts", "module-path")
	old, err := in(t, tree, script)
	if err != nil {
		t.Fatalf("%v\n%s", err, old)
	}
	old = strings.TrimSpace(old)
	for _, bad := range []string{"", "imgo", "https://git.example.com/imgo", "git.example.com/imgo/", "a.b c.d"} {
		if out, err := in(t, tree, script, bad); err == nil || !strings.Contains(out, "git.example.com") {
			t.Errorf("%q: %v, %s", bad, err, out)
		}
	}
	const path = "git.example.com/team/push"
	if out, err := in(t, tree, script, path); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if now, err := in(t, tree, script); err != nil || strings.TrimSpace(now) != path {
		t.Errorf("the module is now %q, %v", now, err)
	}
	for dir, module := range map[string]string{".": path, "clients/go": path + "/clients/go"} {
		folder := filepath.Join(tree, dir)
		if out, err := in(t, folder, "go", "list", "-m"); err != nil || strings.TrimSpace(out) != module {
			t.Errorf("%s is the module %q, %v", dir, out, err)
		}
		if out, err := in(t, folder, "go", "list", "-deps", "-test", "./..."); err != nil {
			t.Fatalf("list what %s needs: %v\n%s", dir, err, out)
		}
		list := "{{range .Imports}}{{.}}\n{{end}}{{range .TestImports}}{{.}}\n{{end}}{{range .XTestImports}}{{.}}\n{{end}}"
		out, err := in(t, folder, "go", "list", "-f", list, "./...")
		if err != nil {
			t.Fatalf("list %s: %v\n%s", dir, err, out)
		}
		for imported := range strings.Lines(out) {
			if imported = strings.TrimSpace(imported); imported == old || strings.HasPrefix(imported, old+"/") {
				t.Errorf("%s still imports %s", dir, imported)
			}
		}
	}
	if out, err := in(t, filepath.Join(tree, "clients/go"), "go", "build", "./..."); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	for _, file := range []string{"go.mod", "clients/go/go.mod", ".golangci.yml", "envelope/envelope.go", "envelope/envelope.proto"} {
		data, err := os.ReadFile(filepath.Join(tree, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), path) || strings.Contains(string(data), " "+old+"/") || strings.Contains(string(data), "="+old) {
			t.Errorf("%s has the old path, or not the new one", file)
		}
	}
	page, err := os.ReadFile(filepath.Join(tree, "docs", "tutorial", "go.md"))
	if err != nil || !strings.Contains(string(page), `"`+path+`/clients/go/pushapi"`) || strings.Contains(string(page), old+".invalid") {
		t.Errorf("the quick start has the old path: %v", err)
	}
	packed, err := in(t, tree, filepath.Join(tree, "clients", "go", "pack"), t.TempDir())
	if err != nil || strings.TrimSpace(packed) != path+"/clients/go@v0.1.0" {
		t.Errorf("pack printed %q, %v", packed, err)
	}
	// Twice is the same as once.
	if out, err := in(t, tree, script, path); err != nil {
		t.Errorf("a second time: %v\n%s", err, out)
	}
}
