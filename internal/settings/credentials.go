package settings

import (
	"net/url"
	"strings"
)

// Hidden stands in place of a part of a value that may be a secret.
const Hidden = "(secret)"

// HideCredentials returns text without the user, the password and the values of the query
// of a web address. Text that is no web address is returned unchanged.
func HideCredentials(text string) string {
	scheme, _, isURL := strings.Cut(text, "://")
	if !isURL {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return scheme + "://" + Hidden // where a credential ends is not known
	}
	if u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		return text
	}
	shown := u.Scheme + "://"
	if u.User != nil {
		shown += Hidden + "@"
	}
	shown += u.Host + u.EscapedPath()
	mark := "?"
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if name, _, ok := strings.Cut(pair, "="); ok {
			shown += mark + name + "=" + Hidden
			mark = "&"
		} else if pair != "" {
			shown += mark + Hidden
			mark = "&"
		}
	}
	return shown
}
