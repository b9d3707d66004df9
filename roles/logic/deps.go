package logic

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic/auth"
)

// Router is the owner of some partitions, as logic calls it. An error with
// envelope.ErrUnavailable or envelope.ErrNotReady means that the question may be
// asked again, perhaps of another router. Every call but Take may be repeated.
type Router interface {
	// Attach registers a session, then reads what is pending for it.
	Attach(ctx context.Context, r *envelope.AttachRequest) (*envelope.AttachReply, error)
	// Detach forgets sessions.
	Detach(ctx context.Context, r *envelope.DetachRequest) error
	// CatchUp reads what is pending for a session after its last id.
	CatchUp(ctx context.Context, r *envelope.CatchUpRequest) (*envelope.Backlog, error)
	// Lookup returns which sessions users (or session keys) have, and whether an
	// idempotency key was applied for the users.
	Lookup(ctx context.Context, r *envelope.LookupRequest) (*envelope.LookupReply, error)
	// Announce takes a comet's sign of life.
	Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	// User returns everything that is known of one user.
	User(ctx context.Context, r *envelope.UserRequest) (*envelope.UserReply, error)
	// Take reads and acknowledges the default cursor, as the 2016 store did.
	Take(ctx context.Context, r *envelope.TakeRequest) (*envelope.TakeReply, error)
	// Claim reports, once the record with the id was applied, whether it was the
	// first with its key.
	Claim(ctx context.Context, r *envelope.ClaimRequest) (*envelope.ClaimReply, error)
	// Memberships returns the rooms that callers have put a user into, and the
	// user's sessions, once the owner has applied a record.
	Memberships(ctx context.Context, r *envelope.MembershipsRequest) (*envelope.MembershipsReply, error)
	// Messages returns messages that wait for a user.
	Messages(ctx context.Context, r *envelope.MessagesRequest) (*envelope.MessagesReply, error)
	// Remove takes away what is known of a user.
	Remove(ctx context.Context, r *envelope.RemoveRequest) (*envelope.RemoveReply, error)
	// Forget drops the sessions of a comet.
	Forget(ctx context.Context, r *envelope.ForgetRequest) (*envelope.ForgetReply, error)
}

// Routers finds the owners of the moment. Safe for concurrent use.
type Routers interface {
	// Owner returns the owner of a partition, or envelope.ErrUnavailable if there
	// is none. The same node is the same (comparable) Router every time.
	Owner(partition int32) (Router, error)
	// All returns all routers, each once.
	All() []Router
	// Partitions is how many partitions there are; it never changes.
	Partitions() int32
}

// KeptLog is the kept topic of the log as logic writes it. Safe for concurrent
// use.
type KeptLog interface {
	// Partitions is how many partitions there are; it never changes.
	Partitions() int32
	// Generation is the high part of the ids (envelope.ID).
	Generation() uint16
	// AppendMany returns once every entry is durable and has its Offset, or with
	// one error for the whole call (some entries may be there all the same).
	AppendMany(ctx context.Context, entries []envelope.Entry) error
	// AppendEssential appends one record that must pass although the disk's
	// reserve is reached, because it helps to free space.
	AppendEssential(ctx context.Context, partition int32, value []byte) (offset int64, err error)
}

// LiveLog is the live topic of the log as logic writes it. Safe for concurrent
// use.
type LiveLog interface {
	// Partitions is how many partitions there are; it never changes.
	Partitions() int32
	// AppendMany appends every entry in order, or returns one error for the whole
	// call (some entries may be there all the same).
	AppendMany(ctx context.Context, entries []envelope.Entry) error
}

// Comet is one comet as logic calls it.
type Comet interface {
	Rooms(ctx context.Context, r *envelope.RoomsRequest) (*envelope.RoomsReply, error)
	// Members tells sessions of one user a change of its memberships. It returns
	// once they are in the rooms, or have left them.
	Members(ctx context.Context, r *envelope.MembersRequest) (*envelope.MembersReply, error)
}

