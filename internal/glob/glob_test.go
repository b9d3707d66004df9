package glob_test

import (
	"math/rand/v2"
	"path"
	"testing"

	"imgo/internal/glob"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"alice", "alice", true}, {"alice", "alicex", false}, {"alice", "Alice", false}, {"", "", true}, {"", "a", false},
		{"*", "", true}, {"*", "a/b", true}, {"shop-*", "shop-1", true}, {"shop-*", "shop-", true}, {"shop-*", "shop", false},
		{"private/*", "private/a/b", true}, {"*-x", "a-x", true}, {"*-x", "a-xy", false}, {"a*b*c", "abc", true},
		{"a*b*c", "aXbYbZc", true}, {"a*b*c", "acb", false}, {"a*a", "a", false}, {"a**b", "ab", true}, {"a**b", "axb", true},
		{"a?c", "abc", false}, {"[a]", "[a]", true}, {"*ab*ab", "ab", false}, {"*ab*ab", "xabab", true},
	} {
		if got := glob.Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q on %q: %v", tt.pattern, tt.name, got)
		}
	}
	if glob.Any(nil, "a") || !glob.Any([]string{"b*", "a*"}, "ab") {
		t.Error("Any does not try each pattern")
	}
}

// TestMatchIsTheUsualStar compares with path.Match, which has the same star for names without a slash.
func TestMatchIsTheUsualStar(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func(letters string, length int) string {
		b := make([]byte, random.IntN(length+1))
		for i := range b {
			b[i] = letters[random.IntN(len(letters))]
		}
		return string(b)
	}
	for range 20_000 {
		pattern, name := text("ab*", 7), text("ab", 9)
		want, err := path.Match(pattern, name)
		if err != nil {
			t.Fatal(err)
		}
		if got := glob.Match(pattern, name); got != want {
			t.Fatalf("%q on %q: %v, path.Match says %v", pattern, name, got, want)
		}
	}
}
