package config

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"imgo/internal/settings"
)

// EnvPrefix is the prefix of every environment variable that imgo reads.
const EnvPrefix = "IMGO_"

// Key is one setting: a field of Config, or of a role's Config inside it, with its tags.
type Key struct {
	settings.Field
	// Name is the key in the file including its section: "comet.tcp", "data_dir".
	Name string
	// Flags are the names of its flags without dashes ("tcp", "comet-tcp"). The help shows the
	// first one.
	Flags []string
	// Envs are the names of its environment variables. The help shows the first one. If more than
	// one is set, the first one wins.
	Envs []string

	section string
}

// section is a table of the TOML file.
type section struct {
	name string
	doc  string
	keys []Key
}

// Keys returns all settings, in the order of config.example.toml. All callers get the same slice, so
// they must not change it.
var Keys = sync.OnceValue(func() (keys []Key) {
	for _, s := range sections() {
		keys = append(keys, s.keys...)
	}
	return keys
})

// sections derives the tables and keys from the fields and tags of Config. All callers get the same
// slice.
var sections = sync.OnceValue(func() []section {
	root := section{}
	var tables []section
	for _, field := range settings.Fields(reflect.TypeFor[Config]()) {
		if field.Type.Kind() != reflect.Struct {
			root.keys = append(root.keys, newKey("", field))
			continue
		}
		table := section{name: field.Name, doc: field.Doc}
		for _, inner := range settings.Fields(field.Type) {
			inner.Index = append(append([]int{}, field.Index...), inner.Index...)
			table.keys = append(table.keys, newKey(field.Name, inner))
		}
		tables = append(tables, table)
	}
	return append([]section{root}, tables...)
})

func newKey(table string, field settings.Field) Key {
	key := Key{Field: field, Name: field.Name, section: table}
	if table != "" {
		key.Name = table + "." + key.Name
	}
	long := strings.NewReplacer(".", "-", "_", "-").Replace(key.Name)
	// The derived variable goes first because config.example.toml shows it.
	key.Flags, key.Envs = []string{long}, []string{envName(long)}
	if field.Flag != "" && field.Flag != long {
		key.Flags = []string{field.Flag, long}
		key.Envs = append(key.Envs, envName(field.Flag))
	}
	return key
}

func envName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// value returns the key's value in cfg. It is settable.
func (k *Key) value(cfg *Config) reflect.Value {
	return reflect.ValueOf(cfg).Elem().FieldByIndex(k.Index)
}

// wants describes a valid value of the key for an error text.
func (k *Key) wants() string {
	switch {
	case k.IsDuration():
		return `a duration such as "5s", "8m" or "7d"`
	case k.IsSize():
		return `a size such as "64KiB" or "16MiB"`
	case k.isTables():
		var names []string
		for _, field := range settings.Fields(k.Type.Elem()) {
			names = append(names, field.Name)
		}
		return fmt.Sprintf("a list of tables, each [[%s]] with some of %s", k.Name, strings.Join(names, ", "))
	case k.IsList():
		return `a list of strings such as ["a", "b"]`
	}
	switch k.Type.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "a string in quotes"
}

// isTables reports whether the key is a list of tables: a slice of structs, whose fields have
// the tags of settings.
func (k *Key) isTables() bool { return k.IsList() && k.Type.Elem().Kind() == reflect.Struct }

// setTOML sets field, the key's value, to a value as the TOML decoder returns it.
func (k *Key) setTOML(field reflect.Value, value any) error {
	switch v := value.(type) {
	case string:
		if k.Type.Kind() == reflect.String || k.IsDuration() || k.IsSize() {
			return k.Set(field, []string{v})
		}
	case int64:
		switch {
		case k.IsDuration(): // a number without a unit is refused
		case field.CanInt():
			field.SetInt(v)
			return nil
		case field.CanFloat():
			field.SetFloat(float64(v))
			return nil
		}
	case float64:
		if field.CanFloat() {
			field.SetFloat(v)
			return nil
		}
	case bool:
		if k.IsBool() {
			field.SetBool(v)
			return nil
		}
	case []any:
		if list, ok := stringList(v); ok && k.Type == reflect.TypeFor[[]string]() {
			field.Set(reflect.ValueOf(list))
			return nil
		}
	}
	return fmt.Errorf("is of the wrong type (%s); it must be %s", tomlKind(value), k.wants())
}

// stringList returns the strings of a list. ok is false if an element is not a string.
func stringList(values []any) (list []string, ok bool) {
	list = make([]string, len(values))
	for i, value := range values {
		if list[i], ok = value.(string); !ok {
			return nil, false
		}
	}
	return list, true
}

// tomlKind returns the TOML name of the value's type.
func tomlKind(value any) string {
	switch value.(type) {
	case string:
		return "string"
	case int64:
		return "integer"
	case float64:
		return "float"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case map[string]any:
		return "table"
	case time.Time:
		return "date"
	}
	return "date or time"
}
