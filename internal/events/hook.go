package events

// Hook is what GET /v1/hooks shows of an address that events are posted to. Times are Unix milliseconds.
type Hook struct {
	Name string `json:"name"`
	// Lag counts the events of the topic that the hook has not ended with, those of other types included.
	Lag int64 `json:"lag"`
	// Waiting counts the events that wait for another try, the first of them since WaitingSinceMS.
	Waiting        int   `json:"waiting"`
	WaitingSinceMS int64 `json:"waiting_since_ms,omitempty"`
	// DeadLetters can be replayed. DeadTotal counts all since the hook began. Letters has the newest.
	DeadLetters int          `json:"dead_letters"`
	DeadTotal   uint64       `json:"dead_total"`
	Letters     []DeadLetter `json:"letters,omitempty"`
	// Error says why the newest failed call failed. It is empty if none has failed since the last success.
	Error   string `json:"error,omitempty"`
	ErrorMS int64  `json:"error_ms,omitempty"`
	// Paused says why nothing is posted. It is empty if the hook is not paused.
	Paused   string `json:"paused,omitempty"`
	PausedMS int64  `json:"paused_ms,omitempty"`
}

// DeadLetter is an event that a hook has set aside.
type DeadLetter struct {
	Event  string `json:"event"`
	User   string `json:"user"`
	Tries  int    `json:"tries"`
	Reason string `json:"reason"`
	TimeMS int64  `json:"time_ms"`
}
