package transport_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"imgo/clients/vectors"
	"imgo/protocol"
	"imgo/transport"
)

// maxVectorBody is the limit of a body in the list "streams" of frames.json.
const maxVectorBody = 1000

// vectorPacket is a packet in clients/vectors.
type vectorPacket struct {
	Version int16       `json:"version"`
	Header  int         `json:"header"`
	Op      int32       `json:"op"`
	Seq     int32       `json:"seq"`
	ID      uint64      `json:"id,string"`
	Body    vectors.Hex `json:"body"`
}

// is reports whether the server has read this packet.
func (v vectorPacket) is(p transport.Packet) bool {
	return p.Version == v.Version && p.Op == v.Op && p.Seq == v.Seq && p.ID == v.ID && p.Long == (v.Header == protocol.HeaderV2) &&
		bytes.Equal(p.Body, v.Body)
}

// TestVectorsFrames checks that the server reads and writes the frames that the client libraries are tested with.
func TestVectorsFrames(t *testing.T) {
	type frame struct {
		Name   string       `json:"name"`
		Hex    vectors.Hex  `json:"hex"`
		Packet vectorPacket `json:"packet"`
	}
	var file struct {
		Server, Client []frame
		Broken         []struct {
			Name    string
			Hex     vectors.Hex
			MaxBody int `json:"max_body"`
			Error   string
		}
	}
	vectors.Read(t, "frames.json", &file)
	if len(file.Server) < 20 || len(file.Client) < 8 || len(file.Broken) < 10 {
		t.Fatalf("only %d, %d and %d cases", len(file.Server), len(file.Client), len(file.Broken))
	}
	for _, f := range slices.Concat(file.Server, file.Client) {
		v := f.Packet
		if got := transport.AppendPacket(nil, v.Version, v.Header, v.Op, v.Seq, v.ID, v.Body); !bytes.Equal(got, f.Hex) {
			t.Errorf("%s: the server writes %x, want %x", f.Name, got, f.Hex)
		}
		p, rest, err := transport.DecodePacket(f.Hex, maxVectorBody)
		if err != nil || len(rest) > 0 || !v.is(p) {
			t.Errorf("%s: the server reads %+v with %d bytes left, %v", f.Name, p, len(rest), err)
		}
	}
	for _, b := range file.Broken {
		_, err := transport.ParseHeader(b.Hex, b.MaxBody)
		if bad := (*transport.ProtocolError)(nil); len(b.Hex) != protocol.HeaderV1 || !errors.As(err, &bad) || bad.Kind != b.Error {
			t.Errorf("%s, %d bytes: %v, want %s", b.Name, len(b.Hex), err, b.Error)
		}
	}
}

func TestVectorsStreams(t *testing.T) {
	var file struct {
		Streams []struct {
			Name    string
			Reads   []vectors.Hex
			Packets []vectorPacket
			Error   string
		}
	}
	vectors.Read(t, "frames.json", &file)
	for _, s := range file.Streams {
		t.Run(s.Name, func(t *testing.T) {
			var reads []io.Reader // an io.MultiReader returns what one of them has
			for _, read := range s.Reads {
				reads = append(reads, bytes.NewReader(read))
			}
			r := io.MultiReader(reads...)
			var buf [protocol.HeaderV2]byte
			for i, want := range s.Packets {
				if p, err := transport.ReadPacket(r, &buf, maxVectorBody); err != nil || !want.is(p) {
					t.Errorf("packet %d is %+v, %v; want %+v", i, p, err, want)
				}
			}
			_, err := transport.ReadPacket(r, &buf, maxVectorBody)
			got := ""
			if bad := (*transport.ProtocolError)(nil); errors.As(err, &bad) {
				got = bad.Kind
			} else if err == io.ErrUnexpectedEOF {
				got = "incomplete"
			} else if err != io.EOF {
				t.Errorf("the stream ends with %v", err)
			}
			if got != s.Error {
				t.Errorf("the stream ends with %q, want %q", got, s.Error)
			}
		})
	}
}

func TestVectorsJSONFrames(t *testing.T) {
	type packet struct {
		Version int16           `json:"version"`
		Op      int32           `json:"op"`
		Seq     int32           `json:"seq"`
		ID      uint64          `json:"id,string"`
		Body    json.RawMessage `json:"body"`
	}
	var file struct {
		Server []struct {
			Name, Text string
			Packets    []packet
		}
		Client []struct {
			Name string
			JSON json.RawMessage
			packet
		}
		Broken []struct{ Name, Text string }
	}
	vectors.Read(t, "json_frames.json", &file)
	if len(file.Server) < 20 || len(file.Client) < 5 || len(file.Broken) < 5 {
		t.Fatalf("only %d, %d and %d cases", len(file.Server), len(file.Client), len(file.Broken))
	}
	for _, f := range file.Server {
		var objects []map[string]any
		if err := json.Unmarshal([]byte(f.Text), &objects); err != nil || len(objects) != len(f.Packets) {
			t.Errorf("%s: %d objects, %v", f.Name, len(objects), err)
			continue
		}
		for i, p := range f.Packets {
			delete(objects[i], "later") // the server writes no such member
			written := transport.AppendJSONObject(nil, p.Version == protocol.Version2, p.Version, p.Op, p.Seq, p.ID, p.Body)
			if want := objects[i]; !reflect.DeepEqual(value(t, written), any(want)) {
				t.Errorf("%s: the server writes %s, want %v", f.Name, written, want)
			}
		}
	}
	for _, f := range file.Client {
		p, err := transport.ParseJSON(f.JSON, protocol.DefaultMaxBody)
		if err != nil || p.Version != protocol.Version2 || p.Op != f.Op || p.Seq != f.Seq ||
			!reflect.DeepEqual(value(t, p.Body), value(t, f.Body)) {
			t.Errorf("%s: the server reads %+v, %v", f.Name, p, err)
		}
	}
	for _, f := range file.Broken {
		var objects []struct{ ID string }
		if json.Unmarshal([]byte(f.Text), &objects) != nil {
			continue
		}
		if _, err := strconv.ParseUint(objects[0].ID, 10, 64); err == nil {
			t.Errorf("%s: nothing is wrong with it", f.Name)
		}
	}
}

