package events

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/internal/jsonquote"
	"imgo/internal/jsonread"
)

// Type is the type of an event, as CloudEvents has it.
type Type string

// The types.
const (
	// Delivered says that a device acknowledged a message.
	Delivered Type = "message.delivered"
	// Settled says that every covered device has acknowledged the message, or was forgotten.
	Settled Type = "message.settled"
	// Undelivered says that the deadline passed while devices still waited.
	Undelivered Type = "message.undelivered"
	// Expired says that the ttl was over before every device had the message.
	Expired Type = "message.expired"
	// Dropped says that the message was taken from the mailbox. See the reasons.
	Dropped Type = "message.dropped"
	// Read says that the user has read messages.
	Read Type = "message.read"
	// Online and Offline say that the user came, or has gone.
	Online  Type = "user.online"
	Offline Type = "user.offline"
	// Upstream says that a client sent a message for the backend.
	Upstream Type = "upstream.message"
)

// Types returns all types.
func Types() []Type {
	return []Type{Delivered, Settled, Undelivered, Expired, Dropped, Read, Online, Offline, Upstream}
}

// The reasons of Dropped.
const (
	ReasonFull    = "mailbox_full" // more messages wait than are allowed
	ReasonRemoved = "removed"      // a caller of the API removed it
	ReasonLost    = "lost"         // the owner's disk has lost the body
)

// Level says which events of a message its caller asked for.
type Level uint32

// The levels. Each has the events of the one before.
const (
	LevelNone    Level = iota // no events, except those of a deadline
	LevelSettled              // Settled, Undelivered, Expired and Dropped
	LevelEach                 // Delivered too
)

var levelNames = [...]string{"none", "settled", "each"}

// ParseLevel returns the level with a name. ok is false if there is none.
func ParseLevel(name string) (l Level, ok bool) {
	i := slices.Index(levelNames[:], name)
	return Level(max(i, 0)), i >= 0
}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return strconv.Itoa(int(l))
}

// MaxRefBytes is the length of the longest ref.
const MaxRefBytes = 128

// ID is the id of an event: the id of the kept record that caused it, and the event's number
// among those of the record. Ids grow within a partition.
type ID struct {
	Record uint64
	N      uint32
}

// After reports whether the id is higher than another one.
func (id ID) After(other ID) bool {
	return id.Record > other.Record || id.Record == other.Record && id.N > other.N
}

// AppendText appends the id as text, such as 283242202310657.0.
func (id ID) AppendText(b []byte) ([]byte, error) {
	b = strconv.AppendUint(b, id.Record, 10)
	return strconv.AppendUint(append(b, '.'), uint64(id.N), 10), nil
}

func (id ID) String() string {
	b, _ := id.AppendText(nil)
	return string(b)
}

// TextID returns the id of an event as CloudEvents has it, such as 3-283242202310657.0. The partition is
// before the ID, because two partitions have records with the same id.
func TextID(partition int32, id ID) string { return fmt.Sprintf("%d-%s", partition, id) }

// ParseID reads the ID in the text of TextID, or of ID.String.
func ParseID(text string) (id ID, err error) {
	_, rest, ok := strings.Cut(text, "-")
	if !ok {
		rest = text
	}
	record, n, ok := strings.Cut(rest, ".")
	if !ok {
		return id, fmt.Errorf("%q is no id of an event", text)
	}
	if id.Record, err = strconv.ParseUint(record, 10, 64); err != nil {
		return id, fmt.Errorf("%q is no id of an event: %w", text, err)
	}
	number, err := strconv.ParseUint(n, 10, 32)
	if err != nil {
		return id, fmt.Errorf("%q is no id of an event: %w", text, err)
	}
	id.N = uint32(number)
	return id, nil
}

