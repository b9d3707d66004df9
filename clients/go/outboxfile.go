package imgoclient

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"sync"
)

// compactFrom is the number of bytes that are of no use any more in the file of a FileOutbox, from which it may
// be written anew.
const compactFrom = 64 << 10

// FileOutbox is an Outbox in a file. Its lines say what was done: "base 41", "add 1 4 aGVsbG8=" (number, operation,
// body in base64) and "remove 1". Each method appends a line and synchronises the file with the disk. The file is
// written anew when most of it, and at least 64 KiB, is about messages that were removed. No file is open between
// the calls. Two clients, also of two processes, must not use the same file at the same time.
type FileOutbox struct {
	mu      sync.Mutex
	file    lineFile
	content OutboxContent // of the file
}

// NewFileOutbox returns a FileOutbox. The folder of the file must exist.
func NewFileOutbox(path string) *FileOutbox { return &FileOutbox{file: lineFile{path: path}} }

// Load reads the file. A missing file has no messages. A last line that is incomplete after a crash is cut off.
func (o *FileOutbox) Load(context.Context) (OutboxContent, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.file.known = false
	if err := o.readLocked(); err != nil {
		return OutboxContent{}, err
	}
	return o.content.clone(), nil
}

// readLocked reads the file, if that is necessary.
func (o *FileOutbox) readLocked() error {
	if o.file.known {
		return nil
	}
	o.content = OutboxContent{}
	return o.file.read(func(line []byte) error {
		if !o.content.apply(line) {
			return errors.New("is no line of an outbox: restore the file, or give the device another name and a new outbox")
		}
		return nil
	})
}

// apply does what a line says. It reports false if the line cannot be read.
func (c *OutboxContent) apply(line []byte) bool {
	words := bytes.Split(line, []byte{' '})
	if len(words) < 2 {
		return false
	}
	n, err := strconv.ParseUint(string(words[1]), 10, 64)
	if err != nil {
		return false
	}
	switch verb := string(words[0]); {
	case verb == "base" && len(words) == 2:
		c.Base = &n
	case verb == "remove" && len(words) == 2:
		c.remove(n)
		c.Last = max(c.Last, n)
	case verb == "add" && len(words) == 4 && n > c.Last:
		op, err := strconv.ParseInt(string(words[2]), 10, 32)
		if err != nil {
			return false
		}
		body, err := base64.StdEncoding.AppendDecode(nil, words[3])
		if err != nil {
			return false
		}
		c.add(OutboxMessage{Number: n, Op: int32(op), Body: body})
	default:
		return false
	}
	return true
}

// SetBase keeps the base of the ids.
func (o *FileOutbox) SetBase(_ context.Context, base uint64) error {
	return o.do(appendBase(nil, base), func(c *OutboxContent) (anew bool) {
		c.Base = &base
		return false
	})
}

// Add adds a message.
func (o *FileOutbox) Add(_ context.Context, m OutboxMessage) error {
	return o.do(appendAdd(nil, m), func(c *OutboxContent) (anew bool) {
		// A call that failed may have left the message in the file.
		for n := len(c.Messages); n > 0 && c.Messages[n-1].Number >= m.Number; n-- {
			c.Messages, anew = c.Messages[:n-1], true
		}
		c.add(m)
		return anew
	})
}

// Remove removes all messages with numbers up to upTo.
func (o *FileOutbox) Remove(_ context.Context, upTo uint64) error {
	return o.do(appendRemove(nil, upTo), func(c *OutboxContent) (anew bool) {
		c.remove(upTo)
		return false
	})
}

func appendBase(dst []byte, base uint64) []byte { return fmt.Appendf(dst, "base %d\n", base) }

func appendRemove(dst []byte, upTo uint64) []byte { return fmt.Appendf(dst, "remove %d\n", upTo) }

func appendAdd(dst []byte, m OutboxMessage) []byte {
	dst = fmt.Appendf(dst, "add %d %d ", m.Number, m.Op)
	return append(base64.StdEncoding.AppendEncode(dst, m.Body), '\n')
}

// do changes the content, and appends a line or writes the file anew. change reports whether the line is not enough.
func (o *FileOutbox) do(line []byte, change func(*OutboxContent) (anew bool)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.readLocked(); err != nil {
		return err
	}
	next := o.content.clone()
	anew := change(&next)
	size := o.file.size + int64(len(line))
	if useless := size - next.size(); useless > max(compactFrom, size/2) {
		anew = true
	}
	if anew {
		line = next.lines()
	}
	if err := o.file.write(line, anew); err != nil {
		return err
	}
	o.content = next
	return nil
}

// size returns about how many bytes lines has.
func (c OutboxContent) size() int64 {
	n := int64(0)
	for _, m := range c.Messages {
		n += int64(base64.StdEncoding.EncodedLen(len(m.Body))) + 20
	}
	return n
}

// lines returns the shortest file with the content.
func (c OutboxContent) lines() []byte {
	var b []byte
	if c.Base != nil {
		b = appendBase(b, *c.Base)
	}
	removed := c.Last
	if len(c.Messages) > 0 {
		removed = c.Messages[0].Number - 1
	}
	if removed > 0 {
		b = appendRemove(b, removed)
	}
	for _, m := range c.Messages {
		b = appendAdd(b, m)
	}
	return b
}
