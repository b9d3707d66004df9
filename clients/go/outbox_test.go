package imgoclient_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imgoclient "imgo/clients/go"
)

func content(t *testing.T, o imgoclient.Outbox) imgoclient.OutboxContent {
	t.Helper()
	c, err := o.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// want compares an outbox with a base (-1: none), the last number and messages as "number op body".
func want(t *testing.T, o imgoclient.Outbox, base int64, last uint64, messages ...string) {
	t.Helper()
	c := content(t, o)
	got := int64(-1)
	if c.Base != nil {
		got = int64(*c.Base)
	}
	var texts []string
	for _, m := range c.Messages {
		texts = append(texts, fmt.Sprintf("%d %d %s", m.Number, m.Op, m.Body))
	}
	if got != base || c.Last != last || fmt.Sprint(texts) != fmt.Sprint(messages) {
		t.Fatalf("the outbox has the base %d, the last number %d and %q; want %d, %d and %q", got, c.Last, texts, base, last, messages)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mail(number uint64, body string) imgoclient.OutboxMessage {
	return imgoclient.OutboxMessage{Number: number, Op: 4, Body: []byte(body)}
}

func TestOutboxes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox")
	memory := imgoclient.NewMemoryOutbox()
	for _, test := range []struct {
		name string
		open func() imgoclient.Outbox
	}{
		{"memory", func() imgoclient.Outbox { return memory }},
		{"file", func() imgoclient.Outbox { return imgoclient.NewFileOutbox(path) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, ctx := test.open(), t.Context()
			want(t, o, -1, 0)
			must(t, o.Add(ctx, mail(1, "")))
			must(t, o.Add(ctx, imgoclient.OutboxMessage{Number: 2, Op: 1 << 30, Body: []byte("a b\nc\x00")}))
			want(t, test.open(), -1, 2, "1 4 ", "2 1073741824 a b\nc\x00")
			must(t, o.SetBase(ctx, 1<<62))
			must(t, o.Remove(ctx, 1))
			want(t, test.open(), 1<<62, 2, "2 1073741824 a b\nc\x00")
			must(t, o.Add(ctx, mail(3, "c")))
			must(t, o.Remove(ctx, 3))
			want(t, test.open(), 1<<62, 3)
			// An outbox without Load first keeps what is there.
			must(t, test.open().Add(ctx, mail(4, "d")))
			want(t, test.open(), 1<<62, 4, "4 4 d")
		})
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	missing := imgoclient.NewFileOutbox(filepath.Join(t.TempDir(), "no", "folder"))
	if err := missing.Add(t.Context(), mail(1, "a")); err == nil {
		t.Error("an outbox in a missing folder takes a message")
	}
}

// TestFileOutboxAfterACrash cuts a file at every byte. The whole lines count, and later messages are not mixed with the rest.
func TestFileOutboxAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox")
	const text = "add 1 4 YQ==\nbase 10\nadd 2 1000 Yg==\nremove 1\nadd 3 4 \n"
	type state struct {
		base     int64
		last     uint64
		messages []string
	}
	states := []state{{-1, 0, nil}, {-1, 1, []string{"1 4 a"}}, {10, 1, []string{"1 4 a"}}, {10, 2, []string{"1 4 a", "2 1000 b"}},
		{10, 2, []string{"2 1000 b"}}, {10, 3, []string{"2 1000 b", "3 4 "}}}
	for cut := range len(text) + 1 {
		for _, rest := range []string{"", "\x00\x00\x00"} {
			must(t, os.WriteFile(path, []byte(text[:cut]+rest), 0o600))
			s := states[strings.Count(text[:cut], "\n")]
			want(t, imgoclient.NewFileOutbox(path), s.base, s.last, s.messages...)
			must(t, imgoclient.NewFileOutbox(path).Add(t.Context(), mail(s.last+1, "z")))
			messages := append(slices.Clone(s.messages), fmt.Sprintf("%d 4 z", s.last+1))
			want(t, imgoclient.NewFileOutbox(path), s.base, s.last+1, messages...)
		}
	}
	for _, bad := range []string{"x", "base", "base x", "base 1 2", "add 1 4", "add 1 4 *", "add 1 x YQ==", "add 1 4294967296 YQ==",
		"add 1 4 YQ== 5", "add 0 4 YQ==", "remove -1", "remove", "", "add 5 4 YQ==\nadd 5 4 YQ=="} {
		must(t, os.WriteFile(path, []byte("base 1\n"+bad+"\n"), 0o600))
		o := imgoclient.NewFileOutbox(path)
		if _, err := o.Load(t.Context()); err == nil || !strings.Contains(err.Error(), path+":") {
			t.Errorf("%q: %v", bad, err)
		}
		if err := o.Remove(t.Context(), 1); err == nil {
			t.Errorf("%q: the file is written", bad)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "base 1\n"+bad+"\n" {
			t.Errorf("%q: the file has changed to %q, %v", bad, b, err)
		}
	}
}

// TestFileOutboxIsBounded checks that the file is written anew, and that this loses nothing.
func TestFileOutboxIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox")
	o := imgoclient.NewFileOutbox(path)
	must(t, o.SetBase(t.Context(), 7))
	body := strings.Repeat("a", 3000)
	for n := range uint64(200) {
		must(t, o.Add(t.Context(), mail(n+1, body)))
		if n >= 5 { // five wait
			must(t, o.Remove(t.Context(), n-4))
		}
		if info, err := os.Stat(path); err != nil || info.Size() > 200_000 {
			t.Fatalf("after %d messages of 3 kB the file has %d bytes, %v", n+1, info.Size(), err)
		}
	}
	c := content(t, imgoclient.NewFileOutbox(path))
	if *c.Base != 7 || c.Last != 200 || len(c.Messages) != 5 || c.Messages[0].Number != 196 || string(c.Messages[4].Body) != body {
		t.Errorf("the file has the base %d, the last number %d, %d messages", *c.Base, c.Last, len(c.Messages))
	}
	must(t, o.Remove(t.Context(), 200))
	for n := range uint64(200) { // it is empty each time
		must(t, o.Add(t.Context(), mail(201+n, body)))
		must(t, o.Remove(t.Context(), 201+n))
	}
	want(t, imgoclient.NewFileOutbox(path), 7, 400)
	// The last call writes the file anew, and nothing waits.
	must(t, o.Add(t.Context(), mail(401, strings.Repeat("b", 200_000))))
	must(t, o.Remove(t.Context(), 401))
	if info, err := os.Stat(path); err != nil || info.Size() > 100 {
		t.Errorf("an empty outbox has %d bytes, %v", info.Size(), err)
	}
	want(t, imgoclient.NewFileOutbox(path), 7, 401)
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("the folder has %v, %v", names, err)
	}
}

// TestFileOutboxAfterAFailure checks that a message whose Add failed, and which is in the file nevertheless, does not stay
// when another one gets its number.
func TestFileOutboxAfterAFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox")
	must(t, os.WriteFile(path, []byte("base 1\nadd 1 4 YQ==\nadd 2 4 Yg==\n"), 0o600))
	o := imgoclient.NewFileOutbox(path)
	must(t, o.Add(t.Context(), mail(2, "c"))) // the client does not know of "b"
	want(t, imgoclient.NewFileOutbox(path), 1, 2, "1 4 a", "2 4 c")
	must(t, o.Add(t.Context(), mail(3, "d")))
	want(t, imgoclient.NewFileOutbox(path), 1, 3, "1 4 a", "2 4 c", "3 4 d")

	// A folder that cannot be written: the file keeps what it had.
	if os.Getuid() == 0 {
		return // nothing is forbidden to root
	}
	must(t, os.Chmod(path, 0o400))
	if err := o.Add(context.Background(), mail(4, "e")); err == nil {
		t.Error("a file that cannot be written takes a message")
	}
	must(t, os.Chmod(path, 0o600))
	want(t, imgoclient.NewFileOutbox(path), 1, 3, "1 4 a", "2 4 c", "3 4 d")
}

func FuzzFileOutbox(f *testing.F) {
	f.Add([]byte("add 1 4 YQ==\nbase 10\nadd 2 1000 Yg==\nremove 1\nadd 3 4 \nadd 4"))
	f.Add([]byte("base 18446744073709551615\nremove 18446744073709551615\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "outbox")
		must(t, os.WriteFile(path, data, 0o600))
		before, err := imgoclient.NewFileOutbox(path).Load(t.Context())
		if err != nil || before.Last == 1<<64-1 {
			return
		}
		o := imgoclient.NewFileOutbox(path)
		must(t, o.Add(t.Context(), mail(before.Last+1, "new")))
		after := content(t, imgoclient.NewFileOutbox(path))
		n := len(after.Messages)
		if n != len(before.Messages)+1 || after.Last != before.Last+1 || !bytes.Equal(after.Messages[n-1].Body, []byte("new")) {
			t.Errorf("after %+v: %+v", before, after)
		}
	})
}
