package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"imgo/commands/suggest"
	"imgo/internal/settings"
)

// maxFileBytes bounds the size of a settings file.
const maxFileBytes = 1 << 20

// readFile overwrites cfg with the values of the file. It returns a *ConfigError with the line of
// each unknown key, wrong type or syntax error.
func (cfg *Config) readFile(path string) error {
	data, err := readBounded(path)
	if err != nil {
		p := Problem{Text: fmt.Sprintf("read %s: %v", path, reason(err))}
		if errors.Is(err, os.ErrNotExist) {
			p.Fix = "make one with: imgo config init " + path
		}
		return problems{p}.err()
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
		err = fmt.Errorf("it is larger than %s", settings.FormatSize(maxFileBytes))
	}
	return data, err
}

// reason returns the cause of a file error without the path. The caller names the path.
func reason(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// decode overwrites cfg with the values of a TOML document. Errors name the document by path.
func (cfg *Config) decode(path string, data []byte) error {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors write a byte order mark
	var document map[string]any
	if err := toml.Unmarshal(data, &document); err != nil {
		return syntaxError(path, data, err)
	}
	d := decoder{cfg: cfg, path: path, data: data, places: places(data), keys: map[string]Key{}}
	for _, s := range sections() {
		d.sections = append(d.sections, s.name)
		for _, key := range s.keys {
			d.keys[key.Name] = key
		}
	}
	d.table("", document)
	slices.SortStableFunc(d.found, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column), cmp.Compare(a.Text, b.Text))
	})
	return d.found.err()
}

// syntaxError returns the error of a document with a TOML syntax error.
func syntaxError(path string, data []byte, err error) error {
	p := Problem{Where: path, Text: strings.TrimPrefix(err.Error(), "toml: ")}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		row, column := syntax.Position()
		p.Where, p.Snippet = fmt.Sprintf("%s:%d:%d", path, row, column), snippet(data, row, column)
	}
	return problems{p}.err()
}

// decoder copies the values of one document into a Config.
type decoder struct {
	cfg      *Config
	path     string
	data     []byte
	places   map[string]place
	keys     map[string]Key
	sections []string
	found    problems
}

// refuse records a problem at a position in the document.
func (d *decoder) refuse(line, column int, p Problem) {
	p.Where, p.line, p.column = d.path, line, column
	if line > 0 {
		p.Where, p.Snippet = fmt.Sprintf("%s:%d:%d", d.path, line, column), snippet(d.data, line, column)
	}
	d.found = append(d.found, p)
}

// table reads the values of one table of the document. The name "" means the top level.
func (d *decoder) table(name string, values map[string]any) {
	for short, value := range values {
		full := short
		if name != "" {
			full = name + "." + short
		}
		at := d.places[full]
		if key, ok := d.keys[full]; ok {
			d.value(full, key, value, at)
		} else if inner, ok := value.(map[string]any); ok && name == "" && slices.Contains(d.sections, full) {
			d.table(full, inner)
		} else if name == "" && slices.Contains(d.sections, full) {
			d.refuse(at.valueLine, at.valueColumn, Problem{Key: full,
				Text: fmt.Sprintf("is of the wrong type (%s); it is a table: write [%s] and its keys below", tomlKind(value), full)})
		} else {
			d.unknown(full)
		}
	}
}

// value reads the value of one key.
func (d *decoder) value(name string, key Key, value any, at place) {
	var err error
	if list, ok := value.([]any); ok && key.isTables() {
		err = d.tables(key, list)
	} else {
		err = key.setTOML(key.value(d.cfg), value)
	}
	if err != nil {
		d.refuse(at.valueLine, at.valueColumn, Problem{Key: name, Text: err.Error()})
	}
	if at.line > 0 {
		d.cfg.setOrigin(name, fmt.Sprintf("%s:%d", d.path, at.line))
	}
}

