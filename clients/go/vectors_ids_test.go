package imgoclient_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// parseID parses an id. An empty text is 0.
func parseID(t *testing.T, text string) uint64 {
	t.Helper()
	if text == "" {
		return 0
	}
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func parseIDs(t *testing.T, texts []string) []uint64 {
	t.Helper()
	ids := make([]uint64, len(texts))
	for i, text := range texts {
		ids[i] = parseID(t, text)
	}
	return ids
}

func TestRefusedPublishVectors(t *testing.T) {
	var file struct {
		Refused []struct {
			Name, Body string
			ServerCode string   `json:"server_code"`
			RetryMS    *float64 `json:"retry_ms"`
			Again      bool
		}
	}
	vectors(t, "publish.json", &file)
	s := newServer(t, "tcp")
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.Device = "laptop" })
	p := s.welcome()
	for _, v := range file.Refused {
		number := r.publish(4, v.Name)
		sent := p.expect(4)
		refused := time.Now()
		p.send(raw.OpError, sent.Seq, 0, v.Body)
		if v.Again {
			again := p.expect(4)
			if again.ID != sent.ID || v.RetryMS != nil && time.Since(refused) < time.Duration(*v.RetryMS)*time.Millisecond {
				t.Errorf("%s: sent again with id %d after %s", v.Name, again.ID, time.Since(refused))
			}
			p.send(4, again.Seq, 0, "ok")
		}
		got := r.gone()
		if got.Number != number || v.Again != (got.Err == nil) || v.Again && string(got.Body) != "ok" ||
			!v.Again && (got.Err.Code != imgoclient.CodeDenied || got.Err.ServerCode != v.ServerCode) {
			t.Errorf("%s: %+v", v.Name, got)
		}
		// Another call tells the time.
		result := make(chan error, 1)
		go func() {
			_, err := r.Send(context.Background(), 4, nil)
			result <- err
		}()
		p.send(raw.OpError, p.expect(4).Seq, 0, v.Body)
		var denied *imgoclient.Error
		if err := <-result; !errors.As(err, &denied) || v.RetryMS == nil && denied.RetryAfter != 0 ||
			v.RetryMS != nil && denied.RetryAfter != time.Duration(*v.RetryMS)*time.Millisecond {
			t.Errorf("%s: send: %v", v.Name, err)
		}
	}
	r.stop()
	if len(file.Refused) == 0 {
		t.Error("there are no vectors")
	}
}

func TestReadVectors(t *testing.T) {
	type hexed struct{ Name, Hex string }
	var file struct {
		Read, Dismiss []struct {
			hexed
			IDs  []string
			UpTo string `json:"up_to"`
		}
		BrokenDismiss []hexed `json:"broken_dismiss"`
	}
	vectors(t, "read.json", &file)
	s := newServer(t, "tcp")
	dismissed := make(chan imgoclient.Dismiss, 10)
	r := start(t, s, func(cfg *imgoclient.Config) { cfg.OnDismiss = func(d imgoclient.Dismiss) { dismissed <- d } })
	p := s.welcome()
	<-r.live
	for _, v := range file.Read {
		result := make(chan error, 1)
		ids, upTo := parseIDs(t, v.IDs), parseID(t, v.UpTo)
		go func() { result <- r.Read(context.Background(), ids, upTo) }()
		packet := p.expect(raw.OpRead)
		seq := packet.Seq
		want := unhex(t, v.Hex)
		if packet.Seq = int32(binary.BigEndian.Uint32(want[12:])); !slices.Equal(raw.AppendPacket(nil, packet), want) {
			t.Errorf("%s: %+v", v.Name, packet)
		}
		p.send(raw.OpReadReply, seq, 0, "")
		if err := <-result; err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	for _, v := range file.Dismiss {
		if err := p.write(unhex(t, v.Hex)); err != nil {
			t.Fatal(err)
		}
		if diff := diff(imgoclient.Dismiss{IDs: parseIDs(t, v.IDs), UpTo: parseID(t, v.UpTo)}, <-dismissed); diff != "" {
			t.Errorf("%s: %s", v.Name, diff)
		}
	}
	for _, v := range file.BrokenDismiss {
		if err := p.write(unhex(t, v.Hex)); err != nil {
			t.Fatal(err)
		}
		if err := <-r.lost; !errors.Is(err, imgoclient.ErrProtocol) {
			t.Errorf("%s: %v", v.Name, err)
		}
		p = s.welcome()
	}
	r.stop()
	if len(file.Read) == 0 || len(file.Dismiss) == 0 || len(file.BrokenDismiss) == 0 {
		t.Error("there are no vectors")
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
