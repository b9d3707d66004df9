package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/internal/settings"
)

// Redacted is shown in place of a secret.
const Redacted = "(secret)"

// header is the first text of config.example.toml.
const header = `# imgo: every setting, with its default.
#
# Start with this file:  imgo --config imgo.toml
# Check it:              imgo config check --config imgo.toml
# What is in effect:     imgo config show --config imgo.toml
#
# A flag wins over an environment variable, and a variable wins over this file.
# A key that is set nowhere has the default below. Every key has a flag and a
# variable: [comet] tcp is --comet-tcp and IMGO_COMET_TCP. Shorter names are
# noted. Durations are written "500ms", "5s", "8m", "168h" or "7d", sizes
# "64KiB", "16MiB" or "2GiB". A folder or file may begin with "~/", which is your
# home folder. A key that imgo does not know is an error.
`

// Example returns config.example.toml: every key with its default, its unit and its meaning.
// Loading it changes no setting.
func Example() []byte {
	cfg := Default()
	var b strings.Builder
	b.WriteString(header)
	for _, s := range sections() {
		if s.name != "" {
			fmt.Fprintf(&b, "\n# %s\n[%s]\n", s.doc, s.name)
		}
		// The keys behind a table belong to it, so tables come last.
		for _, key := range s.keys {
			if !key.isTables() {
				key.describe(&b)
				fmt.Fprintf(&b, "%s = %s\n", key.short(), key.toml(&cfg, false))
			}
		}
		for _, key := range s.keys {
			if key.isTables() {
				key.describe(&b)
				key.exampleTable(&b)
			}
		}
	}
	return []byte(b.String())
}

// describe writes the comment lines above a key.
func (k *Key) describe(b *strings.Builder) {
	b.WriteString("\n")
	for line := range strings.SplitSeq(k.Doc, "\n") {
		b.WriteString("# " + line + "\n")
	}
	if note := k.note(); note != "" {
		b.WriteString("# " + note + "\n")
	}
}

// exampleTable writes one table of a list of tables, as a comment.
func (k *Key) exampleTable(b *strings.Builder) {
	fmt.Fprintf(b, "# [[%s]]\n", k.Name)
	for _, field := range settings.Fields(k.Type.Elem()) {
		fmt.Fprintf(b, "# %-35s # %s\n", field.Name+" = "+field.Example, strings.ReplaceAll(field.Doc, "\n", " "))
	}
}

// note returns the comment line with the key's unit, bounds and short flag.
func (k *Key) note() string {
	var notes []string
	switch {
	case len(k.Choices) > 0:
		notes = append(notes, "One of: "+strings.Join(k.Choices, ", ")+".")
	case k.Unit != "" && k.Min != "" && k.Max != "":
		notes = append(notes, fmt.Sprintf("Unit: %s, %s to %s.", k.Unit, k.Min, k.Max))
	case k.Unit != "" && k.Min != "" && k.Min != "0":
		notes = append(notes, fmt.Sprintf("Unit: %s, at least %s.", k.Unit, k.Min))
	case k.Unit != "":
		notes = append(notes, "Unit: "+k.Unit+".")
	}
	if len(k.Flags) > 1 {
		notes = append(notes, fmt.Sprintf("Also --%s, %s.", k.Flags[0], k.Envs[1]))
	}
	return strings.Join(notes, " ")
}

// short returns the key's name without its section.
func (k *Key) short() string { return k.Name[strings.LastIndex(k.Name, ".")+1:] }

// Show returns the effective settings as TOML. A comment names the source of each value that is not
// a default. Secrets are redacted.
func (cfg *Config) Show() []byte {
	var b strings.Builder
	b.WriteString("# What is in effect: flags > environment > file > defaults. Secrets are not shown.\n")
	for _, s := range sections() {
		if s.name != "" {
			fmt.Fprintf(&b, "\n[%s]\n", s.name)
		}
		for _, key := range s.keys {
			line := fmt.Sprintf("%s = %s", key.short(), key.toml(cfg, key.Secret))
			if origin := cfg.Origin(key.Name); origin != "default" {
				line += "  # " + origin
			}
			b.WriteString(line + "\n")
		}
	}
	return []byte(b.String())
}

// toml returns the key's value as TOML, without credentials in web addresses. If secret is true, a value that is set is redacted.
func (k *Key) toml(cfg *Config, secret bool) string { return k.tomlValue(k.value(cfg), secret) }

func (k *Key) tomlValue(value reflect.Value, secret bool) string {
	switch x := value.Interface().(type) {
	case []string:
		items := make([]string, len(x))
		for i, item := range x {
			if secret {
				item = Redacted
			}
			items[i] = tomlString(settings.HideCredentials(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	if k.isTables() {
		items := make([]string, value.Len())
		for i := range items {
			items[i] = k.tomlTable(value.Index(i), secret)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	switch {
	case secret && !value.IsZero():
		return tomlString(Redacted)
	case value.Kind() == reflect.String || k.IsDuration() || k.IsSize():
		return tomlString(settings.HideCredentials(k.Format(value)))
	}
	return k.Format(value)
}

// tomlTable returns one element of a list of tables as an inline table. Empty lists are left out. If
// secret is true, the secrets in it are redacted.
func (k *Key) tomlTable(element reflect.Value, secret bool) string {
	var items []string
	for _, field := range settings.Fields(k.Type.Elem()) {
		value := element.FieldByIndex(field.Index)
		if field.IsList() && value.Len() == 0 {
			continue
		}
		inner := Key{Field: field, Name: field.Name}
		items = append(items, field.Name+" = "+inner.tomlValue(value, secret && field.Secret))
	}
	return "{ " + strings.Join(items, ", ") + " }"
}

// tomlString returns s as a basic TOML string. TOML knows all escapes of JSON. It also wants one for the character DEL.
func tomlString(s string) string {
	quoted, _ := jsontext.AppendQuote(nil, s) // the only possible error is invalid UTF-8, which is replaced
	return strings.ReplaceAll(string(quoted), "\x7f", `\u007F`)
}
