//go:build !linux

package batch

import "errors"

// Batch exists on Linux only.
type Batch struct{}

func newBatch() (*Batch, error) { return nil, errors.New("this system has no io_uring") }

func (b *Batch) probe() error { return nil }
func (b *Batch) broken() bool { return false }
func (b *Batch) close()       {}

// Len counts the writes that wait for Send.
func (b *Batch) Len() int { return 0 }

// Add adds a write.
func (b *Batch) Add(int32, []byte) {}

// Send sends what was added.
func (b *Batch) Send() []int32 { return nil }