// Comets finds the comets of the moment. Safe for concurrent use.
type Comets interface {
	// All returns all comets by name.
	All() map[string]Comet
}

// Authenticator decides who a client is: package auth has four. Safe for
// concurrent use.
type Authenticator interface {
	// Authenticate returns the identity of a client that sent a token and mid
	// (goim's name for the user. Empty means none). The error for a bad token is an
	// *envelope.Error whose message has no part of the token.
	Authenticate(ctx context.Context, token, mid string) (auth.Identity, error)
	// Recheck returns an error if the token that an identity comes from was
	// revoked since.
	Recheck(ctx context.Context, id auth.Identity) error
	// Verifies reports whether a token of this form is checked by its
	// signature. It is then never looked up in the token store.
	Verifies(token string) bool
	// Ready returns an error while Authenticate cannot tell valid tokens from others.
	Ready() error
	// Run keeps what Authenticate needs up to date until ctx is done.
	Run(ctx context.Context)
}

// TokenStore keeps opaque tokens by their SHA-256. Safe for concurrent use.
type TokenStore interface {
	// Put stores a token of a user. single revokes all other tokens of the user.
	Put(ctx context.Context, hash [32]byte, token envelope.Token, single bool) error
	auth.TokenStore
	// Revoke revokes one token, if check returns no error for its user, and returns the user, also if the token
	// is revoked already. It returns envelope.ErrNotFound if there is none.
	Revoke(ctx context.Context, hash [32]byte, check func(user string) error) (user string, err error)
	// List returns the valid tokens of a user, oldest first.
	List(ctx context.Context, user string) ([]envelope.TokenInfo, error)
	// RevokeUser revokes all tokens of a user and counts them.
	RevokeUser(ctx context.Context, user string) (int, error)
}

// RecordVersions says whether records of a newer version may be appended.
type RecordVersions interface {
	// Require returns nil once all nodes read records of the version. It returns an
	// envelope.ErrUpgradeUnfinished that names the nodes that do not.
	Require(ctx context.Context, version uint32) error
}

// Deps is what logic works with. All but Records, Metrics and Now must be given.
type Deps struct {
	Routers Routers
	Kept    KeptLog
	Live    LiveLog
	Comets  Comets
	Tokens  TokenStore
	// Records is asked before a record of a newer version is appended. If it is nil, all nodes read all.
	Records RecordVersions
	Log     zerolog.Logger
	// Metrics registers the metrics. If it is nil, nothing is registered.
	Metrics prometheus.Registerer
	// Now is the wall clock. If it is nil, time.Now is used.
	Now func() time.Time
}

// shared is what all handlers work with.
type shared struct {
	cfg     Config
	life    *lifecycle
	owners  *owners
	kept    *keptWriter
	live    *publisher
	kicker  *kicker
	comets  *cometSurvey
	tokens  TokenStore
	metrics *metrics
	warn    *warnings
	log     zerolog.Logger
	now     clock
}

// check returns an error for what is missing or does not fit together.
func (d Deps) check() error {
	for _, dep := range []struct {
		name    string
		missing bool
	}{
		{"Routers", d.Routers == nil}, {"Kept", d.Kept == nil}, {"Live", d.Live == nil},
		{"Comets", d.Comets == nil}, {"Tokens", d.Tokens == nil},
	} {
		if dep.missing {
			return fmt.Errorf("logic: Deps.%s is missing", dep.name)
		}
	}
	if have, want := d.Routers.Partitions(), d.Kept.Partitions(); have != want || want <= 0 {
		return fmt.Errorf("logic: routers have %d partitions and the kept log %d: they must be equal and positive", have, want)
	}
	if d.Live.Partitions() <= 0 {
		return fmt.Errorf("logic: the live log has %d partitions", d.Live.Partitions())
	}
	return nil
}
