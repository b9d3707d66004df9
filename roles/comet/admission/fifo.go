package admission

import "slices"

// fifo is a queue. Its zero value is empty. It uses its memory again and gives
// it back when it is empty after having been long.
type fifo[T comparable] struct {
	items []T
	head  int // index of the first item
}

// maxKeptItems is the capacity up to which an empty fifo keeps its memory.
const maxKeptItems = 256

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(item T) {
	if len(f.items) == cap(f.items) && f.head > len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, item)
}

// insert adds an item to a fifo that is sorted, before those that are not less.
func (f *fifo[T]) insert(item T, compare func(a, b T) int) {
	i, _ := slices.BinarySearchFunc(f.items[f.head:], item, compare)
	f.push(item)
	rest := f.items[f.head+i:]
	copy(rest[1:], rest)
	rest[0] = item
}

// remove removes an item, which must be there, from a fifo that is sorted.
func (f *fifo[T]) remove(item T, compare func(a, b T) int) {
	i, _ := slices.BinarySearchFunc(f.items[f.head:], item, compare)
	i += f.head
	for f.items[i] != item {
		i++
	}
	copy(f.items[f.head+1:], f.items[f.head:i])
	f.pop()
}

// first returns the first item of a fifo that is not empty.
func (f *fifo[T]) first() T { return f.items[f.head] }

// pop removes the first item of a fifo that is not empty, and returns it.
func (f *fifo[T]) pop() T {
	var none T
	item := f.items[f.head]
	f.items[f.head] = none
	f.head++
	if f.len() == 0 {
		if f.items, f.head = f.items[:0], 0; cap(f.items) > maxKeptItems {
			f.items = nil
		}
	}
	return item
}
