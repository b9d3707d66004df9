package ring

// Partitions returns the number of partitions.
func (r *Ring) Partitions() int32 { return int32(len(r.owners)) }
