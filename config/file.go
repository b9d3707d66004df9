package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"imgo/commands/suggest"
)

// maxFileBytes bounds a settings file: one that is larger is no settings file.
const maxFileBytes = 1 << 20

// readFile lays the file's values over cfg. Unknown keys, wrong types and
// TOML that is broken are problems that name the line.
func (cfg *Config) readFile(path string) error {
	data, err := readBounded(path)
	if err != nil {
		var found problems
		mend := ""
		if errors.Is(err, os.ErrNotExist) {
			mend = "make one with: imgo config init " + path
		}
		found.add("", "", fmt.Sprintf("read %s: %v", path, reason(err)), mend)
		return found.err()
	}
	return cfg.decode(path, data)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("it is larger than %s, which no settings file is", ByteSize(maxFileBytes))
	}
	return data, err
}

// reason is the cause of a file error without the path, which the caller says.
func reason(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// decode lays the values of a TOML document over cfg; path names it in errors.
func (cfg *Config) decode(path string, data []byte) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(cfg)
	var strict *toml.StrictMissingError
	var decode *toml.DecodeError
	var found problems
	switch {
	case errors.As(err, &strict):
		for i := range strict.Errors {
			found = append(found, unknownKey(path, data, &strict.Errors[i]))
		}
	case errors.As(err, &decode):
		found = append(found, badValue(path, data, decode))
	case err != nil:
		found = bareNumbers(path, data, err)
	}
	if len(found) > 0 {
		return found.err()
	}
	for _, e := range entries(data) {
		// Of an array of tables the first line counts.
		if cfg.Origin(e.name) == "default" {
			cfg.setOrigin(e.name, fmt.Sprintf("%s:%d", path, e.line))
		}
	}
	return nil
}

// unknownKey is the problem of a key or table that imgo does not have.
func unknownKey(path string, data []byte, err *toml.DecodeError) Problem {
	name := strings.Join(err.Key(), ".")
	p := problemAt(path, data, err)
	p.Text = fmt.Sprintf("unknown key %q", name)
	if mend := suggest.Closest(name, fileNames()); mend != "" {
		p.Mend = fmt.Sprintf("did you mean %q?", mend)
	} else {
		p.Mend = "`imgo config init` prints every key"
	}
	return p
}

// badValue is the problem of a value of the wrong type or form, or of TOML
// that is broken.
func badValue(path string, data []byte, err *toml.DecodeError) Problem {
	p := problemAt(path, data, err)
	p.Text = strings.TrimPrefix(err.Error(), "toml: ")
	name := strings.Join(err.Key(), ".")
	wants := ""
	for _, key := range Keys() {
		if key.Name == name {
			p.Key, wants = name, key.wants()
		}
	}
	// The library's own words for a wrong type show Go's types to people who
	// write TOML: ours say what is wanted.
	if kind, ok := strings.CutPrefix(p.Text, "cannot decode TOML "); ok {
		kind, _, _ = strings.Cut(kind, " into")
		switch {
		case wants != "":
			p.Text = fmt.Sprintf("is of the wrong type (%s); it must be %s", kind, wants)
		case name != "":
			p.Key, p.Text = name, fmt.Sprintf("is of the wrong type (%s)", kind)
			if isTable(name) {
				p.Text += fmt.Sprintf("; it is a table: write [%s] and its keys below", name)
			}
		}
	}
	return p
}

// isTable says whether name is a section of the file.
func isTable(name string) bool {
	for _, s := range sections() {
		if s.name == name {
			return true
		}
	}
	return false
}

// problemAt fills in where in the file err is and shows the line.
func problemAt(path string, data []byte, err *toml.DecodeError) Problem {
	row, column := err.Position()
	return Problem{Where: fmt.Sprintf("%s:%d:%d", path, row, column), Snippet: snippet(data, row, column)}
}

// snippet shows a line of the file with a mark under the column, unless the
// line may hold a secret.
func snippet(data []byte, row, column int) string {
	lines := strings.Split(string(data), "\n")
	if row < 1 || row > len(lines) {
		return ""
	}
	line := strings.TrimRight(lines[row-1], "\r")
	if secretLine(line) {
		return ""
	}
	number := fmt.Sprintf("%6d | ", row)
	return number + strings.ReplaceAll(line, "\t", " ") + "\n" +
		strings.Repeat(" ", len(number)-2) + "| " + strings.Repeat(" ", max(column-1, 0)) + "^"
}

// secretLine says whether a line of the file may hold a secret, which must
// not get into a log by way of an error.
func secretLine(line string) bool {
	name, _, ok := strings.Cut(line, "=")
	if !ok {
		return false
	}
	name = strings.Trim(strings.TrimSpace(name), `"'`)
	name = name[strings.LastIndex(name, ".")+1:]
	if name == "key" {
		return true
	}
	for _, key := range Keys() {
		if key.Secret && strings.HasSuffix(key.Name, "."+name) {
			return true
		}
	}
	return false
}

// fileNames are the names that a file may use, for suggestions.
func fileNames() []string {
	names := []string{"http.api_keys.name", "http.api_keys.key", "http.api_keys.rate"}
	for _, s := range sections() {
		if s.name != "" {
			names = append(names, s.name)
		}
		for _, key := range s.keys {
			names = append(names, key.Name)
		}
	}
	return names
}

// entry is a key that the document sets.
type entry struct {
	name         string
	line, column int
	kind         unstable.Kind
}

// entries lists the keys that the document sets, in its order. The document
// has been parsed before, so it is sound; what is not understood is left out.
func entries(data []byte) []entry {
	var list []entry
	var parser unstable.Parser
	parser.Reset(data)
	var table []string
	for parser.NextExpression() {
		expression := parser.Expression()
		var names []string
		e := entry{kind: expression.Kind}
		for it := expression.Key(); it.Next(); {
			node := it.Node()
			names = append(names, string(node.Data))
			start := parser.Shape(node.Raw).Start
			e.line, e.column = start.Line, start.Column
		}
		switch expression.Kind {
		case unstable.Table:
			table = names
			continue
		case unstable.ArrayTable:
			table = names
		case unstable.KeyValue:
			names = append(append([]string{}, table...), names...)
			e.kind = expression.Value().Kind
		default:
			continue
		}
		e.name = strings.Join(names, ".")
		list = append(list, e)
	}
	return list
}

// bareNumbers are the problems of durations without a unit: the library gives
// our own error for them as it is, without a place.
func bareNumbers(path string, data []byte, cause error) problems {
	kinds := map[string]Key{}
	for _, key := range Keys() {
		kinds[key.Name] = key
	}
	var found problems
	for _, e := range entries(data) {
		key, ok := kinds[e.name]
		if !ok || e.kind == unstable.String || key.kind != reflect.TypeFor[Duration]() {
			continue
		}
		p := Problem{Where: fmt.Sprintf("%s:%d:%d", path, e.line, e.column), Key: e.name, Text: cause.Error()}
		p.Snippet = snippet(data, e.line, e.column)
		found = append(found, p)
	}
	if len(found) == 0 {
		found.add(path, "", cause.Error(), "")
	}
	return found
}