// TestVectorsIDs checks that the server reads what clients publish and what they have read, and writes what was read
// elsewhere.
func TestVectorsIDs(t *testing.T) {
	type packet struct {
		Name    string
		Op, Seq int32
		ID      uint64      `json:"id,string"`
		UpTo    uint64      `json:"up_to,string"`
		Body    vectors.Hex `json:"body"`
		IDs     []string
		Hex     vectors.Hex
		JSON    json.RawMessage
		Text    string
	}
	var published struct{ Sent []packet }
	var read struct{ Read, Dismiss []packet }
	vectors.Read(t, "publish.json", &published)
	vectors.Read(t, "read.json", &read)
	if len(published.Sent) < 5 || len(read.Read) < 3 || len(read.Dismiss) < 3 {
		t.Fatalf("only %d, %d and %d cases", len(published.Sent), len(read.Read), len(read.Dismiss))
	}
	check := func(v packet, op int32, id uint64, body []byte, jsonBody any) {
		t.Helper()
		p, rest, err := transport.DecodePacket(v.Hex, 1<<16)
		if err != nil || len(rest) > 0 || p.Op != op || p.Seq != v.Seq || p.ID != id || !bytes.Equal(p.Body, body) {
			t.Errorf("%s: the server reads %+v, %v", v.Name, p, err)
		}
		p, err = transport.ParseJSON(v.JSON, protocol.DefaultMaxBody)
		if err != nil || p.Op != op || p.Seq != v.Seq || p.ID != id || !reflect.DeepEqual(value(t, p.Body), jsonBody) {
			t.Errorf("%s: the server reads %+v from JSON, %v", v.Name, p, err)
		}
	}
	for _, v := range published.Sent {
		check(v, v.Op, v.ID, v.Body, value(t, v.Body))
	}
	binaryIDs := func(texts []string) (b []byte, list any) {
		values := []any{}
		for _, text := range texts {
			id, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			b, values = binary.BigEndian.AppendUint64(b, id), append(values, text)
		}
		return b, values
	}
	for _, v := range read.Read {
		body, list := binaryIDs(v.IDs)
		check(v, protocol.OpRead, v.UpTo, body, list)
	}
	for _, v := range read.Dismiss {
		body, list := binaryIDs(v.IDs)
		if got := transport.AppendPacket(nil, 2, protocol.HeaderV2, protocol.OpDismiss, 0, v.UpTo, body); !bytes.Equal(got, v.Hex) {
			t.Errorf("%s: the server writes %x", v.Name, got)
		}
		texts, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if got := "[" + string(transport.AppendJSONObject(nil, true, 2, protocol.OpDismiss, 0, v.UpTo, texts)) + "]"; got != v.Text {
			t.Errorf("%s: the server writes %s", v.Name, got)
		}
	}
}

func TestVectorsBodies(t *testing.T) {
	var file struct {
		Bodies []struct {
			Name          string
			Pushed, Shown vectors.Hex
			JSON          string
		}
	}
	vectors.Read(t, "bodies.json", &file)
	if len(file.Bodies) < 10 {
		t.Fatalf("only %d cases", len(file.Bodies))
	}
	for _, b := range file.Bodies {
		got := transport.AppendJSONObject(nil, true, 2, 5, 0, 7, b.Pushed)
		if want := `{"ver":2,"op":5,"seq":0,"id":"7","body":` + b.JSON + `}`; string(got) != want {
			t.Errorf("%s: the server writes %s, want %s", b.Name, got, want)
		}
		if shown := shownBody(t, value(t, []byte(b.JSON))); !bytes.Equal(shown, b.Shown) {
			t.Errorf("%s: shown as %q, not %q", b.Name, shown, b.Shown)
		}
	}
}

// shownBody returns the bytes of a body in a JSON frame, by the rule of clients/conformance.
func shownBody(t *testing.T, body any) []byte {
	t.Helper()
	switch body := body.(type) {
	case string:
		return []byte(body)
	case map[string]any:
		if text, ok := body["base64"].(string); ok && len(body) == 1 {
			var b []byte
			if err := json.Unmarshal([]byte(strconv.Quote(text)), &b); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// value decodes a JSON value.
func value(t *testing.T, b []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}
