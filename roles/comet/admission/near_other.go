//go:build !linux

package admission

import "errors"

// nearWorker is for connections that epoll watches, which there are none of here.
type nearWorker struct{}

func newNearWorker() (*nearWorker, error) { return nil, errors.ErrUnsupported }

func (n *nearWorker) run(Task) bool { return false }
func (n *nearWorker) work()         {}
func (n *nearWorker) close()        {}
