package raw_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"imgo/clients/go/raw"
)

// vectors reads a file of clients/vectors. The packed module does not have them.
func vectors(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "vectors", file))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join("..", "..", "..", "protocol")); err != nil {
			t.Skip("the vectors are in the repository of imgo, not in the packed module")
		}
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// bin is bytes in hexadecimal.
type bin []byte

func (h *bin) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorPacket struct {
	Version int16  `json:"version"`
	Header  int    `json:"header"`
	Op      int32  `json:"op"`
	Seq     int32  `json:"seq"`
	ID      uint64 `json:"id,string"`
	Body    bin    `json:"body"`
}

func (v vectorPacket) packet() raw.Packet {
	p := raw.Packet{Version: v.Version, Op: v.Op, Seq: v.Seq, ID: v.ID, Long: v.Header == raw.HeaderV2}
	if len(v.Body) > 0 {
		p.Body = v.Body
	}
	return p
}

func TestFrameVectors(t *testing.T) {
	var file struct {
		Server, Client []struct {
			Name   string
			Hex    bin
			Packet vectorPacket
		}
		Streams []struct {
			Name    string
			Reads   []bin
			Packets []vectorPacket
			Error   string
		}
		Broken []struct {
			Name    string
			Hex     bin
			MaxBody int `json:"max_body"`
			Error   string
		}
	}
	vectors(t, "frames.json", &file)
	for _, v := range file.Server {
		p, rest, err := raw.DecodePacket(v.Hex, 1<<20)
		if err != nil || len(rest) > 0 || !reflect.DeepEqual(p, v.Packet.packet()) {
			t.Errorf("server: %s: %+v, %v", v.Name, p, err)
		}
	}
	for _, v := range file.Client {
		if got := raw.AppendPacket(nil, v.Packet.packet()); !bytes.Equal(got, v.Hex) {
			t.Errorf("client: %s: %x", v.Name, got)
		}
	}
	for _, v := range file.Streams {
		var readers []io.Reader
		for _, b := range v.Reads {
			readers = append(readers, bytes.NewReader(b))
		}
		stream := io.MultiReader(readers...)
		var err error
		for i := 0; err == nil; i++ {
			var p raw.Packet
			if p, err = raw.ReadPacket(stream, 1000); err != nil && i != len(v.Packets) {
				t.Errorf("stream: %s: %d packets, %v", v.Name, i, err)
			} else if err == nil && (i >= len(v.Packets) || !reflect.DeepEqual(p, v.Packets[i].packet())) {
				t.Errorf("stream: %s: packet %d is %+v", v.Name, i, p)
				break
			}
		}
		if !fits(v.Error, err) {
			t.Errorf("stream: %s: %v, want %q", v.Name, err, v.Error)
		}
	}
	for _, v := range file.Broken {
		if _, err := raw.ReadPacket(bytes.NewReader(v.Hex), v.MaxBody); !fits(v.Error, err) {
			t.Errorf("broken: %s: %v, want %q", v.Name, err, v.Error)
		}
	}
	if len(file.Server) < 10 || len(file.Client) < 5 || len(file.Streams) < 10 || len(file.Broken) < 10 {
		t.Error("there are few vectors")
	}
}

// fits reports whether an error is the one that a vector names.
func fits(want string, err error) bool {
	var format *raw.FormatError
	switch want {
	case "":
		return err == io.EOF
	case "incomplete":
		return errors.Is(err, io.ErrUnexpectedEOF)
	}
	return errors.As(err, &format)
}

