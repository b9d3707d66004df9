// Gomodule packs a Go module and the modules that it needs into a folder that the go command takes for a
// module proxy:
//
//	go run ./scripts/gomodule FOLDER VERSION DIR
//
// FOLDER has the module. Its proxy in DIR can be used without a network: GOPROXY=file://DIR GOSUMDB=off.
//
// The go command takes only modules from a proxy whose path begins with a host. A module without one, such as
// imgo/clients/go, is packed as imgo.invalid/clients/go. A project needs a replace directive for it then.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: gomodule FOLDER VERSION DIR")
		os.Exit(2)
	}
	packed, err := pack(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "gomodule:", err)
		os.Exit(1)
	}
	fmt.Println(packed)
}

// downloadTimeout bounds the download of the modules that the module needs.
const downloadTimeout = 5 * time.Minute

// pack returns the path and the version under which the module is in the proxy.
func pack(folder, version, to string) (module.Version, error) {
	mod, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return module.Version{}, err
	}
	m := module.Version{Path: packedPath(modfile.ModulePath(mod)), Version: version}
	var content bytes.Buffer
	if err := zip.CreateFromDir(&content, m, folder); err != nil {
		return m, fmt.Errorf("pack %s: %w", folder, err)
	}
	info, err := json.Marshal(map[string]string{"Version": version})
	if err != nil {
		return m, err
	}
	if err := add(to, m, info, mod, &content); err != nil {
		return m, err
	}
	return m, addNeeded(folder, to)
}

// packedPath returns the path under which a proxy can have a module.
func packedPath(path string) string {
	host, rest, _ := strings.Cut(path, "/")
	if !strings.Contains(host, ".") {
		host += ".invalid"
	}
	return strings.TrimSuffix(host+"/"+rest, "/")
}

// add writes the files of a module.
func add(to string, m module.Version, info, mod []byte, content io.Reader) error {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return fmt.Errorf("the module's path: %w", err)
	}
	if err := module.Check(m.Path, m.Version); err != nil {
		return err
	}
	dir := filepath.Join(to, filepath.FromSlash(path), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the artefact is for everybody
		return err
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return fmt.Errorf("read %s: %w", m, err)
	}
	for name, data := range map[string][]byte{
		"list": []byte(m.Version + "\n"), m.Version + ".info": info, m.Version + ".mod": mod, m.Version + ".zip": data,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return nil
}

// addNeeded adds the modules that the module needs, unchanged.
func addNeeded(folder, to string) error {
	ctx, cancel := context.WithTimeout(context.Background(), downloadTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "all")
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("download the modules that %s needs: %w", folder, err)
	}
	for lines := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Info, GoMod, Zip string }
		if err := lines.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the list of modules: %w", err)
		}
		if m.Zip == "" {
			continue // the module itself
		}
		info, ierr := os.ReadFile(m.Info)
		mod, merr := os.ReadFile(m.GoMod)
		content, cerr := os.ReadFile(m.Zip)
		if err := errors.Join(ierr, merr, cerr); err != nil {
			return err
		}
		if err := add(to, module.Version{Path: m.Path, Version: m.Version}, info, mod, bytes.NewReader(content)); err != nil {
			return err
		}
	}
}
