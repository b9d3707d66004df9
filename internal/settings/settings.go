// Package settings reads the struct tags by which a role declares its settings.
// A setting is one field with its tags, in the Config of the role that uses it:
//
//	toml     the key's name, in its section; a field without it is no setting
//	default  the default, written as a user writes it; without it the zero value
//	flag     a short flag beside the derived --section-key (and its IMGO_ twin)
//	common   "true": shown by `imgo --help`, not only by `imgo serve --help`
//	unit     what a bare value means, or what a value looks like; "size" makes an
//	         integer a number of bytes; "folder", "file", and "PEM file" and the like,
//	         make a string a path
//	choices  the only values allowed, comma-separated
//	secret   "true": never shown by `imgo config show`
//	min,max  the bounds of a number, duration or size
//	example  a value in TOML, for a field of a list of tables
//	doc      one or two sentences; a line break starts a new comment line
//
// A field may have a default without being a setting. Then tests can change it,
// and users cannot. The fields of an embedded struct count as fields of the outer
// struct.
//
// A setting that is a slice of structs is a list of tables, such as [[http.api_keys]].
// The fields of that struct have the same tags.
//
// The package holds no values and reads no files. Package config does that.
// It imports no other package of imgo.
package settings

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Field is one setting as its tags declare it.
type Field struct {
	Name, Flag, Doc, Unit string
	Example               string // in TOML
	Min, Max              string
	Choices               []string // nil: any value of the right kind
	Secret, Common        bool
	Type                  reflect.Type
	Index                 []int // for reflect.Value.FieldByIndex
}

// Fields returns the settings of the struct type t, in the order of its fields.
func Fields(t reflect.Type) []Field {
	var fields []Field
	for _, field := range reflect.VisibleFields(t) {
		if name := field.Tag.Get("toml"); name != "" && field.IsExported() {
			fields = append(fields, newField(name, field))
		}
	}
	return fields
}

func newField(name string, field reflect.StructField) Field {
	tag := field.Tag
	f := Field{
		Name: name, Flag: tag.Get("flag"), Doc: tag.Get("doc"), Unit: tag.Get("unit"), Min: tag.Get("min"), Max: tag.Get("max"),
		Example: tag.Get("example"), Secret: tag.Get("secret") == "true", Common: tag.Get("common") == "true", Type: field.Type,
		Index: field.Index,
	}
	if choices := tag.Get("choices"); choices != "" {
		f.Choices = strings.Split(choices, ",")
	}
	return f
}

// Default returns a T in which every field has its default, including the fields of
// nested structs. It panics if a default tag is invalid. That is a programming error,
// and every start shows it.
func Default[T any]() T {
	var v T
	SetDefaults(reflect.ValueOf(&v).Elem())
	return v
}

// SetDefaults is Default for a struct whose type is only known at run time, such as an
// element of a list of tables. v must be settable.
func SetDefaults(v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		text, ok := field.Tag.Lookup("default")
		switch {
		case !field.IsExported():
		case ok:
			f := newField(field.Name, field)
			if err := f.Set(v.Field(i), []string{text}); err != nil {
				panic(fmt.Sprintf("settings: the default of %s.%s: %v", v.Type(), field.Name, err))
			}
		case field.Type.Kind() == reflect.Struct:
			SetDefaults(v.Field(i))
		case field.Type.Kind() == reflect.Slice && field.Tag.Get("toml") != "":
			v.Field(i).Set(reflect.MakeSlice(field.Type, 0, 0))
		}
	}
}

// IsSize reports whether the setting is a number of bytes.
func (f *Field) IsSize() bool { return f.Unit == "size" }

// IsPath reports whether the setting is the path of a file or a folder.
func (f *Field) IsPath() bool {
	return f.Unit == "folder" || f.Unit == "file" || strings.HasSuffix(f.Unit, " file")
}

// IsDuration reports whether the setting is a length of time.
func (f *Field) IsDuration() bool { return f.Type == reflect.TypeFor[time.Duration]() }

// IsBool reports whether the setting is a boolean.
func (f *Field) IsBool() bool { return f.Type.Kind() == reflect.Bool }

