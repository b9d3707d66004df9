package settings_test

import (
	"testing"

	"imgo/internal/settings"
)

func TestHideCredentials(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		"127.0.0.1:8080":                "127.0.0.1:8080",
		"https://idp.example/keys":      "https://idp.example/keys",
		"https://u:hush@idp.example/k":  "https://(secret)@idp.example/k",
		"https://hush@idp.example":      "https://(secret)@idp.example",
		"https://idp.example/?key=hush": "https://idp.example/?key=(secret)",
		"https://idp.example?a=hush&b=hush&hush#hush": "https://idp.example?a=(secret)&b=(secret)&(secret)",
		"https://u:hu%zzsh@idp.example":               "https://(secret)",
	} {
		if got := settings.HideCredentials(text); got != want {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
	}
}
