// Driver lets the conformance tests use the Go client. It reads commands from standard input and prints
// events to standard output, as clients/conformance/README.md describes.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"

	imgoclient "imgo/clients/go"
)

// maxLine bounds a command, in bytes.
const maxLine = 16 << 20

func main() {
	if err := drive(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

// drive obeys commands until exit or the end of the input. The clients go on until the process ends.
func drive(in io.Reader, out, log io.Writer) error {
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := &output{lines: json.NewEncoder(out), log: logger}
	o.emit(event{"event": "ready", "language": "go", "transports": []string{"tcp", "tls", "ws", "wss"}, "pauses": true,
		"publishes": true})
	drivers := map[string]*driver{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return fmt.Errorf("read the command %.200q: %w", lines.Bytes(), err)
		}
		if c.Do == "exit" {
			return nil
		}
		d := drivers[c.Client]
		if d == nil {
			d = &driver{output: o, name: c.Client}
			drivers[c.Client] = d
		}
		if err := d.run(c); err != nil {
			d.failed(c.Tag, err)
		}
	}
	return lines.Err()
}

// command is a line of the input.
type command struct {
	Do      string          `json:"do"`
	Client  string          `json:"client"`
	Tag     int             `json:"tag"`
	Options json.RawMessage `json:"options"`
	Token   string          `json:"token"`
	Error   string          `json:"error"`
	Room    string          `json:"room"`
	Op      int32           `json:"op"`
	Body    []byte          `json:"body"`
	Count   int             `json:"count"`
	IDs     []id            `json:"ids"`
	UpTo    id              `json:"up_to"`
}

// id is an id of 64 bits, which is text in JSON.
type id uint64

func (i id) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(i), 10), nil }

func (i *id) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	*i = id(n)
	return err
}

// event is a line of the output.
type event map[string]any

// output is standard output and standard error. It is safe for concurrent use.
type output struct {
	mu    sync.Mutex
	lines *json.Encoder
	log   *slog.Logger
}

func (o *output) emit(e event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.lines.Encode(e); err != nil {
		o.log.Error("write an event", "error", err)
	}
}

// emit prints an event of the driver's client.
func (d *driver) emit(e event) {
	if d.name != "" {
		e["client"] = d.name
	}
	d.output.emit(e)
}

// done reports the success of a command. A command without a tag has no report.
func (d *driver) done(tag int, result event) {
	if tag == 0 {
		return
	}
	e := event{"event": "done", "tag": tag}
	if result != nil {
		e["result"] = result
	}
	d.emit(e)
}

func (d *driver) failed(tag int, err error) {
	e := event{"event": "failed", "tag": tag, "code": "", "server_code": "", "close_code": 0, "message": err.Error()}
	var known *imgoclient.Error
	if errors.As(err, &known) {
		e["code"], e["server_code"], e["close_code"] = known.Code, known.ServerCode, known.CloseCode
	}
	d.emit(e)
}

// finish reports the result of a command.
func (d *driver) finish(tag int, result event, err error) {
	if err != nil {
		d.failed(tag, err)
		return
	}
	d.done(tag, result)
}
