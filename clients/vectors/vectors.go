// Package vectors has the JSON files of this folder for tests in Go. README.md describes the files.
package vectors

import (
	"embed"
	"encoding/hex"
	"encoding/json"
	"testing"
)

//go:embed *.json
var files embed.FS

// Read decodes a file, such as "frames.json", into a pointer.
func Read(t testing.TB, file string, into any) {
	t.Helper()
	b, err := files.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// Hex is a member with bytes in hexadecimal.
type Hex []byte

// UnmarshalText decodes hexadecimal digits.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}
