package jsonquote_test

import (
	"encoding/json"
	"testing"

	"imgo/internal/jsonquote"
)

func TestAppend(t *testing.T) {
	texts := []string{"", "plain text", "größe", "\xff bad", "\u2028", "\U0001F600"}
	for c := range 256 {
		texts = append(texts, "a"+string([]byte{byte(c)})+"b")
	}
	for _, text := range texts {
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := jsonquote.Append([]byte("x"), text); string(got) != "x"+string(want) {
			t.Errorf("%q is written as %s, want x%s", text, got, want)
		}
	}
}