func TestJSONFrameVectors(t *testing.T) {
	var file struct {
		Server []struct {
			Name    string
			Text    string
			Packets []struct {
				Version int16
				Op, Seq int32
				ID      uint64 `json:"id,string"`
				Body    any
			}
		}
		Client []struct {
			Name       string
			Op, Seq    int32
			Body, JSON json.RawMessage
		}
		Broken []struct{ Name, Text string }
	}
	vectors(t, "json_frames.json", &file)
	send := make(chan string)
	received := make(chan []byte, 1)
	to := webSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		for text := range send {
			if _, data, err := conn.Read(ctx); err == nil {
				received <- data
			}
			if err := conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
				return
			}
		}
	})
	defer close(send)
	c := dial(t, to, raw.Options{Text: true})
	beat := raw.Packet{Op: raw.OpHeartbeat}
	exchange := func(p raw.Packet, answer string) []byte {
		t.Helper()
		if err := c.Write(soon(), p); err != nil {
			t.Fatal(err)
		}
		send <- answer
		return <-received
	}
	for _, v := range file.Client {
		got := exchange(raw.Packet{Op: v.Op, Seq: v.Seq, Body: v.Body}, `[{"ver":2,"op":3}]`)
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal(v.JSON, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("client: %s: %s", v.Name, got)
		}
		if _, err := c.Read(soon()); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range file.Server {
		exchange(beat, v.Text)
		for i, want := range v.Packets {
			p, err := c.Read(soon())
			var body any
			if err == nil {
				err = json.Unmarshal(p.Body, &body)
			}
			if err != nil || p.Version != want.Version || p.Op != want.Op || p.Seq != want.Seq || p.ID != want.ID ||
				!reflect.DeepEqual(body, want.Body) {
				t.Fatalf("server: %s: packet %d is %+v, %v", v.Name, i, p, err)
			}
		}
	}
	for _, v := range file.Broken {
		exchange(beat, v.Text)
		var format *raw.FormatError
		if _, err := c.Read(soon()); !errors.As(err, &format) {
			t.Errorf("broken: %s: %v", v.Name, err)
		}
	}
	if len(file.Server) < 10 || len(file.Client) < 5 || len(file.Broken) < 5 {
		t.Error("there are few vectors")
	}
}