// Event is one event.
type Event struct {
	ID        ID
	Partition int32 // of the record
	Type      Type
	User      string
	TimeMS    int64 // of the record, Unix milliseconds

	// Message is the id of the message (Delivered, Settled, Undelivered, Expired, Dropped).
	Message uint64
	// Ref is the caller's name of the message (as Message).
	Ref string
	// Device is the device that acknowledged (Delivered), where messages were read (Read), where the user came or left
	// (Online, Offline), or that sent the message (Upstream).
	Device string
	// AfterMS is how many milliseconds after the push the device acknowledged (Delivered).
	AfterMS int64
	// Auto is set if comet acknowledged for a client that cannot (Delivered).
	Auto bool
	// Devices are those that still waited for the message (Undelivered, Expired, Dropped).
	Devices []string
	// Without are the devices that never got the message: they were forgotten, or the user read it elsewhere (Settled).
	Without []string
	// Reason is why the message was taken from the mailbox (Dropped).
	Reason string
	// IDs are the messages that were read (Read).
	IDs []uint64
	// UpTo says that all messages up to this id were read, too. 0 means none (Read).
	UpTo uint64
	// Session is the session that sent the message (Upstream).
	Session string
	// Op is the operation of the message (Upstream).
	Op int32
	// Body is the body of the message (Upstream).
	Body []byte
	// ClientID is the client's own id of the message. 0 means that it gave none (Upstream).
	ClientID uint64
}

// AppendJSON appends the event as a CloudEvents 1.0 object, in the structured mode of its JSON
// format.
func (e *Event) AppendJSON(b []byte, source string) []byte {
	b = append(b, `{"specversion":"1.0","id":"`...)
	b = append(strconv.AppendInt(b, int64(e.Partition), 10), '-')
	b, _ = e.ID.AppendText(b)
	b = appendField(append(b, '"'), "source", source)
	b = appendField(b, "type", string(e.Type))
	b = appendField(b, "subject", e.User)
	b = append(b, `,"time":"`...)
	b = time.UnixMilli(e.TimeMS).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","datacontenttype":"application/json","data":{"user":`...)
	b = jsonquote.Append(b, e.User)
	if e.Message != 0 {
		b = appendID(b, "id", e.Message)
	}
	if e.Ref != "" {
		b = appendField(b, "ref", e.Ref)
	}
	switch e.Type {
	case Delivered:
		b = appendField(b, "device", e.Device)
		b = strconv.AppendInt(append(b, `,"after_ms":`...), e.AfterMS, 10)
		if e.Auto {
			b = append(b, `,"auto":true`...)
		}
	case Settled:
		if len(e.Without) > 0 {
			b = appendList(b, "without", e.Without)
		}
	case Undelivered, Expired, Dropped:
		b = appendList(b, "devices", e.Devices)
		if e.Type == Undelivered {
			b = append(b, `,"step":1`...)
		}
		if e.Reason != "" {
			b = appendField(b, "reason", e.Reason)
		}
	case Read:
		b = appendRead(appendField(b, "device", e.Device), e)
	case Online, Offline:
		b = appendID(appendField(b, "device", e.Device), "epoch", e.ID.Record)
	case Upstream:
		b = appendUpstream(appendField(b, "device", e.Device), e)
	}
	return append(b, '}', '}')
}

// Document is an event as its receivers read it: the JSON object that AppendJSON writes.
type Document struct {
	SpecVersion string
	ID          string
	Source      string
	Type        Type
	Subject     string
	Time        time.Time
	Data        struct {
		User    string
		ID      uint64 `json:",string"` // of the message; 0 without one
		Ref     string
		Device  string
		AfterMS int64 `json:"after_ms"`
		Auto    bool
		Devices []string
		Without []string
		Reason  string
		// ClientID and Body are those of a message for the backend.
		ClientID uint64 `json:"client_id,string"`
		Body     json.RawMessage
	}
}

func appendRead(b []byte, e *Event) []byte {
	b = append(b, `,"ids":[`...)
	for i, id := range e.IDs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendUint(append(b, '"'), id, 10), '"')
	}
	b = append(b, ']')
	if e.UpTo != 0 {
		b = appendID(b, "up_to", e.UpTo)
	}
	return b
}

func appendUpstream(b []byte, e *Event) []byte {
	b = appendField(b, "session", e.Session)
	b = strconv.AppendInt(append(b, `,"op":`...), int64(e.Op), 10)
	if e.ClientID != 0 {
		b = appendID(b, "client_id", e.ClientID)
	}
	return AppendBody(b, e.Body)
}

