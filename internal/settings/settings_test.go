package settings_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"imgo/internal/settings"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"500ms": 500 * time.Millisecond, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "168h": 168 * time.Hour,
		"0s": 0, "1h30m": 90 * time.Minute,
	} {
		d, err := settings.ParseDuration(text)
		if err != nil || d != want {
			t.Errorf("%s: %v, %v", text, d, err)
		}
		if again, err := settings.ParseDuration(settings.FormatDuration(d)); err != nil || again != d {
			t.Errorf("%s is shown as %s, which is %v, %v", text, settings.FormatDuration(d), again, err)
		}
	}
	for _, text := range []string{"", "5", "-5s", "d", "1.5d", "5 parsecs", "106751d999999h"} {
		if d, err := settings.ParseDuration(text); err == nil {
			t.Errorf("%q is taken as %s", text, d)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1024": 1 << 10, "64KiB": 64 << 10, "64k": 64 << 10, "16 MiB": 16 << 20, "2GiB": 2 << 30, "1MB": 1e6, "3TiB": 3 << 40, "5B": 5,
	} {
		n, err := settings.ParseSize(text)
		if err != nil || n != want {
			t.Errorf("%s: %v, %v", text, n, err)
		}
		if again, err := settings.ParseSize(settings.FormatSize(n)); err != nil || again != n {
			t.Errorf("%s is shown as %s, which is %v, %v", text, settings.FormatSize(n), again, err)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1.5MiB", "99999999TiB", "x"} {
		if n, err := settings.ParseSize(text); err == nil {
			t.Errorf("%q is taken as %d", text, n)
		}
	}
}

type limits struct {
	Rate  float64 `toml:"rate" default:"2.5" min:"0"`
	Bytes int     `toml:"bytes" unit:"size" default:"64KiB" min:"1KiB" max:"1MiB"`
}

type config struct {
	Name    string        `toml:"name" choices:"a,b" default:"a"`
	Wait    time.Duration `toml:"wait" unit:"duration" default:"5s" min:"1s"`
	On      bool          `toml:"on" default:"true"`
	List    []string      `toml:"list"`
	Both    []string      `toml:"both" default:"x,y"`
	Batch   int           `default:"1000"`
	Section struct {
		N int `toml:"n" default:"7"`
	} `toml:"section"`
	Limits2
	Limits limits `toml:"limits"`
}

type Limits2 struct {
	Most int `toml:"most" default:"3" max:"9"`
}

func TestDefault(t *testing.T) {
	got := settings.Default[config]()
	want := config{Name: "a", Wait: 5 * time.Second, On: true, List: []string{}, Both: []string{"x", "y"}, Batch: 1000}
	want.Most, want.Section.N, want.Limits = 3, 7, limits{Rate: 2.5, Bytes: 64 << 10}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("a default that cannot be read went through")
		}
	}()
	settings.Default[struct {
		N int `default:"many"`
	}]()
}

func TestFieldsAndBounds(t *testing.T) {
	names := map[string]settings.Field{}
	var order []string
	for _, f := range settings.Fields(reflect.TypeFor[config]()) {
		names[f.Name] = f
		order = append(order, f.Name)
	}
	if got := strings.Join(order, " "); got != "name wait on list both section most limits" {
		t.Errorf("the settings are %s", got)
	}
	for _, c := range []struct {
		field, text string
		wrong       string
	}{
		{"name", "b", ""}, {"name", "c", `is "c"`}, {"wait", "1s", ""}, {"wait", "999ms", "is 999ms"}, {"most", "9", ""}, {"most", "10", "is 10"},
		{"most", "-1", "is -1"},
	} {
		f := names[c.field]
		v := reflect.New(f.Type).Elem()
		if err := f.Set(v, []string{c.text}); err != nil {
			t.Errorf("%s = %s: %v", c.field, c.text, err)
		}
		if wrong, fix := f.Check(v); wrong != c.wrong || (wrong != "") != (fix != "") {
			t.Errorf("%s = %s: %q, fix %q", c.field, c.text, wrong, fix)
		}
	}
	for _, f := range settings.Fields(reflect.TypeFor[limits]()) {
		v := reflect.New(f.Type).Elem()
		if err := f.Set(v, []string{"NaN"}); err == nil {
			if wrong, _ := f.Check(v); wrong == "" {
				t.Errorf("%s = NaN is good", f.Name)
			}
		}
	}
}
