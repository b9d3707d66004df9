package plot_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"imgo/bench/plot"
)

// wellFormed fails the test unless the picture is valid XML with the expected texts.
func wellFormed(t *testing.T, svg []byte) (texts []string) {
	t.Helper()
	inText := false
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return texts
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		switch e := token.(type) {
		case xml.StartElement:
			inText = e.Name.Local == "text"
		case xml.CharData:
			if inText {
				texts = append(texts, string(e))
			}
		case xml.EndElement:
			inText = false
		}
	}
}

func TestPictures(t *testing.T) {
	hostile := `<script>&"'` + "\x00\xff"
	lines := []plot.Line{
		{Label: hostile, X: []float64{0, 1, 2}, Y: []float64{0, 10, math.NaN()}},
		{Label: "longer", X: []float64{1, math.Inf(1), 3}, Y: []float64{5}},
		{Label: "none"},
	}
	for name, draw := range map[string]func() []byte{
		"lines":    func() []byte { return plot.Lines(hostile, "note", "s", "MiB", lines) },
		"no lines": func() []byte { return plot.Lines("empty", "", "", "", nil) },
		"large": func() []byte {
			return plot.Lines("large", "", "", "", []plot.Line{{X: []float64{1e9, 2e9}, Y: []float64{1e-9, 5e-9}}})
		},
		"bars": func() []byte {
			return plot.Bars(hostile, "note", 1,
				[]plot.Bar{{Label: hostile, Value: 0.5}, {Value: math.NaN()}, {Label: "far", Value: 1000, Good: true, Text: "≥ 1"}})
		},
		"no bars": func() []byte { return plot.Bars("empty", "", 1, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			svg := draw()
			wellFormed(t, svg)
			if !bytes.Equal(svg, draw()) {
				t.Error("the same input makes other bytes")
			}
			for _, bad := range []string{"NaN", "Inf", "<script"} {
				if strings.Contains(string(svg), bad) {
					t.Errorf("it has %s", bad)
				}
			}
		})
	}
	texts := fmt.Sprint(wellFormed(t,
		plot.Lines("title", "note", "s", "MiB", []plot.Line{{Label: "memory", X: []float64{0, 7}, Y: []float64{0, 23_000}}})))
	for _, want := range []string{"title", "note", "s", "MiB", "memory", "25 k", "7"} {
		if !strings.Contains(texts, want) {
			t.Errorf("no %q among %s", want, texts)
		}
	}
}
