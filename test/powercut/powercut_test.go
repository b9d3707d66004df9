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
	"slices"
	"strconv"
	"testing"

	"imgo/envelope"
	"imgo/store"
)

// pointsEnv says how many cuts are tried.
const pointsEnv = "POWERCUT_POINTS"

// TestPowerCut records several lives of a data directory and cuts the power at many points of
// them.
func TestPowerCut(t *testing.T) {
	points, steps := 48, 300
	if s := os.Getenv(pointsEnv); s != "" {
		var err error
		if points, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		steps = 600
	}
	const recordings = 4
	rng := rand.New(rand.NewPCG(uint64(points), 3))
	var world state
	dir := t.TempDir()
	first, refused, lost := 1, 0, 0
	for recording := range recordings {
		r := &recorder{t: t, dir: dir, disk: &disk{files: map[string]*file{}}}
		r.snapshot()
		r.disk.allDurable()
		// A life that is killed, one that is closed, and one that is killed.
		for life := range 3 {
			w := work{Dir: dir, First: first, Steps: steps / 3, Seed: uint64(first), Close: life == 1}
			first += w.Steps
			env, err := json.Marshal(w)
			if err != nil {
				t.Fatal(err)
			}
			r.record(childEnv + "=" + string(env))
		}
		d := r.disk
		t.Logf("recording %d: %d events, %d syncs, %d files, %d answers", recording, len(d.dirs), len(d.marks), len(d.files), len(d.answers))
		if len(d.marks) < steps/2 || len(d.answers) < steps/8 {
			t.Fatal("that is too little to be a recording")
		}
		next, nextWorld := "", world
		for point := range points / recordings {
			cut, seed := rng.IntN(len(d.dirs)), rng.Uint64()
			after := world.after(d.answers, cut)
			data := t.TempDir()
			d.write(t, data, cut, rand.New(rand.NewPCG(seed, 4)))
			err := after.check(data)
			if errors.Is(err, errRefused) {
				refused++
			} else if err != nil {
				lost++
			}
			if err != nil {
				t.Errorf("recording %d, cut at event %d of %d, seed %d: %v", recording, cut, len(d.dirs), seed, err)
			}
			if err := os.RemoveAll(data); err != nil {
				t.Fatal(err)
			}
			if point == 0 { // the next recording begins with the files that this cut leaves
				next, nextWorld = t.TempDir(), after
				d.write(t, next, cut, rand.New(rand.NewPCG(seed, 4)))
			}
		}
		dir, world = next, nextWorld
	}
	t.Logf("%d power cuts: %d refusals to start, %d lost something", points, refused, lost)
}

var errRefused = errors.New("the store refuses to open")

// state is what a directory must have: the records and tokens that were answered, and the
// position of the mailboxes.
type state struct {
	records  map[place]int // the number of the value
	tokens   []int
	position uint64
}

type place struct {
	partition int32
	offset    int64
}

// after returns the state after the answers up to an event.
func (s state) after(answers []answer, event int) state {
	n := state{records: map[place]int{}, tokens: slices.Clone(s.tokens), position: s.position}
	for at, i := range s.records {
		n.records[at] = i
	}
	for _, a := range answers {
		if a.event > event {
			break
		}
		var at place
		var i int
		var position uint64
		if _, err := fmt.Sscanf(a.line, "a %d %d %d %d", &at.partition, &at.offset, &i, &position); err == nil {
			n.records[at], n.position = i, max(n.position, position)
		} else if _, err := fmt.Sscanf(a.line, "t %d", &i); err == nil {
			n.tokens = append(n.tokens, i)
		}
	}
	return n
}

// check opens a directory twice, with another record between, and compares it with the
// state.
func (s state) check(dir string) error {
	var at place
	for round := range 2 {
		err := s.open(dir, func(db *store.DB, l *store.Log) error {
			if err := s.compare(db, l); err != nil || round > 0 {
				return err
			}
			offset, err := l.Append(context.Background(), 0, value(0))
			at = place{0, offset}
			return err
		})
		if err != nil {
			return fmt.Errorf("opened for time %d: %w", round+1, err)
		}
		s = s.after(nil, 0)
		s.records[at] = 0
	}
	return nil
}

func (s state) open(dir string, use func(*store.DB, *store.Log) error) error {
	db, err := store.Open(options(dir))
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	l, err := store.OpenLog(db, store.LogOptions{Partitions: partitions})
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, errors.Join(err, db.Close()))
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	err = use(db, l)
	return errors.Join(err, l.Close(), <-done, db.Close())
}

func (s state) compare(db *store.DB, l *store.Log) error {
	ctx := context.Background()
	found := map[place][]byte{}
	for p := range int32(partitions) {
		begin, end, err := l.Bounds(ctx, p)
		if err != nil {
			return err
		}
		for begin < end {
			var entries []envelope.Entry
			if entries, err = l.Read(ctx, p, begin, 1<<20); err != nil {
				return err
			}
			for _, e := range entries {
				found[place{p, e.Offset}] = e.Value
			}
			begin += int64(len(entries))
		}
	}
	for at, i := range s.records {
		if string(found[at]) != string(value(i)) {
			return fmt.Errorf("partition %d offset %d: %.20q instead of value %d", at.partition, at.offset, found[at], i)
		}
	}
	tokens := tokensOf(db)
	for _, i := range s.tokens {
		if token, err := tokens.Lookup(ctx, sha256.Sum256(fmt.Append(nil, i))); err != nil || token.User != fmt.Sprint("user-", i) {
			return fmt.Errorf("token %d is that of %q: %w", i, token.User, err)
		}
	}
	boxes := store.NewMailboxes(db)
	position, _, _, err := boxes.Position(0)
	if err != nil {
		return err
	}
	if position < s.position {
		return fmt.Errorf("the mailboxes are at position %d, and were durable at %d", position, s.position)
	}
	for u := range uint64(users) {
		user := userAt(u)
		_, entries, err := boxes.Load(0, user)
		if err != nil {
			return err
		}
		var ids []uint64
		for _, e := range entries {
			ids = append(ids, e.ID)
		}
		if want := pendingAt(position, user); !slices.Equal(ids, want) {
			return fmt.Errorf("at position %d the mailbox of %s has %v; want %v", position, user, ids, want)
		}
		bodies, err := boxes.Bodies(0, user, entries)
		if err != nil {
			return err
		}
		for _, b := range bodies {
			if string(b.Body) != string(value(int(b.Id))) {
				return fmt.Errorf("the mailbox of %s has the body %.20q for message %d", user, b.Body, b.Id)
			}
		}
	}
	return nil
}
