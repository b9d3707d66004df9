// Package jsonquote writes JSON strings.
package jsonquote

import (
	"encoding/json"
	"unicode/utf8"
)

// Append appends text to b as the JSON string that json.Marshal makes of it. Bytes that are not UTF-8 are replaced. A
// text without a character to escape costs no allocation beyond b's.
func Append(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(text) // a string has no error
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}
