package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write THIRD-PARTY.txt anew")

// licenceTexts matches the files of a module that a copy of it has to come with.
var licenceTexts = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents)(\.(txt|md))?$`)

// licences are the licences that parts of imgo may have, by words of their texts. The first that fits
// counts. A part with another one needs a decision.
var licences = []struct{ name, words string }{
	{"MPL-2.0", "Mozilla Public License"},
	{"Apache-2.0", "Apache License"},
	{"BSD-3-Clause", "Neither the name"},
	{"BSD-2-Clause", "Redistributions in binary form"},
	{"ISC", "Permission to use, copy, modify, and distribute this software for any purpose with or without fee"},
	{"MIT", "Permission is hereby granted, free of charge"},
}

// part is something by others in the binary.
type part struct{ name, version, dir string }

// TestThirdParty compares THIRD-PARTY.txt with what the binary is made of. With -update it writes the file.
func TestThirdParty(t *testing.T) {
	want := thirdParty(t, parts(t))
	if *update {
		if err := os.WriteFile("THIRD-PARTY.txt", want, 0o644); err != nil { //nolint:gosec // a public document
			t.Fatal(err)
		}
	}
	if !bytes.Equal([]byte(notices), want) && !*update {
		t.Error("THIRD-PARTY.txt does not fit the modules in go.mod: go test . -run TestThirdParty -update")
	}
	out, err := imgo(t, "version", "--licenses")
	if err != nil || !strings.Contains(out, "github.com/hashicorp/memberlist") || !strings.Contains(out, "Mozilla Public License") {
		t.Errorf("imgo version --licenses: %v, %d bytes", err, len(out))
	}
}

// parts lists Go's standard library and the modules of others whose packages are in the binary on Linux,
// which has all of those of other systems. Modules of this repository are replaced in go.mod.
func parts(t *testing.T) []part {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		"{{with .Module}}{{if not (or .Main .Replace)}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}", ".")
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the modules: %v", err)
	}
	all := []part{{name: "Go standard library", dir: goRoot(t)}}
	lines := slices.Compact(slices.Sorted(strings.Lines(string(out))))
	for _, line := range lines {
		if fields := strings.Split(strings.TrimSpace(line), "\t"); len(fields) == 3 {
			all = append(all, part{fields[0], fields[1], fields[2]})
		}
	}
	if len(all) < 30 {
		t.Fatalf("there are only %d modules", len(all))
	}
	return all
}

func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// thirdParty returns the text of THIRD-PARTY.txt: a table of the parts, and each text once with the parts
// that it is for.
func thirdParty(t *testing.T, all []part) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("imgo contains software by others. This file names it and has the texts of its licences.\n" +
		"The source of each module, unchanged, is at https://pkg.go.dev/MODULE@VERSION, and as an archive at\n" +
		"https://proxy.golang.org/MODULE/@v/VERSION.zip.\n\n")
	var texts []string
	users := map[string][]string{}
	for _, p := range all {
		licence := ""
		for _, text := range p.texts(t) {
			if !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
			users[text] = append(users[text], p.name)
			for _, known := range licences {
				if licence == "" && strings.Contains(strings.Join(strings.Fields(text), " "), known.words) {
					licence = known.name
				}
			}
		}
		if licence == "" {
			t.Errorf("%s has no licence that is known: look at %s", p.name, p.dir)
		}
		fmt.Fprintf(&b, "%-14s %s\n", licence, strings.TrimSpace(p.name+" "+p.version))
	}
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("-", 80), strings.Join(users[text], "\n"), text)
	}
	return b.Bytes()
}

// texts returns the licence of a part, and its further notices behind it.
func (p part) texts(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	var texts []string
	for _, entry := range entries {
		if entry.IsDir() || !licenceTexts.MatchString(entry.Name()) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(p.dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSpace(strings.ReplaceAll(string(data), "\r\n", "\n"))
		if strings.HasPrefix(strings.ToLower(entry.Name()), "licen") {
			texts = slices.Insert(texts, 0, text)
		} else {
			texts = append(texts, text)
		}
	}
	return texts
}
