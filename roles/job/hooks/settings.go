package hooks

import (
	"errors"
	"fmt"
	"strings"

	"imgo/internal/events"
	"imgo/internal/settings"
	"imgo/internal/webhook"
)

// Settings is the setting [[hooks]].
type Settings struct {
	Hooks []Config `toml:"hooks" secret:"true" unit:"name:secret:url, comma-separated, as a flag or in the environment" doc:"Where events are posted: signed, in the order of each user, at least once. Every node that runs job or logic needs the\nsame hooks. Which events there are: see [events] and the report of a push."`
}

// UnmarshalText reads "name:secret:url", as a flag or the environment gives it.
func (c *Config) UnmarshalText(text []byte) error {
	parts := strings.SplitN(string(text), ":", 3)
	if len(parts) != 3 {
		// The value has a secret: it is not repeated.
		return errors.New("is not a hook: write name:secret:url, such as orders:whsec_…:https://backend.example.com/imgo")
	}
	*c = settings.Default[Config]()
	c.Name, c.Secrets, c.URL = parts[0], []string{parts[1]}, parts[2]
	return nil
}

// maxName is the length of the longest name, in bytes.
const maxName = 64

// Check calls refuse for each hook that cannot be used, with what is wrong and the fix.
func (s *Settings) Check(refuse func(wrong, fix string)) {
	seen := make(map[string]bool)
	for i, c := range s.Hooks {
		refuse := func(wrong, fix string) { refuse(fmt.Sprintf("table %d: %s", i+1, wrong), fix) }
		outside := func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
		}
		switch {
		case c.Name == "" || len(c.Name) > maxName || strings.ContainsFunc(c.Name, outside):
			refuse(fmt.Sprintf("the name is %q", c.Name), fmt.Sprintf("use 1 to %d of the letters a-z A-Z 0-9 . _ -", maxName))
		case seen[c.Name]:
			refuse(fmt.Sprintf("the name %q is that of an earlier hook", c.Name), "give each hook a name of its own")
		}
		seen[c.Name] = true
		webhook.Check(c.URL, c.Secrets, refuse)
		if err := events.CheckTypes("types", c.Types); err != nil {
			refuse(err.Error(), "choose from the types of events, or leave types out")
		}
	}
}
