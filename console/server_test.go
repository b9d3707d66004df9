package console_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imgo/console"
)

// frame is one JSON object of protocol version 2.
type frame struct {
	Ver  int             `json:"ver"`
	Op   int32           `json:"op"`
	Seq  int32           `json:"seq"`
	ID   string          `json:"id,omitempty"`
	Body json.RawMessage `json:"body"`
}

// kept is one message of a mailbox.
type kept struct {
	id   uint64
	body json.RawMessage
}

// session is one WebSocket connection of a client.
type session struct {
	user, device string
	out          chan []frame
	rooms        map[string]bool
	end          context.CancelFunc
}

// fakeServer stands in for an imgo server for the page. It has the API calls that the page uses,
// and speaks the JSON frames of protocol version 2. On every reconnect it repeats one acknowledged
// message.
type fakeServer struct {
	*httptest.Server
	apiKey   string // the key that callers must send; empty: none
	close    frame  // the answer to every auth, if Op is not 0
	believes bool   // every token is taken as the user name, as with auth.mode none
	noTokens bool   // POST /v1/tokens is refused

	mu       sync.Mutex
	nextID   uint64
	boxes    map[string][]kept          // by user
	acked    map[string]map[uint64]bool // by user and device
	sessions map[*session]bool
	tokens   map[string]string // token to user
	wg       sync.WaitGroup
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{
		nextID: 1<<48 - 1, boxes: map[string][]kept{}, acked: map[string]map[uint64]bool{},
		sessions: map[*session]bool{}, tokens: map[string]string{},
	}
	mux := http.NewServeMux()
	mux.Handle("/", console.Handler(console.Options{Version: "dev-0123456789ab+changes"}))
	mux.HandleFunc("POST /v1/tokens", s.api(s.token))
	mux.HandleFunc("GET /v1/nodes", s.api(s.nodes))
	mux.HandleFunc("POST /v1/push", s.api(s.push))
	mux.HandleFunc("/sub", s.subscribe)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.stop)
	return s
}

// drop ends all connections of clients.
func (s *fakeServer) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		c.end()
	}
}

// stop ends all connections and the server.
func (s *fakeServer) stop() {
	s.drop()
	s.wg.Wait()
	s.CloseClientConnections()
	s.Close()
}

