//go:build linux && (amd64 || arm64)

package powercut

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const sector = 512 // bytes

// disk is a recording. Its events are numbered from 0.
type disk struct {
	files   map[string]*file // by identity
	dirs    []dirState       // one for each event
	marks   []mark
	answers []answer
}

// dirState is what a directory has at an event.
type dirState map[string]entry

type entry struct {
	file *file
	size int64
}

// file is what became of a file.
type file struct {
	mapped  bool        // it is written through a mapping, and extended beforehand
	sectors [][]version // of each sector, oldest first
	last    []byte      // its contents at the newest event
	changed []int       // events at which its names or its size changed
}

// version is what a sector has had since an event.
type version struct {
	event int
	data  []byte
}

// mark says that what a file, or the directory (nil), had at an event was durable at
// a later one.
type mark struct {
	file        *file
	began, done int
}

// answer is a line that the child wrote after it had made something durable.
type answer struct {
	event int
	line  string
}

func (d *disk) begin() { d.dirs = append(d.dirs, dirState{}) }

// saw notes a file at the event that has begun.
func (d *disk) saw(name, id string, from io.Reader) {
	event := len(d.dirs) - 1
	b, err := io.ReadAll(from)
	if err != nil {
		return
	}
	f := d.files[id]
	if f == nil {
		f = &file{mapped: slices.Contains([]string{".mem", ".vlog", ".sst"}, filepath.Ext(name))}
		d.files[id] = f
	}
	for at := 0; at < len(b); at += sector {
		i, now := at/sector, b[at:min(at+sector, len(b))]
		if i == len(f.sectors) {
			f.sectors = append(f.sectors, nil)
		} else if at < len(f.last) && bytes.Equal(now, f.last[at:min(at+sector, len(f.last))]) {
			continue
		}
		if len(f.sectors[i]) > 0 || !allZero(now) {
			f.sectors[i] = append(f.sectors[i], version{event, now})
		}
	}
	f.last = b
	d.dirs[event][name] = entry{f, int64(len(b))}
}

// end ends the event and returns its number.
func (d *disk) end() int {
	event := len(d.dirs) - 1
	var before dirState
	if event > 0 {
		before = d.dirs[event-1]
	}
	for name, e := range d.dirs[event] {
		if before[name] != e {
			e.file.changed = append(e.file.changed, event)
		}
	}
	return event
}

// byName returns the file that has a name now.
func (d *disk) byName(name string) *file { return d.dirs[len(d.dirs)-1][name].file }

func (d *disk) synced(f *file, began, done int) { d.marks = append(d.marks, mark{f, began, done}) }

// allDurable makes everything durable that is there now: the files with which a recording begins.
func (d *disk) allDurable() {
	event := len(d.dirs) - 1
	d.synced(nil, event, event)
	for _, e := range d.dirs[event] {
		d.synced(e.file, event, event)
	}
}

// durable returns the event whose contents of a file are durable at a cut; -1: none.
func (d *disk) durable(f *file, cut int) int {
	newest := -1
	for _, m := range d.marks {
		if m.file == f && m.done <= cut {
			newest = max(newest, m.began)
		}
	}
	return newest
}

// durableDir returns the event whose directory is durable at a cut.
func (d *disk) durableDir(cut int) int {
	newest := 0
	for _, m := range d.marks {
		switch {
		case m.done > cut:
		case m.file == nil:
			newest = max(newest, m.began)
		default:
			for _, event := range m.file.changed {
				if event <= m.began {
					newest = max(newest, event)
				}
			}
		}
	}
	return newest
}

// at returns what the sector of a file had at an event; nil: zeros.
func (f *file) at(i, event int) []byte {
	var data []byte
	for _, v := range f.sectors[i] {
		if v.event <= event {
			data = v.data
		}
	}
	return data
}

// choice says how the contents of unsynced sectors are chosen.
type choice int

const (
	oldest choice = iota
	newest
	each     // each sector for itself
	mostNew  // a few sectors are old
	mostOld  // a few sectors are new
	nChoices // their number
)

func (c choice) pick(rng *rand.Rand, n int) int {
	switch {
	case c == oldest, c == mostOld && rng.IntN(8) > 0:
		return 0
	case c == newest, c == mostNew && rng.IntN(8) > 0:
		return n - 1
	}
	return rng.IntN(n)
}

// write makes the files that the disk may have after a cut, in a directory.
func (d *disk) write(t *testing.T, dir string, cut int, rng *rand.Rand) {
	t.Helper()
	from := d.durableDir(cut)
	moment := []int{from, cut, from + rng.IntN(cut-from+1)}[rng.IntN(3)]
	names := make([]string, 0, len(d.dirs[moment]))
	for name := range d.dirs[moment] {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed always makes the same files
	for _, name := range names {
		e := d.dirs[moment][name]
		out, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		err = out.Truncate(e.size)
		durable, how := d.durable(e.file, cut), choice(rng.IntN(int(nChoices)))
		extended := int64(0) // from here on the file was extended since it was durable
		if durable >= 0 {
			for _, at := range d.dirs[durable] {
				if at.file == e.file {
					extended = at.size / sector * sector
				}
			}
		}
		for i := range e.file.sectors {
			at := int64(i) * sector
			if at >= e.size {
				break
			}
			since := durable
			if !e.file.mapped && at >= extended {
				since = max(since, moment)
			}
			states := [][]byte{e.file.at(i, since)}
			for _, v := range e.file.sectors[i] {
				if v.event > since && v.event <= cut {
					states = append(states, v.data)
				}
			}
			data := states[how.pick(rng, len(states))]
			data = data[:min(int64(len(data)), e.size-at)]
			if _, werr := out.WriteAt(data, at); werr != nil {
				err = errors.Join(err, werr)
			}
		}
		if err := errors.Join(err, out.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
