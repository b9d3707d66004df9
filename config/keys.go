package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// EnvPrefix begins every environment variable that imgo reads.
const EnvPrefix = "IMGO_"

// Key is one setting as a user meets it: derived from a field of Config and
// its tags, and from nothing else.
type Key struct {
	// Name is the key in the file with its section: "comet.tcp", "data_dir".
	Name string
	// Flags are its flags without dashes, the one to show first: "tcp",
	// "comet-tcp".
	Flags []string
	// Envs are its environment variables, the one to show first; where both
	// are set the first counts.
	Envs []string
	// Doc explains it, Unit says what a value looks like.
	Doc, Unit string
	// Choices are the only values allowed; nil: any of the right kind.
	Choices []string
	// Secret values are never shown, Common keys are in the short help.
	Secret, Common bool

	section  string
	min, max string
	index    []int
	kind     reflect.Type
}

// section is a table of the file.
type section struct {
	name string
	doc  string
	keys []Key
}

// Keys are all settings, in the order of config.example.toml.
func Keys() []Key {
	var keys []Key
	for _, s := range sections() {
		keys = append(keys, s.keys...)
	}
	return keys
}

// sections reads the table off Config's fields and tags.
func sections() []section {
	root := section{}
	var tables []section
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("toml")
		switch {
		case !field.IsExported() || name == "":
			continue
		case !isSection(field.Type):
			root.keys = append(root.keys, makeKey("", field, []int{i}))
			continue
		}
		table := section{name: name, doc: field.Tag.Get("doc")}
		for j := range field.Type.NumField() {
			table.keys = append(table.keys, makeKey(name, field.Type.Field(j), []int{i, j}))
		}
		tables = append(tables, table)
	}
	return append([]section{root}, tables...)
}

// isSection tells a table of settings from a setting whose type is a struct.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func makeKey(table string, field reflect.StructField, index []int) Key {
	tag := field.Tag
	key := Key{
		Name:    tag.Get("toml"),
		Doc:     tag.Get("doc"),
		Unit:    tag.Get("unit"),
		Secret:  tag.Get("secret") == "true",
		Common:  tag.Get("common") == "true",
		section: table,
		min:     tag.Get("min"),
		max:     tag.Get("max"),
		index:   index,
		kind:    field.Type,
	}
	if table != "" {
		key.Name = table + "." + key.Name
	}
	if choices := tag.Get("choices"); choices != "" {
		key.Choices = strings.Split(choices, ",")
	}
	long := strings.NewReplacer(".", "-", "_", "-").Replace(key.Name)
	key.Flags = []string{long}
	if short := tag.Get("flag"); short != "" && short != long {
		key.Flags = []string{short, long}
	}
	// The derived name goes first: it is the one that is in the file.
	key.Envs = []string{envName(long)}
	if short := tag.Get("flag"); short != "" && short != long {
		key.Envs = append(key.Envs, envName(short))
	}
	return key
}

func envName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// field is the key's value in cfg, settable when cfg is a pointer's target.
func (k *Key) field(cfg *Config) reflect.Value {
	return reflect.ValueOf(cfg).Elem().FieldByIndex(k.index)
}

// isBool says whether the key's flag may stand without a value.
func (k *Key) isBool() bool { return k.kind.Kind() == reflect.Bool }

// isList says whether the key takes several values.
func (k *Key) isList() bool { return k.kind.Kind() == reflect.Slice }

// wants says what a value of the key looks like, for errors.
func (k *Key) wants() string {
	switch reflect.New(k.kind).Interface().(type) {
	case *Duration:
		return `a duration such as "5s", "8m" or "168h"`
	case *ByteSize:
		return `a size such as "64KiB" or "16MiB"`
	case *[]APIKey:
		return `a list of tables, each [[http.api_keys]] with name, key and, if wanted, rate`
	case *[]string:
		return `a list of strings such as ["a", "b"]`
	}
	switch k.kind.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "a string in quotes"
}

// set gives the key the value that one environment variable or the flags of
// one command line gave as text; several texts are for lists, and otherwise
// the last counts.
func (k *Key) set(cfg *Config, texts []string) error {
	field := k.field(cfg)
	text := strings.TrimSpace(texts[len(texts)-1])
	switch target := field.Addr().Interface().(type) {
	case *[]string:
		list := []string{}
		for _, t := range texts {
			list = append(list, splitList(t)...)
		}
		*target = list
		return nil
	case *[]APIKey:
		keys := []APIKey{}
		for _, t := range texts {
			for _, item := range splitList(t) {
				key, err := parseAPIKey(item)
				if err != nil {
					return err
				}
				keys = append(keys, key)
			}
		}
		*target = keys
		return nil
	case encoding.TextUnmarshaler:
		return target.UnmarshalText([]byte(text))
	case *string:
		*target = text
		return nil
	case *bool:
		v, err := parseBool(text)
		*target = v
		return err
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("is not a whole number")
		}
		*target = v
		return nil
	case *float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("is not a number")
		}
		*target = v
		return nil
	}
	return fmt.Errorf("cannot be set as text: %s", k.kind)
}
