//go:build linux && (amd64 || arm64)

package powercut

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"imgo/envelope"
	"imgo/roles/logic/tokenlog"
	"imgo/store"
)

const (
	partitions    = 3
	users         = 5
	memTableBytes = 128 << 10

	// childEnv makes the test binary a child that works; noSeccomp begins its excuse.
	childEnv  = "IMGO_POWERCUT_CHILD"
	noSeccomp = "system calls cannot be filtered here: "
)

// never is a time at which nothing of a recording has expired.
var never = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// work is what a child does.
type work struct {
	Dir   string
	First int // number of the first value; no two children write the same
	Steps int
	Seed  uint64
	Close bool // close the store at the end; else the child ends as if it was killed
}

func TestMain(m *testing.M) {
	env := os.Getenv(childEnv)
	if env == "" {
		goleak.VerifyTestMain(m)
		return
	}
	var w work
	err := json.Unmarshal([]byte(env), &w)
	if err == nil {
		if err := stopAtSyscalls(); err != nil {
			fmt.Print(noSeccomp, err)
			return
		}
		err = w.run()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func options(dir string) store.Options {
	return store.Options{
		Dir: dir, Log: zerolog.Nop(),
		Faults: store.Faults{MemTableBytes: memTableBytes, DiskInterval: 20 * time.Millisecond, GCInterval: 50 * time.Millisecond},
	}
}

// say writes an answer where the recorder reads it.
func say(format string, args ...any) error {
	_, err := unix.Write(answerFD, fmt.Appendf(nil, format+"\n", args...))
	return err
}

// run works on the store: one goroutine appends and writes mailboxes, another one puts and
// revokes tokens.
func (w work) run() error {
	db, err := store.Open(options(w.Dir))
	if err != nil {
		return err
	}
	l, err := store.OpenLog(db, store.LogOptions{Partitions: partitions})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var background, callers sync.WaitGroup
	var runErr, dbErr, tokenErr error
	background.Go(func() { runErr = l.Run(ctx) })
	background.Go(func() { dbErr = db.Run(ctx) })
	callers.Go(func() { tokenErr = w.tokens(ctx, db) })
	err = w.records(ctx, db, l)
	callers.Wait()
	if err = errors.Join(err, tokenErr); err != nil || !w.Close {
		return err // without closing anything
	}
	err = l.Close()
	cancel()
	background.Wait()
	return errors.Join(err, runErr, dbErr, db.Close())
}

func (w work) records(ctx context.Context, db *store.DB, l *store.Log) error {
	rng := rand.New(rand.NewPCG(w.Seed, 1))
	boxes := store.NewMailboxes(db)
	position, _, _, err := boxes.Position(0)
	if err != nil {
		return err
	}
	for i := w.First; i < w.First+w.Steps; i++ {
		do := rng.IntN(8)
		if i%200 > 100 {
			do = 7 // a quiet hour: mailboxes are written, and nothing is synced
		}
		switch do {
		case 0:
			entries := make([]envelope.Entry, 1+rng.IntN(5))
			for j := range entries {
				entries[j] = envelope.Entry{Partition: int32(rng.IntN(partitions)), Value: value(i)}
			}
			if err := l.AppendMany(ctx, entries); err != nil {
				return err
			}
			for _, e := range entries {
				if err := say("a %d %d %d %d", e.Partition, e.Offset, i, position); err != nil {
					return err
				}
			}
		case 1, 2, 3:
			p := int32(rng.IntN(partitions))
			offset, err := l.Append(ctx, p, value(i))
			if err == nil {
				err = say("a %d %d %d %d", p, offset, i, position)
			}
			if err != nil {
				return err
			}
		default:
			if err := commitBatch(boxes, position+1); err != nil {
				return err
			}
			position++
		}
	}
	return nil
}

// tokensOf returns the tokens in a store.
func tokensOf(db *store.DB) *tokenlog.Tokens {
	return tokenlog.NewAlone(tokenlog.DefaultConfig(), store.NewTokens(db), zerolog.Nop())
}

func (w work) tokens(ctx context.Context, db *store.DB) error {
	tokens := tokensOf(db)
	for i := w.First; i < w.First+w.Steps/8; i++ {
		hash := sha256.Sum256(fmt.Append(nil, i))
		if err := tokens.Put(ctx, hash, envelope.Token{User: fmt.Sprint("user-", i), CreatedMS: 1}, false); err != nil {
			return err
		}
		if err := say("t %d", i); err != nil {
			return err
		}
	}
	return nil
}

// value returns the value with a number.
func value(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 2))
	b := fmt.Appendf(nil, "value %d ", i)
	for range rng.IntN(1500) {
		b = append(b, byte('a'+rng.IntN(26)))
	}
	return b
}

// commitBatch writes the changes of the mailboxes that lead to a position: a message for
// one user, and an older one of the same user is acknowledged.
func commitBatch(boxes *store.Mailboxes, position uint64) error {
	b := boxes.Batch(0)
	user := userAt(position)
	b.PutMeta(user, &store.MailboxMeta{LastMS: int64(position)}, never)
	e := entryAt(position)
	b.PutEntry(user, e)
	b.PutBody(user, e, store.MailboxBody{Op: 5, Body: value(int(position))})
	if old, ok := acked(position); ok {
		b.Delete(user, entryAt(old))
	}
	return b.Commit(position)
}

func userAt(position uint64) string { return fmt.Sprint("user-", position%users) }

// acked returns the message that the batch of a position acknowledges.
func acked(position uint64) (old uint64, ok bool) {
	return position - 3*users, position > 3*users && position%2 == 0
}

func entryAt(id uint64) *store.MailboxEntry {
	return &store.MailboxEntry{ID: id, TimeMS: int64(id), ExpiresMS: never.UnixMilli(), Waiting: 1, Size: int32(len(value(int(id))))}
}

// pendingAt returns the ids of the messages that a user has at a position.
func pendingAt(position uint64, user string) (ids []uint64) {
	gone := map[uint64]bool{}
	for p := uint64(1); p <= position; p++ {
		if old, ok := acked(p); ok {
			gone[old] = true
		}
	}
	for p := uint64(1); p <= position; p++ {
		if userAt(p) == user && !gone[p] {
			ids = append(ids, p)
		}
	}
	return ids
}
