package router

// recordIDsKept is how many record ids a partition remembers at least; it holds up to
// twice as many.
const recordIDsKept = 1 << 14

// recordIDs are the ids of the records that were applied lately, with their
// offsets. They are for one goroutine at a time.
type recordIDs struct {
	newer, older map[[12]byte]int64
}

// repeated remembers a record's id. It reports whether another record of the
// partition had it before.
func (r *recordIDs) repeated(recordID []byte, offset int64) bool {
	if len(recordID) != 12 {
		return false
	}
	id := [12]byte(recordID)
	first, ok := r.newer[id]
	if !ok {
		first, ok = r.older[id]
	}
	if ok {
		return first != offset
	}
	if r.newer == nil {
		r.newer = make(map[[12]byte]int64)
	}
	if len(r.newer) >= recordIDsKept {
		r.older, r.newer = r.newer, make(map[[12]byte]int64)
	}
	r.newer[id] = offset
	return false
}
