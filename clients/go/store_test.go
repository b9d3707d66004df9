package imgoclient_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

func add(t *testing.T, s *imgoclient.FileStore, ids ...uint64) {
	t.Helper()
	if err := s.Add(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
}

func loaded(t *testing.T, path string, remember int) []uint64 {
	t.Helper()
	ids, err := imgoclient.NewFileStore(path, remember).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestFileStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids")
	if ids := loaded(t, path, 0); len(ids) != 0 {
		t.Errorf("a missing file has %d", ids)
	}
	s := imgoclient.NewFileStore(path, 0)
	add(t, s, 3, 1<<64-1)
	add(t, s, 1)
	if ids := loaded(t, path, 0); !slices.Equal(ids, []uint64{3, 1<<64 - 1, 1}) {
		t.Errorf("the file has %d", ids)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	// A store without Load first keeps what is there.
	add(t, imgoclient.NewFileStore(path, 0), 9)
	if ids := loaded(t, path, 0); len(ids) != 4 || ids[3] != 9 {
		t.Errorf("the file has %d", ids)
	}
	missing := imgoclient.NewFileStore(filepath.Join(t.TempDir(), "no", "folder"), 0)
	if err := missing.Add(t.Context(), []uint64{1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
}

// TestFileStoreAfterACrash cuts a file at every byte. The whole lines stay, and later ids are not mixed with the rest.
func TestFileStoreAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids")
	const text = "12\n345\n6789\n"
	for cut := range len(text) + 1 {
		if err := os.WriteFile(path, []byte(text[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		whole := strings.Count(text[:cut], "\n")
		want := []uint64{12, 345, 6789}[:whole]
		if ids := loaded(t, path, 0); !slices.Equal(ids, want) {
			t.Fatalf("cut at %d: %d", cut, ids)
		}
		add(t, imgoclient.NewFileStore(path, 0), 5)
		if ids := loaded(t, path, 0); !slices.Equal(ids, append(slices.Clone(want), 5)) {
			t.Fatalf("cut at %d, then 5: %d", cut, ids)
		}
	}
	// A file system may leave zeros at the end.
	if err := os.WriteFile(path, []byte("12\n\x00\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ids := loaded(t, path, 0); !slices.Equal(ids, []uint64{12}) {
		t.Errorf("with zeros at the end: %d", ids)
	}
	if err := os.WriteFile(path, []byte("12\nx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := imgoclient.NewFileStore(path, 0).Load(t.Context()); err == nil || !strings.Contains(err.Error(), path+":2") {
		t.Errorf("a line that is no id: %v", err)
	}
}

func TestFileStoreIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids")
	s := imgoclient.NewFileStore(path, 10)
	for id := range uint64(105) {
		add(t, s, id+1)
		ids := loaded(t, path, 10)
		if len(ids) > 20 || !slices.Equal(ids[max(len(ids)-10, 0):], upTo(id+1, 10)) {
			t.Fatalf("after %d the file has %d", id+1, ids)
		}
	}
	add(t, s, upTo(500, 50)...)
	if ids := loaded(t, path, 10); !slices.Equal(ids, upTo(500, 10)) {
		t.Errorf("after many at once the file has %d", ids)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("the folder has %v, %v", names, err)
	}
}

// upTo returns the n ids up to last, or fewer if it begins at 1.
func upTo(last uint64, n int) (ids []uint64) {
	for id := last; id > 0 && len(ids) < n; id-- {
		ids = append(ids, id)
	}
	slices.Reverse(ids)
	return ids
}

// TestStoreAcrossRestarts checks that a new process does not handle again what the old one has handled, although the old one
// acknowledged nothing.
func TestStoreAcrossRestarts(t *testing.T) {
	s := newServer(t, "tcp")
	path := filepath.Join(t.TempDir(), "ids")
	withStore := func(cfg *imgoclient.Config) { cfg.Store = imgoclient.NewFileStore(path, 0) }
	r := start(t, s, withStore)
	p := s.welcome()
	p.push(1, 2)
	r.expect(1, 2)
	p.close() // the acknowledgements are lost, or on their way
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if ids := loaded(t, path, 0); !slices.Equal(ids, []uint64{1, 2}) {
		t.Fatalf("the store has %d", ids)
	}
	r = start(t, s, withStore)
	p = s.welcome()
	p.push(1, 2, 3)
	r.expect(3)
	p.expectAcks(3)
	r.nothing()
	r.stop()
}

// failingStore fails until it is told to work.
type failingStore struct {
	works, loads   atomic.Bool
	adds, attempts atomic.Int32
}

func (s *failingStore) Load(context.Context) ([]uint64, error) {
	s.attempts.Add(1)
	if !s.loads.Load() {
		return nil, errors.New("the disk is away")
	}
	return []uint64{7}, nil
}

func (s *failingStore) Add(context.Context, []uint64) error {
	if s.adds.Add(1); !s.works.Load() {
		return errors.New("the disk is full")
	}
	return nil
}

// TestStoreThatFails checks that nothing is acknowledged before it is saved, and that the client tries again without new messages.
func TestStoreThatFails(t *testing.T) {
	s := newServer(t, "tcp")
	store := &failingStore{}
	problems := make(chan *imgoclient.Error, 100)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.Store, cfg.MaxBackoff = store, 20*time.Millisecond
		cfg.OnError = func(err *imgoclient.Error) {
			select {
			case problems <- err:
			default:
			}
		}
	})
	if err := <-r.lost; !errors.Is(err, imgoclient.ErrStorage) || !strings.Contains(err.Error(), "the disk is away") {
		t.Errorf("lost: %v", err)
	}
	store.loads.Store(true)
	p := s.welcome()
	p.push(7, 8)
	r.expect(8) // 7 is in the store
	if ids := p.expectAcks(1); !slices.Equal(ids, []uint64{7}) {
		t.Errorf("acknowledged %d", ids)
	}
	for store.adds.Load() < 3 {
		if err := <-problems; err.Code != imgoclient.CodeStorage {
			t.Errorf("%v", err)
		}
	}
	answer := make(chan error, 1)
	go func() { answer <- r.Join(context.Background(), "room") }()
	join := p.expect(raw.OpJoinRoom) // and no acknowledgement before it
	p.send(raw.OpJoinRoomReply, join.Seq, 0, "")
	if err := <-answer; err != nil {
		t.Error(err)
	}
	store.works.Store(true)
	if ids := p.expectAcks(1); !slices.Equal(ids, []uint64{8}) {
		t.Errorf("acknowledged %d", ids)
	}
	r.stop()
}

// TestManyHandledIDs handles more messages than Remember. The bounds hold, and everything is acknowledged.
func TestManyHandledIDs(t *testing.T) {
	s := newServer(t, "tcp")
	path := filepath.Join(t.TempDir(), "ids")
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.Remember, cfg.Store = 50, imgoclient.NewFileStore(path, 50)
		cfg.OnMessage = func(context.Context, imgoclient.Message) error { return nil }
	})
	p := s.welcome()
	go func() {
		for id := uint64(1); id <= 1000; id += 20 {
			var batch []byte
			for k := id; k < id+20; k++ {
				batch = raw.AppendPacket(batch, raw.Packet{Op: raw.OpMessage, ID: k, Body: fmt.Append(nil, k)})
			}
			if err := p.write(batch); err != nil {
				t.Errorf("push: %v", err)
			}
		}
	}()
	last := uint64(0)
	for last < 1000 {
		for _, id := range p.expectAcks(1) {
			last = max(last, id)
		}
	}
	r.stop()
	if ids := loaded(t, path, 50); len(ids) > 100 || ids[len(ids)-1] != 1000 {
		t.Errorf("the store has %d", ids)
	}
}