// maxBodyDepth is how deep the JSON of a body may be nested to go into an event as it is: some readers of JSON go
// no deeper than a thousand levels.
const maxBodyDepth = 500

// MaxBody is the size of the largest body of an Upstream event, in bytes. The event has at most twice as many, and
// its other members fit into what is left of a record of the topic.
const MaxBody = 500 << 10

// AppendBody appends a body as a member of a JSON object: ,"body": and the body if it is JSON, without the white space
// in it, ,"body_text": if it is other UTF-8, and ,"body_base64": otherwise. The result is valid JSON in UTF-8 and at most
// about twice as long as the body.
func AppendBody(b, body []byte) []byte {
	if utf8.Valid(body) {
		if !jsonread.TooDeep(body, maxBodyDepth) {
			at := len(b)
			buf := bytes.NewBuffer(append(b, `,"body":`...))
			if json.Compact(buf, body) == nil {
				return buf.Bytes()
			}
			b = b[:at]
		}
		at := len(b)
		if b = appendField(b, "body_text", string(body)); len(b)-at <= 2*len(body)+64 {
			return b
		}
		b = b[:at] // control characters have six bytes each
	}
	return appendField(b, "body_base64", base64.StdEncoding.EncodeToString(body))
}

// appendID appends a number of 64 bits, as a decimal string: not every reader of JSON has such numbers.
func appendID(b []byte, name string, id uint64) []byte {
	b = append(append(append(b, ',', '"'), name...), `":"`...)
	return append(strconv.AppendUint(b, id, 10), '"')
}

func appendField(b []byte, name, text string) []byte {
	b = append(append(append(b, ',', '"'), name...), '"', ':')
	return jsonquote.Append(b, text)
}

func appendList(b []byte, name string, texts []string) []byte {
	b = append(append(append(b, ',', '"'), name...), '"', ':', '[')
	for i, text := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsonquote.Append(b, text)
	}
	return append(b, ']')
}

// Header has the fields by which a reader routes an event.
type Header struct {
	ID   ID
	Type Type
	User string
}

// ParseHeader reads the header of an event of the topic.
func ParseHeader(value []byte) (h Header, err error) {
	var raw struct {
		ID      string `json:"id"`
		Type    Type   `json:"type"`
		Subject string `json:"subject"`
	}
	if err := json.Unmarshal(value, &raw); err != nil {
		return h, fmt.Errorf("event cannot be read: %w", err)
	}
	h.Type, h.User = raw.Type, raw.Subject
	h.ID, err = ParseID(raw.ID)
	return h, err
}

// idPrefix begins every event, before its id.
var idPrefix = []byte(`{"specversion":"1.0","id":"`)

// idOfEvent reads the id of an event, without the rest of it.
func idOfEvent(value []byte) (ID, error) {
	rest, ok := bytes.CutPrefix(value, idPrefix)
	if !ok {
		h, err := ParseHeader(value)
		return h.ID, err
	}
	text, _, _ := bytes.Cut(rest, []byte{'"'})
	return ParseID(string(text))
}

// Matches reports whether a type is one of those that a list names. An entry may end with an
// asterisk, such as message.*; an empty list names all.
func Matches(list []string, t Type) bool {
	for _, pattern := range list {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(string(t), prefix) || pattern == string(t) {
			return true
		}
	}
	return len(list) == 0
}

// CheckTypes returns an error that names the first entry of a list that is neither a type nor a family of
// types, such as message.*.
func CheckTypes(field string, list []string) error {
	for _, pattern := range list {
		known := func(t Type) bool {
			family, _, _ := strings.Cut(string(t), ".")
			return pattern == string(t) || pattern == family+".*"
		}
		if !slices.ContainsFunc(Types(), known) {
			names := make([]string, 0, len(Types()))
			for _, t := range Types() {
				names = append(names, string(t))
			}
			return envelope.Invalid(field, fmt.Sprintf("has %q, which is no type of event: there are %s, and families such as message.*",
				pattern, strings.Join(names, ", ")))
		}
	}
	return nil
}
