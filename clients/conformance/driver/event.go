package driver

import (
	"encoding/json"
	"strconv"
)

// Code is the code of an event: a word for an error, or a number in decimal for the end of a connection.
type Code string

// UnmarshalJSON decodes a string or a number.
func (c *Code) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var word string
		err := json.Unmarshal(b, &word)
		*c = Code(word)
		return err
	}
	var number json.Number
	err := json.Unmarshal(b, &number)
	*c = Code(number)
	return err
}

// ID is an id in a list, as decimal text.
type ID uint64

// UnmarshalText parses the id.
func (i *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	*i = ID(n)
	return err
}

// Result is what a command returned.
type Result struct {
	Body   []byte `json:"body"`
	Count  int    `json:"count"`
	Number uint64 `json:"number"`
}

// Event is one line that a driver printed. Each kind of event has some of the fields: README.md, in its table of
// events, says which.
type Event struct {
	Event  string `json:"event"`
	Client string `json:"client"`
	Tag    int    `json:"tag"`

	Language   string   `json:"language"`
	Transports []string `json:"transports"`
	Pauses     *bool    `json:"pauses"`
	Publishes  bool     `json:"publishes"`

	Result     Result `json:"result"`
	Code       Code   `json:"code"`
	ServerCode string `json:"server_code"`
	CloseCode  int    `json:"close_code"`
	Message    string `json:"message"`

	State       string   `json:"state"`
	Session     string   `json:"session"`
	User        string   `json:"user"`
	HeartbeatMS float64  `json:"heartbeat_ms"`
	Pending     int      `json:"pending"`
	Rooms       []string `json:"rooms"`
	RetryInMS   float64  `json:"retry_in_ms"`
	Reason      string   `json:"reason"`
	Failed      bool     `json:"failed"`

	ID   uint64 `json:"id,string"`
	Op   int32  `json:"op"`
	Kept bool   `json:"kept"`
	Body []byte `json:"body"`

	Number uint64 `json:"number"`
	IDs    []ID   `json:"ids"`
	UpTo   uint64 `json:"up_to,string"`

	Room   string `json:"room"`
	Joined bool   `json:"joined"`
}
