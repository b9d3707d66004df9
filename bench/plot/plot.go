// Package plot draws two kinds of pictures as SVG: lines over numbers, and bars. The
// same input gives the same bytes. It escapes every text and leaves out values that
// are not finite. The pictures contain no styles, scripts or fonts.
package plot

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
)

const (
	width, height = 760, 400
	left, right   = 80, 20
	top, bottom   = 60, 70
	barHeight     = 22
	labelWidth    = 380
)

// colours can also be distinguished by readers with red-green blindness.
var colours = [...]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"}

// Line is one line. X and Y have the same length.
type Line struct {
	Label string
	X, Y  []float64
}

// Bar is one bar.
type Bar struct {
	Label string
	Value float64
	// Text is written beside the value.
	Text string
	// Good selects the colour of the bar.
	Good bool
}

// canvas is a buffer for SVG.
type canvas struct{ bytes.Buffer }

func open(w, h int, title, note string) *canvas {
	c := &canvas{}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" `+
		`font-size="12">`+"\n", w, h, w, h)
	fmt.Fprintf(c, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", w, h)
	c.text(15, 22, "start", 15, title)
	c.text(15, 40, "start", 11, note)
	return c
}

func (c *canvas) close() []byte {
	c.WriteString("</svg>\n")
	return c.Bytes()
}

func (c *canvas) text(x, y float64, anchor string, size int, s string) {
	fmt.Fprintf(c, `<text x="%s" y="%s" text-anchor="%s" font-size="%d" fill="#222222">`, num(x), num(y), anchor, size)
	_ = xml.EscapeText(c, []byte(s)) // a buffer never returns an error
	c.WriteString("</text>\n")
}

func (c *canvas) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(c, `<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="%s"/>`+"\n", num(x1), num(y1), num(x2), num(y2), colour)
}

// num returns a coordinate as text, with at most one decimal.
func num(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// label returns the text of a number on an axis.
func label(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + " M"
	case a >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + " k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// step returns a round number that divides span into about n parts.
func step(span float64, n int) float64 {
	raw := span / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= raw {
			return m * power
		}
	}
	return 10 * power
}

// Lines draws lines on axes that begin at 0.
func Lines(title, note, xUnit, yUnit string, lines []Line) []byte {
	c := open(width, height, title, note)
	maxX, maxY := 0.0, 0.0
	for _, l := range lines {
		for i := range min(len(l.X), len(l.Y)) {
			if finite(l.X[i]) && finite(l.Y[i]) {
				maxX, maxY = max(maxX, l.X[i]), max(maxY, l.Y[i])
			}
		}
	}
	if maxX == 0 {
		maxX = 1
	}
	if maxY == 0 {
		maxY = 1
	}
	stepX, stepY := step(maxX, 8), step(maxY, 6)
	endX, endY := math.Ceil(maxX/stepX)*stepX, math.Ceil(maxY/stepY)*stepY
	atX := func(v float64) float64 { return left + max(v, 0)/endX*(width-left-right) }
	atY := func(v float64) float64 { return height - bottom - max(v, 0)/endY*(height-top-bottom) }
	for i := 0; float64(i)*stepX <= endX*1.0001; i++ {
		v := float64(i) * stepX
		c.line(atX(v), top, atX(v), height-bottom, "#dddddd")
		c.text(atX(v), height-bottom+16, "middle", 11, label(v))
	}
	for i := 0; float64(i)*stepY <= endY*1.0001; i++ {
		v := float64(i) * stepY
		c.line(left, atY(v), width-right, atY(v), "#dddddd")
		c.text(left-6, atY(v)+4, "end", 11, label(v))
	}
	c.text(width-right, height-bottom+32, "end", 11, xUnit)
	c.text(left-6, top-8, "end", 11, yUnit)
	for i, l := range lines {
		colour := colours[i%len(colours)]
		fmt.Fprintf(c, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, colour)
		for j := range min(len(l.X), len(l.Y)) {
			if finite(l.X[j]) && finite(l.Y[j]) {
				fmt.Fprintf(c, "%s,%s ", num(atX(l.X[j])), num(atY(l.Y[j])))
			}
		}
		c.WriteString(`"/>` + "\n")
		x := left + float64(i%2)*330
		y := float64(height - bottom + 48 + 16*(i/2))
		c.line(x, y-4, x+18, y-4, colour)
		c.text(x+24, y, "start", 11, l.Label)
	}
	return c.close()
}

// Bars draws bars, one below the other, with a vertical line at mark. Bars longer than
// four marks are cut there.
func Bars(title, note string, mark float64, bars []Bar) []byte {
	h := top + barHeight*len(bars) + 20
	c := open(width+160, h, title, note)
	end := 4 * mark
	span := float64(width + 160 - labelWidth - 190)
	at := func(v float64) float64 { return labelWidth + min(max(v, 0), end)/end*span }
	for i, b := range bars {
		if !finite(b.Value) {
			continue
		}
		y := float64(top + barHeight*i)
		colour := colours[1]
		if b.Good {
			colour = colours[0]
		}
		c.text(labelWidth-8, y+14, "end", 12, b.Label)
		fmt.Fprintf(c, `<rect x="%d" y="%s" width="%s" height="%d" fill="%s"/>`+"\n", labelWidth, num(y+3), num(max(at(b.Value)-labelWidth, 1)),
			barHeight-6, colour)
		c.text(at(b.Value)+6, y+14, "start", 11, strconv.FormatFloat(b.Value, 'g', 3, 64)+"  ("+b.Text+")")
	}
	c.line(at(mark), top-4, at(mark), float64(h-16), "#222222")
	return c.close()
}
