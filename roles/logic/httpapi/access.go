package httpapi

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"imgo/envelope"
	"imgo/internal/glob"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Scope is a right that an API key may have. Each route needs one.
type Scope = httpcall.Scope

// ScopeAdmin is the scope for changes of the cluster and for profiles.
const ScopeAdmin = httpcall.ScopeAdmin

// Scopes returns every scope that a key may have.
func Scopes() []Scope {
	return []Scope{httpcall.ScopePush, httpcall.ScopeRead, httpcall.ScopeUsers, httpcall.ScopeTokens, httpcall.ScopeRooms, httpcall.ScopeAdmin}
}

// allows says what a scope lets its key do.
var allows = map[Scope]string{
	httpcall.ScopePush:   "push messages",
	httpcall.ScopeRead:   "see users, rooms, nodes and events",
	httpcall.ScopeUsers:  "close sessions and take messages",
	httpcall.ScopeTokens: "make and revoke tokens",
	httpcall.ScopeRooms:  "put users into rooms",
	httpcall.ScopeAdmin:  "change the cluster and read profiles of the process",
}

// Check calls refuse with what is wrong with the scopes and patterns of the key, and the fix.
func (k *Key) Check(refuse func(wrong, fix string)) {
	for _, scope := range k.Scopes {
		if !slices.Contains(Scopes(), Scope(scope)) {
			refuse(fmt.Sprintf("has the scope %q, which does not exist", scope), "choose from "+scopeList(Scopes()))
		}
	}
	for _, pattern := range slices.Concat(k.Users, k.Rooms) {
		if err := envelope.CheckName("pattern", pattern); err != nil {
			refuse(fmt.Sprintf("has the pattern %q", pattern), err.Error())
		}
	}
	switch limited := len(k.Users)+len(k.Rooms) > 0; {
	case limited && len(k.Scopes) == 0:
		refuse("has patterns of users or rooms, but no scopes", `list what it may do, such as scopes = ["push"]`)
	case limited && slices.Contains(k.Scopes, string(httpcall.ScopeAdmin)):
		refuse("has the scope admin and patterns of users or rooms, but an admin sees everything", "give the two to different keys")
	}
}

// Explain says in one line what the key may do.
func (k *Key) Explain() string {
	if len(k.Scopes) == 0 {
		return fmt.Sprintf("API key %q may do everything, since it has no scopes", k.Name)
	}
	var rights []string
	for _, scope := range k.Scopes {
		rights = append(rights, fmt.Sprintf("%s (%s)", allows[Scope(scope)], scope))
	}
	line := fmt.Sprintf("API key %q may %s", k.Name, join(rights))
	var only []string
	for _, kind := range []struct {
		name     string
		patterns []string
	}{{"users", k.Users}, {"rooms", k.Rooms}} {
		if len(kind.patterns) > 0 {
			only = append(only, kind.name+" "+strings.Join(kind.patterns, ", "))
		}
	}
	if len(only) > 0 {
		line += ", but only of " + join(only)
	}
	return line
}

// join lists parts as a sentence does.
func join(parts []string) string {
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	last := len(parts) - 1
	return strings.Join(parts[:last], ", ") + " and " + parts[last]
}