// IsList reports whether the setting is a list.
func (f *Field) IsList() bool { return f.Type.Kind() == reflect.Slice }

// Set parses texts into v, the value of the setting. A list takes all texts; any other
// setting takes the last one. The elements of a list are strings, or types whose pointer
// implements encoding.TextUnmarshaler.
func (f *Field) Set(v reflect.Value, texts []string) error {
	text := strings.TrimSpace(texts[len(texts)-1])
	switch {
	case f.IsList():
		return f.setList(v, texts)
	case f.IsDuration():
		d, err := ParseDuration(text)
		v.SetInt(int64(d))
		return err
	case f.IsSize():
		n, err := ParseSize(text)
		v.SetInt(n)
		return err
	}
	switch f.Type.Kind() {
	case reflect.String:
		v.SetString(text)
		return nil
	case reflect.Bool:
		on, err := parseBool(text)
		v.SetBool(on)
		return err
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errors.New("is not a whole number")
		}
		v.SetInt(n)
		return nil
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("is not a number")
		}
		v.SetFloat(n)
		return nil
	}
	return fmt.Errorf("cannot be set as text: %s", f.Type)
}

// setList splits texts at commas and stores the elements in v.
func (f *Field) setList(v reflect.Value, texts []string) error {
	list := reflect.MakeSlice(f.Type, 0, len(texts))
	for _, text := range texts {
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			element := reflect.New(f.Type.Elem())
			switch target := element.Interface().(type) {
			case encoding.TextUnmarshaler:
				if err := target.UnmarshalText([]byte(item)); err != nil {
					return err
				}
			case *string:
				*target = item
			default:
				return fmt.Errorf("cannot be set as text: %s", f.Type)
			}
			list = reflect.Append(list, element.Elem())
		}
	}
	v.Set(list)
	return nil
}

// Format returns the value v as a user writes it, without quotes. It does not support
// lists.
func (f *Field) Format(v reflect.Value) string {
	switch {
	case f.IsDuration():
		return FormatDuration(time.Duration(v.Int()))
	case f.IsSize():
		return FormatSize(v.Int())
	case f.Type.Kind() == reflect.Float64:
		return FormatFloat(v.Float())
	}
	return fmt.Sprint(v.Interface())
}

// Check returns a description of what is wrong with v, and how to correct it. Both are
// empty if v is one of Choices and lies between Min and Max.
func (f *Field) Check(v reflect.Value) (wrong, fix string) {
	if len(f.Choices) > 0 && !slices.Contains(f.Choices, v.String()) {
		return fmt.Sprintf("is %q", v.String()), "choose one of " + strings.Join(f.Choices, ", ")
	}
	n, ok := number(v)
	if !ok {
		return "", ""
	}
	low, high := 0.0, math.MaxFloat64
	if f.Min != "" {
		low = f.bound(f.Min)
	}
	if f.Max != "" {
		high = f.bound(f.Max)
	}
	// NaN fails this comparison too, so it is out of bounds.
	if n >= low && n <= high {
		return "", ""
	}
	switch {
	case f.Min == "" && f.Max == "":
		fix = "it must not be negative"
	case f.Max == "":
		fix = "it must be at least " + f.Min
	default:
		fix = fmt.Sprintf("it must be from %s to %s", f.Min, f.Max)
	}
	return "is " + f.Format(v), fix
}

// number returns v as a float. ok is false if v is not a number.
func number(v reflect.Value) (n float64, ok bool) {
	switch {
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanFloat():
		return v.Float(), true
	}
	return 0, false
}

// bound parses a min or max tag. For an invalid tag it returns NaN, a bound that no
// value meets, so that every start shows the mistake.
func (f *Field) bound(tag string) float64 {
	v := reflect.New(f.Type).Elem()
	if err := f.Set(v, []string{tag}); err != nil {
		return math.NaN()
	}
	n, _ := number(v)
	return n
}

// parseBool accepts the usual words for on and off.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "on", "yes", "1":
		return true, nil
	case "false", "off", "no", "0":
		return false, nil
	}
	return false, errors.New("is neither true nor false")
}
