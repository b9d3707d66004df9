package logic

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"imgo/envelope"
	"imgo/internal/glob"
	"imgo/internal/settings"
	"imgo/roles/logic/auth"
)

// The values of RoomRule.Join.
const (
	// JoinAny lets every authenticated client join.
	JoinAny = "any"
	// JoinToken lets a client join that has the room, or a pattern of it, in its token.
	JoinToken = "token"
	// JoinBackend lets no client join: only the API puts users into the room.
	JoinBackend = "backend"
	// JoinWebhook asks the operator's backend about each join.
	JoinWebhook = "webhook"
)

// RoomRule says who may join the rooms that fit a pattern.
type RoomRule struct {
	Pattern string `toml:"pattern" example:"\"private/*\"" doc:"The rooms. A star stands for any text."`
	Join    string `toml:"join" choices:"any,token,backend,webhook" example:"\"token\"" doc:"Who may join: any client, one whose token lists the room, none (only the API puts users there), or whom the backend at auth.rooms_webhook_url lets in."`
}

// UnmarshalText reads "pattern:join", as a flag or the environment gives it.
func (r *RoomRule) UnmarshalText(text []byte) error {
	at := bytes.LastIndexByte(text, ':')
	if at < 0 {
		return errors.New("is not a rule for rooms: write pattern:join, such as private/*:token")
	}
	r.Pattern, r.Join = string(text[:at]), string(text[at+1:])
	return nil
}

// RoomRules is the setting [[rooms]]. The first rule whose pattern fits a room
// counts. A room that no rule fits is JoinAny: so it was in imgo 2016 and goim.
type RoomRules struct {
	Rooms []RoomRule `toml:"rooms" unit:"pattern:join, comma-separated, as a flag or in the environment" doc:"Who may join which rooms. The first rule whose pattern fits a room counts. Every authenticated client may join a\nroom that no rule fits. A token lists its rooms in the claim auth.rooms_claim, or as POST /v1/tokens was told. The API\nputs users into any room: PUT /v1/rooms/{room}/users/{user}."`
}

// Check calls refuse for each rule that cannot be used, with what is wrong and the
// fix.
func (r *RoomRules) Check(refuse func(wrong, fix string)) {
	for i, rule := range r.Rooms {
		if err := envelope.CheckName("pattern", rule.Pattern); err != nil {
			refuse(fmt.Sprintf("table %d: the %s", i+1, err), "write the name of a room, or a part of it with a star, such as private/*")
		}
		for _, earlier := range r.Rooms[:i] {
			if earlier.Pattern == "*" || earlier.Pattern == rule.Pattern {
				refuse(fmt.Sprintf("table %d: the pattern %q never counts, because that of an earlier rule, %q, has all of its rooms", i+1,
					rule.Pattern, earlier.Pattern), "put the rule for fewer rooms first")
				break
			}
		}
	}
}

// CheckWebhook calls refuse, with the key, what is wrong and the fix, if the rules and the settings of
// their webhook do not fit together.
func (r *RoomRules) CheckWebhook(cfg *auth.Config, refuse func(key, wrong, fix string)) {
	asks := r.Asks()
	switch {
	case asks && cfg.RoomsWebhook() == "":
		refuse("rooms", `has join = "webhook", but auth.rooms_webhook_url is empty, so nobody could be asked`,
			"set auth.rooms_webhook_url to the address of your backend")
	case !asks && cfg.RoomsWebhookURL != "":
		refuse("auth.rooms_webhook_url", `is given, but no rule of [[rooms]] has join = "webhook"`, "write such a rule, or leave it out")
	}
}

// ExplainRooms returns a line for each rule: which clients join which rooms.
func (r *RoomRules) ExplainRooms(cfg *auth.Config) []string {
	lines := make([]string, len(r.Rooms))
	for i, rule := range r.Rooms {
		who := "every authenticated client may join"
		switch rule.Join {
		case JoinToken:
			who = "a client may join whose token lists the room"
		case JoinBackend:
			who = "only the API puts users in"
		case JoinWebhook:
			who = fmt.Sprintf("%s decides about each client", settings.HideCredentials(cfg.RoomsWebhook()))
		}
		lines[i] = fmt.Sprintf("rooms %q: %s", rule.Pattern, who)
	}
	return lines
}

// Asks reports whether a rule asks the backend.
func (r *RoomRules) Asks() bool {
	return slices.ContainsFunc(r.Rooms, func(rule RoomRule) bool { return rule.Join == JoinWebhook })
}

// join returns who may join a room.
func (r *RoomRules) join(room string) string {
	for i := range r.Rooms {
		if glob.Match(r.Rooms[i].Pattern, room) {
			return r.Rooms[i].Join
		}
	}
	return JoinAny
}

// Open reports whether there are rooms that no rule names.
func (r *RoomRules) Open() bool {
	for i := range r.Rooms {
		if r.Rooms[i].Pattern == "*" {
			return false
		}
	}
	return true
}

// access returns what a session with an identity may join. nil means everything.
func (r *RoomRules) access(id *auth.Identity) *envelope.RoomAccess {
	if len(r.Rooms) == 0 {
		return nil
	}
	return &envelope.RoomAccess{Ruled: true, Rooms: id.Rooms}
}

// check returns an error if a session may not join a room. It is not for rooms that the webhook
// decides about: see askBackend.
func (r *RoomRules) check(room string, access *envelope.RoomAccess) error {
	switch r.join(room) {
	case JoinAny:
		return nil
	case JoinToken:
		if glob.Any(access.GetRooms(), room) {
			return nil
		}
		return refusedRoom(room, "the client's token does not have it")
	}
	return refusedRoom(room, "only the backend puts users into it")
}

func refusedRoom(room, why string) error {
	return &envelope.Error{Code: envelope.CodeForbidden, Field: "room", Message: fmt.Sprintf("%q may not be joined: %s", room, why)}
}

// classify returns the rooms that a session asks for in three groups: those that it may join, those about
// which the backend is to be asked, and those that are refused.
func (r *RoomRules) classify(rooms []string, access *envelope.RoomAccess) (joined, toAsk []string, refused []*envelope.RoomRefusal) {
	for _, room := range rooms {
		if r.join(room) == JoinWebhook {
			toAsk = append(toAsk, room)
			continue
		}
		err := r.check(room, access)
		if err == nil {
			joined = append(joined, room)
			continue
		}
		refused = append(refused, &envelope.RoomRefusal{Room: room, Code: string(envelope.CodeOf(err)), Reason: err.Error()})
	}
	return joined, toAsk, refused
}