func scopeList(scopes []Scope) string {
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// checkScope returns an error that names the scope if the caller does not have it.
// The caller may be nil.
func (c *caller) checkScope(s Scope) error {
	if c == nil || len(c.scopes) == 0 || slices.Contains(c.scopes, s) {
		return nil
	}
	return c.forbidden("lacks the scope %q, which this call needs", s)
}

// limited reports whether patterns limit the users and rooms that the caller may name.
func (c *caller) limited() bool { return c != nil && len(c.users)+len(c.rooms) > 0 }

// forbidden returns the error of a call that the caller's key does not permit.
func (c *caller) forbidden(format string, args ...any) error {
	return &envelope.Error{Code: httpcall.CodeForbidden, Field: "Authorization",
		Message: fmt.Sprintf("has the API key %q, which ", c.name) + fmt.Sprintf(format, args...)}
}

// checkUser returns an error if the caller may not name a user. The caller may be nil.
func (c *caller) checkUser(user string) error {
	if !c.limited() || glob.Any(c.users, user) {
		return nil
	}
	return c.forbidden("may not name the user %q", user)
}

// checkRoom returns an error if the caller may not name a room. The caller may be nil.
func (c *caller) checkRoom(room string) error {
	if !c.limited() || glob.Any(c.rooms, room) {
		return nil
	}
	return c.forbidden("may not name the room %q", room)
}

// checkAll refuses what concerns more than the users and rooms of the caller, which may be nil.
func (c *caller) checkAll(what string) error {
	if !c.limited() {
		return nil
	}
	return c.forbidden("has patterns of users or rooms, so that it may not %s", what)
}

// callerKey is the key of a limited caller in the context of its request.
type callerKey struct{}

// limitedCaller returns the caller of a request, nil if no patterns limit it.
func limitedCaller(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// service is Service, under a name that does not make the guard's own exported.
type service = Service

// guard is the Service for the callers of all APIs. It compares users and rooms with the patterns of the
// caller's key where route.checkNames cannot, because the call does not name them in its path or query.
type guard struct{ service }

func (g guard) Push(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
	if err := limitedCaller(ctx).checkPush(cmd); err != nil {
		return nil, err
	}
	return g.service.Push(ctx, cmd)
}

func (c *caller) checkPush(cmd *logic.PushCommand) error {
	switch {
	case !c.limited():
		return nil
	case cmd.All:
		return c.checkAll("push to everybody")
	case cmd.KeyUser != "":
		return c.checkUser(cmd.KeyUser)
	case len(cmd.Keys) > 0: // the users of the sessions are not known here
		return c.checkAll("push to session keys")
	case cmd.Room != "":
		return c.checkRoom(cmd.Room)
	}
	for _, user := range cmd.Users {
		if err := c.checkUser(user); err != nil {
			return err
		}
	}
	return nil
}

func (g guard) Online(ctx context.Context, users []string) (map[string]int, error) {
	for _, user := range users {
		if err := limitedCaller(ctx).checkUser(user); err != nil {
			return nil, err
		}
	}
	return g.service.Online(ctx, users)
}

func (g guard) Take(ctx context.Context, user string, afterMS int64, most int) (*envelope.TakeReply, error) {
	if err := limitedCaller(ctx).checkUser(user); err != nil {
		return nil, err
	}
	return g.service.Take(ctx, user, afterMS, most)
}

// Rooms returns only the rooms that the caller may name.
func (g guard) Rooms(ctx context.Context) (map[string]uint32, error) {
	rooms, err := g.service.Rooms(ctx)
	c := limitedCaller(ctx)
	if err != nil || c == nil {
		return rooms, err
	}
	own := make(map[string]uint32)
	for room, n := range rooms {
		if c.checkRoom(room) == nil {
			own[room] = n
		}
	}
	return own, nil
}

func (g guard) NewToken(ctx context.Context, r logic.TokenRequest) (logic.Token, error) {
	c := limitedCaller(ctx)
	if err := c.checkUser(r.User); err != nil {
		return logic.Token{}, err
	}
	// The rooms may be patterns. A pattern that fits another one as a name does
	// has no room that does not fit, too.
	for _, room := range r.Rooms {
		if err := c.checkRoom(room); err != nil {
			return logic.Token{}, err
		}
	}
	return g.service.NewToken(ctx, r)
}

func (g guard) RevokeUser(ctx context.Context, user string, closeSessions bool) (int, error) {
	if err := limitedCaller(ctx).checkUser(user); err != nil {
		return 0, err
	}
	return g.service.RevokeUser(ctx, user, closeSessions)
}

func (g guard) Grow(ctx context.Context, kept int) (logic.Partitions, error) {
	if err := limitedCaller(ctx).checkAll("add partitions"); err != nil {
		return logic.Partitions{}, err
	}
	return g.service.Grow(ctx, kept)
}

func (g guard) ForgetComet(ctx context.Context, comet string) (int, error) {
	if err := limitedCaller(ctx).checkAll("forget a comet"); err != nil {
		return 0, err
	}
	return g.service.ForgetComet(ctx, comet)
}