func TestAckVectors(t *testing.T) {
	var file struct {
		Acks []struct {
			Name string
			IDs  []string
			Hex  bin
			JSON json.RawMessage
		}
	}
	vectors(t, "acks.json", &file)
	for _, v := range file.Acks {
		var ids []uint64
		for _, text := range v.IDs {
			id, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if got := raw.AckBody(false, ids); !bytes.Equal(got, v.Hex) {
			t.Errorf("%s: %x", v.Name, got)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, v.JSON); err != nil || string(raw.AckBody(true, ids)) != want.String() {
			t.Errorf("%s: %s, %v", v.Name, raw.AckBody(true, ids), err)
		}
	}
	if len(file.Acks) == 0 {
		t.Error("there are no vectors")
	}
}

func TestIDVectors(t *testing.T) {
	type sent struct {
		Name, ID string
		Op, Seq  int32
		Body     bin
		IDs      []string
		UpTo     string `json:"up_to"`
		Hex      bin
		JSON     json.RawMessage
		Text     string
	}
	var published struct{ Sent []sent }
	var read struct {
		Read, Dismiss []sent
		Broken        []sent `json:"broken_dismiss"`
	}
	vectors(t, "publish.json", &published)
	vectors(t, "read.json", &read)
	received, texts := make(chan []byte, 1), make(chan string)
	to := webSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		for text := range texts {
			if text != "" && conn.Write(ctx, websocket.MessageText, []byte(text)) != nil {
				return
			}
			if _, data, err := conn.Read(ctx); err == nil && text == "" {
				received <- data
			}
		}
	})
	defer close(texts)
	c := dial(t, to, raw.Options{Text: true})
	id := func(text string) uint64 {
		if text == "" {
			return 0
		}
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	ids := func(texts []string) []uint64 {
		list := []uint64{}
		for _, text := range texts {
			list = append(list, id(text))
		}
		return list
	}
	check := func(v sent, binary, text raw.Packet) {
		t.Helper()
		if got := raw.AppendPacket(nil, binary); !bytes.Equal(got, v.Hex) {
			t.Errorf("%s: %x", v.Name, got)
		}
		if err := c.Write(soon(), text); err != nil {
			t.Fatal(err)
		}
		texts <- ""
		got := <-received
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal(v.JSON, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %s", v.Name, got)
		}
	}
	for _, v := range published.Sent {
		p := raw.Packet{Op: v.Op, Seq: v.Seq, ID: id(v.ID), Body: v.Body}
		check(v, p, p)
	}
	for _, v := range read.Read {
		p := raw.Packet{Op: raw.OpRead, Seq: v.Seq, ID: id(v.UpTo), Body: raw.AckBody(false, ids(v.IDs))}
		text := p
		text.Body = raw.AckBody(true, ids(v.IDs))
		check(v, p, text)
	}
	// dismissed returns what a dismiss in both forms says.
	dismissed := func(v sent) (forms [2]raw.Packet, lists [2][]uint64, errs [2]error) {
		t.Helper()
		p, _, err := raw.DecodePacket(v.Hex, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		texts <- v.Text
		text, err := c.Read(soon())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(soon(), raw.Packet{Op: raw.OpHeartbeat}); err != nil {
			t.Fatal(err)
		}
		forms = [2]raw.Packet{p, text}
		lists[0], errs[0] = raw.ParseIDs(false, p.Body)
		lists[1], errs[1] = raw.ParseIDs(true, text.Body)
		return forms, lists, errs
	}
	for _, v := range read.Dismiss {
		forms, lists, errs := dismissed(v)
		for i, p := range forms {
			if errs[i] != nil || p.Op != raw.OpDismiss || p.ID != id(v.UpTo) || !reflect.DeepEqual(lists[i], ids(v.IDs)) {
				t.Errorf("%s: form %d: %+v, %d, %v", v.Name, i, p, lists[i], errs[i])
			}
		}
	}
	for _, v := range read.Broken {
		_, _, errs := dismissed(v)
		for i, err := range errs {
			if format := (*raw.FormatError)(nil); !errors.As(err, &format) {
				t.Errorf("%s: form %d: %v", v.Name, i, err)
			}
		}
	}
	if len(published.Sent) < 5 || len(read.Read) < 3 || len(read.Dismiss) < 3 || len(read.Broken) < 3 {
		t.Error("there are few vectors")
	}
}

func TestAddressVectors(t *testing.T) {
	var file struct {
		Own []struct {
			Address, URL, Scheme, Host, Path string
			Port                             int
			TLS                              bool
		}
		Invalid []struct{ Address string }
		Others  []struct {
			Own, Other string
			URL        *string
		}
	}
	vectors(t, "addresses.json", &file)
	full := func(to raw.Target) string {
		if s := to.String(); strings.Contains(s, "://") {
			return s
		}
		return "tcp://" + to.String()
	}
	for _, v := range file.Own {
		to, err := raw.ParseTarget(v.Address)
		if err != nil || full(to) != v.URL || to.Secure() != v.TLS {
			t.Errorf("%s: %s, %v", v.Address, to, err)
			continue
		}
		u, err := url.Parse(v.URL)
		if err != nil || u.Scheme != v.Scheme {
			t.Errorf("%s: %v, %v", v.URL, u, err)
		}
	}
	for _, v := range file.Invalid {
		if to, err := raw.ParseTarget(v.Address); err == nil {
			t.Errorf("%q is taken as %s", v.Address, to)
		}
	}
	for _, v := range file.Others {
		own, err := raw.ParseTarget(v.Own)
		if err != nil {
			t.Fatal(err)
		}
		other, ok := own.Other(v.Other)
		if ok != (v.URL != nil) || ok && full(other) != *v.URL {
			t.Errorf("%s from %s: %s, %v", v.Other, v.Own, other, ok)
		}
	}
	if len(file.Own) == 0 || len(file.Invalid) == 0 || len(file.Others) == 0 {
		t.Error("there are no vectors")
	}
}

func TestCloseVectors(t *testing.T) {
	var file struct {
		Disconnect []struct {
			Name, Body, Reason string
			Code               int
			Reconnect          bool
			Addresses          []string
		}
		WebSocketClose []struct {
			Code      int
			Reconnect bool
		} `json:"websocket_close"`
	}
	vectors(t, "close.json", &file)
	for _, v := range file.Disconnect {
		got := raw.ParseClose([]byte(v.Body))
		if got.Code != v.Code || got.Reconnect != v.Reconnect || v.Reason != "" && got.Reason != v.Reason ||
			len(got.Addresses) != len(v.Addresses) || len(v.Addresses) > 0 && !reflect.DeepEqual(got.Addresses, v.Addresses) {
			t.Errorf("%s: %+v", v.Name, got)
		}
	}
	for _, v := range file.WebSocketClose {
		if v.Code == int(websocket.StatusAbnormalClosure) {
			continue // no frame can have it
		}
		to := webSocket(t, func(_ context.Context, conn *websocket.Conn) { _ = conn.Close(websocket.StatusCode(v.Code), "r") })
		_, err := dial(t, to, raw.Options{}).Read(soon())
		var closed *raw.CloseError
		final := errors.As(err, &closed) && !closed.Reconnect
		if err == nil || final == v.Reconnect || final && closed.Code != v.Code {
			t.Errorf("close frame %d: %v", v.Code, err)
		}
	}
	if len(file.Disconnect) == 0 || len(file.WebSocketClose) == 0 {
		t.Error("there are no vectors")
	}
}