// tables reads a list of tables, such as [[http.api_keys]]. Errors do not repeat values, which may be
// secrets.
func (d *decoder) tables(key Key, tables []any) error {
	fields := map[string]settings.Field{}
	for _, field := range settings.Fields(key.Type.Elem()) {
		fields[field.Name] = field
	}
	list := reflect.MakeSlice(key.Type, len(tables), len(tables))
	for i, item := range tables {
		values, ok := item.(map[string]any)
		if !ok {
			return fmt.Errorf("is of the wrong type (array); it must be %s", key.wants())
		}
		element := list.Index(i)
		settings.SetDefaults(element)
		for name, value := range values {
			field, known := fields[name]
			if !known {
				d.unknown(key.Name + "." + name)
				continue
			}
			inner := Key{Field: field, Name: key.Name + "." + name}
			if err := inner.setTOML(element.FieldByIndex(field.Index), value); err != nil {
				return fmt.Errorf("has in table %d the key %q, which %w", i+1, name, err)
			}
		}
	}
	key.value(d.cfg).Set(list)
	return nil
}

// unknown records a key or table that imgo does not have.
func (d *decoder) unknown(name string) {
	p := Problem{Text: fmt.Sprintf("unknown key %q", name), Fix: "`imgo config init` prints every key"}
	if meant := suggest.Closest(name, fileNames()); meant != "" {
		p.Fix = fmt.Sprintf("did you mean %q?", meant)
	}
	at := d.places[name]
	d.refuse(at.line, at.column, p)
}

// snippet returns a line of the file with a mark under the column. It returns nothing if the line
// may hold a secret.
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

// secretLine reports whether a line of the file may hold a secret. Errors are logged, so they must
// not contain it.
func secretLine(line string) bool {
	name, _, ok := strings.Cut(line, "=")
	if !ok {
		return false
	}
	name = strings.Trim(strings.TrimSpace(name), `"'`)
	name = name[strings.LastIndex(name, ".")+1:]
	for _, key := range Keys() {
		if key.Secret && strings.HasSuffix(key.Name, "."+name) {
			return true
		}
		if !key.isTables() {
			continue
		}
		for _, field := range settings.Fields(key.Type.Elem()) {
			if field.Secret && field.Name == name {
				return true
			}
		}
	}
	return false
}

// fileNames returns all valid names of keys and tables, for suggestions.
func fileNames() []string {
	var names []string
	for _, s := range sections() {
		if s.name != "" {
			names = append(names, s.name)
		}
		for _, key := range s.keys {
			names = append(names, key.Name)
			if key.isTables() {
				for _, field := range settings.Fields(key.Type.Elem()) {
					names = append(names, key.Name+"."+field.Name)
				}
			}
		}
	}
	return names
}

// place is the position of a key and of its value in the document. Lines and columns count from 1.
// A line of 0 means unknown.
type place struct {
	line, column           int
	valueLine, valueColumn int
}

// places returns the positions of all keys and tables that the document sets, by full name. The
// document must be valid TOML. If a name occurs more than once, the first position counts.
func places(data []byte) map[string]place {
	found := map[string]place{}
	var parser unstable.Parser
	parser.Reset(data)
	var table []string
	for parser.NextExpression() {
		expression := parser.Expression()
		var names []string
		var at place
		for it := expression.Key(); it.Next(); {
			node := it.Node()
			names = append(names, string(node.Data))
			start := parser.Shape(node.Raw).Start
			at.line, at.column = start.Line, start.Column
		}
		at.valueLine, at.valueColumn = at.line, at.column
		switch expression.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = names
		case unstable.KeyValue:
			names = append(append([]string{}, table...), names...)
			if raw := expression.Value().Raw; raw.Length > 0 {
				start := parser.Shape(raw).Start
				at.valueLine, at.valueColumn = start.Line, start.Column
			}
		default:
			continue
		}
		name := strings.Join(names, ".")
		if _, ok := found[name]; !ok {
			found[name] = at
		}
	}
	return found
}
