package auth_test

import (
	"reflect"
	"testing"

	"imgo/internal/settings"
	"imgo/roles/logic/auth"
)

// TestModes states what each mode needs. It fails for a mode that nobody has thought of.
func TestModes(t *testing.T) {
	type needs struct{ believes, tokens, handshake bool }
	want := map[string]needs{
		auth.ModeToken:   {tokens: true},
		auth.ModeNone:    {believes: true},
		auth.ModeWebhook: {handshake: true},
	}
	for _, field := range settings.Fields(reflect.TypeFor[auth.Config]()) {
		if field.Name != "mode" {
			continue
		}
		if len(field.Choices) != len(want) {
			t.Errorf("the modes are %v, %d are known here", field.Choices, len(want))
		}
		for _, mode := range field.Choices {
			cfg := auth.Config{Mode: mode}
			got := needs{cfg.BelievesClients(), cfg.NeedsTokens(), cfg.NeedsHandshake()}
			if w, ok := want[mode]; !ok || got != w {
				t.Errorf("%s: %+v, want %+v", mode, got, w)
			}
		}
	}
}
