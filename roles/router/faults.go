package router

// Faults leaves rules of the delivery design out, so that a test can prove each
// of them needed. The zero value is the product: no setting reaches it.
type Faults struct {
	NoWatch    bool // the owner does not watch
	NoApplied  bool // answers are given for what was not applied yet
	NoRecordID bool // a record that was applied before is applied again
}
