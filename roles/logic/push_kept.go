package logic

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
	"imgo/internal/lazyctx"
)

const (
	// maxRecordUsers and maxRecordBytes bound one record of the kept topic. A
	// body that is larger by itself has a record for each user.
	maxRecordUsers = 1000
	maxRecordBytes = 256 << 10
	// firstApplied and maxApplied are how long a keyed push waits before it
	// asks the owners whether they have applied it.
	firstApplied = time.Millisecond
	maxApplied   = 50 * time.Millisecond
)

// pushKept pushes to mailboxes: one group of records, durable when it returns.
func (l *Logic) pushKept(ctx context.Context, c *PushCommand) (*PushResult, error) {
	users := unique(c.Users)
	found, err := l.lookupKept(ctx, users, c.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	result := &PushResult{Users: make([]UserResult, len(users))}
	place := places(users)
	todo := make([]string, 0, len(users))
	for i, user := range users {
		u := found[user]
		result.Users[i] = UserResult{User: user, Sessions: len(u.GetSessions()), Unknown: u == nil}
		if id := u.GetAppliedId(); id != 0 && c.IdempotencyKey != "" {
			result.Users[i].ID, result.Users[i].Duplicate = id, true
		} else {
			todo = append(todo, user)
		}
	}
	records, err := l.keptRecords(c, todo)
	if err != nil {
		return nil, err
	}
	if err := l.appendKept(ctx, records); err != nil {
		return nil, err
	}
	for _, r := range records {
		for _, user := range r.users {
			result.Users[place(user)].ID = r.id
		}
	}
	if c.IdempotencyKey != "" {
		err := l.settleKept(ctx, c.IdempotencyKey, todo, func(user string, applied uint64) {
			if r := &result.Users[place(user)]; r.ID != applied {
				r.ID, r.Duplicate = applied, true
			}
		})
		if err != nil {
			return nil, err
		}
	}
	result.Duplicate = true
	for _, u := range result.Users {
		if !u.Duplicate {
			result.Duplicate = false
			result.Sessions += u.Sessions
		}
	}
	return result, nil
}

// places says where each user is in a list that has each once.
func places(users []string) func(user string) int {
	if len(users) == 1 { // most pushes
		return func(string) int { return 0 }
	}
	at := make(map[string]int, len(users))
	for i, user := range users {
		at[user] = i
	}
	return func(user string) int { return at[user] }
}

// lookupKept asks who is there, and with an idempotency key who has it already.
//
// Without a key the push goes on when owners do not answer in time: it needs
// the log alone, and a caller that is refused has no safe way to repeat it.
// With one it does not: the answer could be untrue, and repeating is safe.
func (l *Logic) lookupKept(ctx context.Context, users []string, key string) (map[string]*envelope.UserSessions, error) {
	if key != "" {
		return l.lookup(ctx, users, key, false)
	}
	short, cancel := lazyctx.Timeout(ctx, l.cfg.LookupTimeout)
	defer cancel()
	found, err := l.lookup(short, users, "", false)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		l.metrics.unlooked.Add(float64(len(users) - len(found)))
		l.trouble(err, "a kept push goes on without knowing who is there")
		return found, nil
	}
	return found, nil
}

// keptRecord is one record and whom it is for.
type keptRecord struct {
	users []string
	entry envelope.Entry
	id    uint64
}

// keptRecords makes the records: users of one partition share one, within the
// bounds of a record.
func (l *Logic) keptRecords(c *PushCommand, users []string) ([]keptRecord, error) {
	ttl := c.TTL
	if ttl == 0 {
		ttl = l.cfg.DefaultTTL
	}
	now := l.now()
	records := l.groupKept(c, users)
	for i := range records {
		record := &envelope.Record{
			Id: envelope.NewRecordID(), TimeMs: now.UnixMilli(),
			Push: &envelope.Push{
				Users: records[i].users, Op: c.Op, Body: c.Body,
				ExpiresMs: now.Add(ttl).UnixMilli(), IdempotencyKey: c.IdempotencyKey,
			},
		}
		value, err := record.MarshalVT()
		if err != nil {
			return nil, fmt.Errorf("encode the push: %w", err)
		}
		records[i].entry.Value = value
	}
	return records, nil
}

// groupKept says which users share which record.
func (l *Logic) groupKept(c *PushCommand, users []string) []keptRecord {
	if len(users) == 1 { // most pushes
		return []keptRecord{{users: users, entry: envelope.Entry{Partition: l.partition(users[0])}}}
	}
	// What a record weighs without its users; 64 covers ids, times and lengths.
	base := len(c.Body) + len(c.IdempotencyKey) + 64
	var records []keptRecord
	type filling struct{ record, size int }
	open := make(map[int32]filling) // the record of a partition that has room
	for _, user := range users {
		p := l.partition(user)
		f, has := open[p]
		weight := len(user) + 4 // with its tag and length
		if !has || len(records[f.record].users) == maxRecordUsers || f.size+weight > maxRecordBytes {
			f = filling{record: len(records), size: base}
			records = append(records, keptRecord{entry: envelope.Entry{Partition: p}})
		}
		records[f.record].users = append(records[f.record].users, user)
		f.size += weight
		open[p] = f
	}
	return records
}

// appendKept appends records in one group and gives them their ids.
func (l *Logic) appendKept(ctx context.Context, records []keptRecord) error {
	if len(records) == 0 {
		return nil
	}
	entries := make([]envelope.Entry, len(records))
	for i, r := range records {
		entries[i] = r.entry
	}
	if err := l.kept.AppendMany(ctx, entries); err != nil {
		return appending("append the push", err)
	}
	for i := range records {
		records[i].id = envelope.ID(l.kept.Generation(), entries[i].Offset)
	}
	return nil
}

// settleKept waits until the owners have applied a push with an idempotency
// key to users and says which message the key made for each. Two pushes with
// one key are both in the log when they ran side by side, or when the first
// was appended after its caller had been told otherwise; the owner voids the
// later: only it can say which one that is. When it does not say in time the
// push is refused, although it is in the log: the id of the message is not
// known, and repeating is safe.
func (l *Logic) settleKept(ctx context.Context, key string, users []string, applied func(user string, id uint64)) error {
	for wait := firstApplied; len(users) > 0; wait = min(2*wait, maxApplied) {
		if !pause(ctx, wait) {
			return envelope.Errorf(envelope.CodeUnavailable,
				"the push is in the log, but the owner of user %q did not say in time which message its idempotency key made: repeat it with the same key", users[0])
		}
		found, err := l.lookup(ctx, users, key, false)
		var left []string
		for _, user := range users {
			if id := found[user].GetAppliedId(); id != 0 {
				applied(user, id)
			} else {
				left = append(left, user)
			}
		}
		if err != nil && len(left) > 0 {
			return attempted("see which push used an idempotency key first", err)
		}
		users = left
	}
	return nil
}
