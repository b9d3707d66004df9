package docs_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTokenPrograms runs the programs of the guide on tokens, and connects with what they print.
func TestTokenPrograms(t *testing.T) {
	s := newShell(t, builtImgo(t))
	s.env = append(s.env, "IMGO_AUTH_JWT_SECRET=0123456789abcdef0123456789abcdef", "PYTHONDONTWRITEBYTECODE=1")
	s.start("imgo", "imgo", pattern("…\nimgo … is ready (node laptop)\n…"))
	text := read(t, "how-to/tokens.md")
	for _, program := range []struct{ language, file, run string }{
		{"go", "main.go", "go run"}, {"js", "token.mjs", "node"}, {"python", "token.py", "python3"},
	} {
		t.Run(program.language, func(t *testing.T) {
			block := regexp.MustCompile("(?ms)^```" + program.language + "\n(.*?)^```$").FindStringSubmatch(text)
			if block == nil {
				t.Fatal("the guide has no such program")
			}
			tool, _, _ := strings.Cut(program.run, " ")
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("%s is missing", tool)
			}
			file := filepath.Join(t.TempDir(), program.file)
			if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cmd := s.command(ctx, program.run+" "+file)
			cmd.Dir = ".." // in the module, which requires the libraries
			token, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, token)
			}
			s.untilPrints(t, "imgo listen --device "+program.language+" --token "+strings.TrimSpace(string(token)), "connected to")
			out, err := s.command(ctx, "imgo users show 123 --json").Output()
			if err != nil {
				t.Fatal(err)
			}
			var user struct {
				Devices []struct{ Device string } `json:"devices"`
			}
			if err := json.Unmarshal(out, &user); err != nil {
				t.Fatal(err)
			}
			for _, device := range user.Devices {
				if device.Device == program.language {
					return
				}
			}
			t.Errorf("user 123 has no device %s: %s", program.language, out)
		})
	}
}