// api turns a call that returns a status and a JSON value into a handler.
func (s *fakeServer) api(call func(r *http.Request) (int, any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, answer := http.StatusUnauthorized, any(map[string]any{"error": map[string]string{"code": "unauthorized",
			"message": "the API key is missing"}})
		if s.apiKey == "" || r.Header.Get("X-API-Key") == s.apiKey {
			status, answer = call(r)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func (s *fakeServer) token(r *http.Request) (int, any) {
	if s.noTokens {
		return http.StatusNotFound, map[string]any{"error": map[string]string{"code": "not_found", "message": "no tokens are made here"}}
	}
	var req struct{ User, TTL string }
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.User == "" || req.TTL != "1h" {
		return http.StatusBadRequest, map[string]any{"error": map[string]string{"code": "invalid", "field": "user", "message": "user is missing"}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := "token-" + strconv.Itoa(len(s.tokens))
	s.tokens[token] = req.User
	return http.StatusCreated, map[string]any{"token": token, "user": req.User, "expires_ms": time.Now().Add(time.Hour).UnixMilli()}
}

func (s *fakeServer) nodes(r *http.Request) (int, any) {
	return http.StatusOK, map[string]any{"nodes": []any{
		map[string]any{"name": "n1", "ready": true, "clients": map[string]string{"tcp": ":8080", "ws": "ws://" + r.Host + "/sub"}},
	}}
}

func (s *fakeServer) push(r *http.Request) (int, any) {
	var req struct {
		User, Room string
		All, Kept  bool
		Body       json.RawMessage
		BodyText   *string `json:"body_text"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return http.StatusBadRequest, map[string]any{"error": map[string]string{"code": "invalid", "field": "body", "message": err.Error()}}
	}
	if req.BodyText != nil {
		req.Body, _ = json.Marshal(*req.BodyText)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := frame{Ver: 2, Op: 5, ID: "0", Body: req.Body}
	if req.Kept {
		s.nextID++
		f.ID = strconv.FormatUint(s.nextID, 10)
		s.boxes[req.User] = append(s.boxes[req.User], kept{s.nextID, req.Body})
	}
	n := 0
	for c := range s.sessions {
		if req.All || (req.Room != "" && c.rooms[req.Room]) || (req.User != "" && c.user == req.User) {
			c.out <- []frame{f}
			n++
		}
	}
	answer := map[string]any{"sessions": n}
	if req.User != "" {
		answer["id"], answer["user"] = f.ID, req.User
	}
	return http.StatusAccepted, answer
}

func (s *fakeServer) subscribe(w http.ResponseWriter, r *http.Request) {
	s.wg.Add(1)
	defer s.wg.Done()
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &session{out: make(chan []frame, 1000), rooms: map[string]bool{}, end: cancel}
	auth, ok := read(ctx, ws)
	if !ok || auth.Op != 7 || auth.Ver != 2 {
		return
	}
	if s.close.Op != 0 {
		_ = write(ctx, ws, []frame{s.close})
		return
	}
	if !s.attach(c, auth) {
		_ = write(ctx, ws, []frame{{Ver: 2, Op: 6, Body: json.RawMessage(`{"code":3501,"reason":"auth failed","reconnect":false}`)}})
		return
	}
	defer s.detach(c)
	s.wg.Go(func() {
		for {
			select {
			case frames := <-c.out:
				if write(ctx, ws, frames) != nil {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		f, ok := read(ctx, ws)
		if !ok {
			return
		}
		s.handle(c, f)
	}
}

// attach registers the session and queues its auth reply and its backlog.
func (s *fakeServer) attach(c *session, auth frame) bool {
	var body struct {
		Token, Device string
		Ack           bool
		Rooms         []string
	}
	if err := json.Unmarshal(auth.Body, &body); err != nil || !body.Ack {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	user, ok := s.tokens[body.Token]
	if s.believes {
		user, ok = body.Token, true
	}
	if !ok {
		return false
	}
	c.user, c.device = user, body.Device
	for _, room := range body.Rooms {
		c.rooms[room] = true
	}
	var pending, again []frame
	for _, m := range s.boxes[user] {
		f := frame{Ver: 2, Op: 5, ID: strconv.FormatUint(m.id, 10), Body: m.body}
		if s.acked[user+"\n"+body.Device][m.id] {
			again = []frame{f}
		} else {
			pending = append(pending, f)
		}
	}
	reply, _ := json.Marshal(map[string]any{"session": "n1-" + strconv.Itoa(len(s.tokens)), "user": user, "heartbeat": 60,
		"pending": len(pending)})
	c.out <- []frame{{Ver: 2, Op: 8, Seq: auth.Seq, Body: reply}}
	if frames := append(again, pending...); len(frames) > 0 {
		c.out <- frames
	}
	s.sessions[c] = true
	return true
}

func (s *fakeServer) detach(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, c)
}

func (s *fakeServer) handle(c *session, f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var room string
	switch f.Op {
	case 2:
		c.out <- []frame{{Ver: 2, Op: 3, Seq: f.Seq, Body: json.RawMessage(`{}`)}}
	case 18:
		var ids []string
		_ = json.Unmarshal(f.Body, &ids)
		key := c.user + "\n" + c.device
		if s.acked[key] == nil {
			s.acked[key] = map[uint64]bool{}
		}
		for _, text := range ids {
			id, _ := strconv.ParseUint(text, 10, 64)
			s.acked[key][id] = true
		}
	case 20, 22:
		_ = json.Unmarshal(f.Body, &room)
		if room == "private" {
			c.out <- []frame{{Ver: 2, Op: 28, Seq: f.Seq, Body: json.RawMessage(`{"op":20,"code":"forbidden","reason":"a rule"}`)}}
			return
		}
		c.rooms[room] = f.Op == 20
		c.out <- []frame{{Ver: 2, Op: f.Op + 1, Seq: f.Seq, Body: json.RawMessage(`{}`)}}
	}
}

// takeOut takes everybody out of a room.
func (s *fakeServer) takeOut(room string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		delete(c.rooms, room)
		c.out <- []frame{{Ver: 2, Op: 29, Body: json.RawMessage(fmt.Sprintf(`{"room":%q,"joined":false,"reason":"closed"}`, room))}}
	}
}

// flood pushes n live messages to everybody.
func (s *fakeServer) flood(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		for i := range n {
			c.out <- []frame{{Ver: 2, Op: cmp.Or(int32(i%2)*1000, 5), ID: "0", Body: json.RawMessage(strconv.Itoa(i + 1))}}
		}
	}
}

func read(ctx context.Context, ws *websocket.Conn) (frame, bool) {
	var f frame
	kind, data, err := ws.Read(ctx)
	if err != nil || kind != websocket.MessageText || json.Unmarshal(data, &f) != nil {
		return f, false
	}
	return f, true
}

func write(ctx context.Context, ws *websocket.Conn, frames []frame) error {
	data, err := json.Marshal(frames)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return ws.Write(ctx, websocket.MessageText, data)
}
