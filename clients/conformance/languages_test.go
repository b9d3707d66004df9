package conformance

import (
	"os"
	"slices"
	"strings"
	"testing"

	"imgo/clients/conformance/driver"
)

// chosenLanguages returns the languages of the flag.
func chosenLanguages(t *testing.T) []driver.Language {
	t.Helper()
	all := driver.Languages()
	if *languageFlag == "" {
		return all
	}
	var chosen []driver.Language
	for name := range strings.SplitSeq(*languageFlag, ",") {
		i := slices.IndexFunc(all, func(l driver.Language) bool { return l.Name == name })
		if i < 0 {
			t.Fatalf("-language %q: there is no driver of that name", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen
}

// prepare returns the command of a driver. It skips the test if a tool is missing; with CI=true it fails.
func prepare(t *testing.T, l driver.Language) driver.Command {
	t.Helper()
	if *programFlag != "" {
		return driver.Command{Args: []string{*programFlag}}
	}
	if err := l.Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	command, err := l.Build(t.Context(), "..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return command
}
