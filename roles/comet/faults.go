package comet

// Faults leaves rules of the delivery design (docs/ARCHITECTURE.md) out, so that
// a test can prove each of them needed. The zero value is the product: no setting
// reaches it.
type Faults struct {
	NoPrev        bool // prev > last does not put a session behind
	NoDuplicate   bool // an id that was written before is written again
	NoAskAgain    bool // a catch-up whose answer was lost is not asked again
	NoAnnounce    bool // sessions are not announced to a new owner
	NoBehindFirst bool // a new session starts not behind
	BelieveAcks   bool // ids that were never written to a session are acknowledged
	NoSeen        bool // a session is not behind after the first answer that has no more
}
