package logic

import (
	"context"
	"fmt"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/lazyctx"
	"imgo/internal/wait"
)

const (
	// maxRecordUsers and maxRecordBytes bound one record of the kept topic. A
	// body that is larger by itself has a record for each user.
	maxRecordUsers = 1000
	maxRecordBytes = 256 << 10
	// minAppliedPause and maxAppliedPause bound the pause before the owners are
	// asked again whether they have applied a push with a key.
	minAppliedPause = time.Millisecond
	maxAppliedPause = 50 * time.Millisecond
)

// pushKept pushes to mailboxes: one group of records, durable when it returns.
func (h *pushHandler) pushKept(ctx context.Context, c *PushCommand) (*PushResult, error) {
	all := h.owners.targets(c.Users)
	found, err := h.lookupKept(ctx, all, c.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	result := &PushResult{Users: make([]UserResult, len(all.users))}
	for i, user := range all.users {
		u := found[user]
		result.Users[i] = UserResult{User: user, Sessions: len(u.GetSessions()), Unknown: u == nil}
		if id := u.GetAppliedId(); id != 0 && c.IdempotencyKey != "" {
			result.Users[i].ID, result.Users[i].Duplicate = id, true
			continue
		}
		result.Users[i].Dropped, result.Users[i].Refused = int(u.GetOverflow()), u.GetRefused()
	}
	todo := accepting(all, result.Users)
	if len(todo.users) == 0 && !slices.ContainsFunc(result.Users, func(r UserResult) bool { return r.Duplicate }) {
		if full := slices.IndexFunc(result.Users, func(r UserResult) bool { return r.Refused }); full >= 0 {
			return nil, &envelope.Error{Code: envelope.CodeMailboxFull, Field: "users",
				Message: fmt.Sprintf("has %q, for whom as many messages wait as are allowed", result.Users[full].User)}
		}
	}
	records, err := h.keptRecords(c, todo)
	if err != nil {
		return nil, err
	}
	if err := h.appendKept(ctx, records); err != nil {
		return nil, err
	}
	resultOf := resultsByUser(result.Users)
	for _, r := range records {
		for _, user := range r.users {
			resultOf(user).ID = r.id
		}
	}
	if c.IdempotencyKey != "" {
		if err := h.waitApplied(ctx, c.IdempotencyKey, todo, resultOf); err != nil {
			return nil, err
		}
	}
	result.Duplicate = true
	for _, u := range result.Users {
		if !u.Duplicate {
			result.Duplicate = false
		}
		if !u.Duplicate && !u.Refused {
			result.Sessions += u.Sessions
		}
	}
	return result, nil
}

// accepting returns those of all whose result, at the same place, is neither a
// duplicate nor a refusal.
func accepting(all targets, results []UserResult) targets {
	if !slices.ContainsFunc(results, func(r UserResult) bool { return r.Duplicate || r.Refused }) {
		return all
	}
	var todo targets
	for i := range results {
		if !results[i].Duplicate && !results[i].Refused {
			todo.add(all.users[i], all.partitions[i])
		}
	}
	return todo
}

// resultsByUser returns a function that finds a user's result.
func resultsByUser(results []UserResult) func(user string) *UserResult {
	if len(results) == 1 { // as in most pushes
		return func(string) *UserResult { return &results[0] }
	}
	at := make(map[string]int, len(results))
	for i := range results {
		at[results[i].User] = i
	}
	return func(user string) *UserResult { return &results[at[user]] }
}

// lookupKept asks who is there and, with an idempotency key, who was reached
// with it before.
//
// Without a key the push goes on when owners do not answer in time. It needs the log
// alone, and a caller that is refused has no safe way to repeat it. With a key it does
// not go on: the answer could be untrue, and repeating is safe.
func (h *pushHandler) lookupKept(ctx context.Context, t targets, key string) (map[string]*envelope.UserSessions, error) {
	if key != "" {
		return h.owners.lookup(ctx, t, want{key: key, kept: true})
	}
	short, cancel := lazyctx.Timeout(ctx, timeoutFor(h.cfg.LookupTimeout, len(t.users)))
	defer cancel()
	found, err := h.owners.lookup(short, t, want{kept: true})
	if err == nil {
		return found, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	h.metrics.unlooked.Add(float64(len(t.users) - len(found)))
	h.warn.log(err, "a kept push goes on without knowing who is there")
	return found, nil
}

// keptRecord is one record of a push and the users that it is for.
type keptRecord struct {
	users []string
	entry envelope.Entry
	id    uint64 // of the message, once the record is in the log
}

// keptRecords returns the encoded records of a push.
func (h *pushHandler) keptRecords(c *PushCommand, t targets) ([]keptRecord, error) {
	ttl := c.TTL
	if ttl == 0 {
		ttl = h.cfg.DefaultTTL
	}
	now := h.now()
	expires := now.Add(ttl).UnixMilli()
	report := h.reportOf(c, now)
	records := groupKept(c, t)
	for i := range records {
		value, err := encodeRecord(&envelope.Record{Push: &envelope.Push{
			Users: records[i].users, Op: c.Op, Body: c.Body, ExpiresMs: expires, IdempotencyKey: c.IdempotencyKey, Caller: c.Caller,
			Report: report,
		}}, now)
		if err != nil {
			return nil, err
		}
		records[i].entry.Value = value
	}
	return records, nil
}

// groupKept decides which users share a record: those of one partition, within
// the bounds of a record.
func groupKept(c *PushCommand, t targets) []keptRecord {
	if len(t.users) == 1 { // as in most pushes
		return []keptRecord{{users: t.users, entry: envelope.Entry{Partition: t.partitions[0]}}}
	}
	// base is the bytes of a record without its users. The 96 cover ids, times
	// and lengths.
	base := len(c.Body) + len(c.IdempotencyKey) + len(c.Ref) + 96
	var records []keptRecord
	type filling struct{ record, size int }
	open := make(map[int32]filling) // the record of a partition that has room
	for i, user := range t.users {
		p := t.partitions[i]
		f, has := open[p]
		bytes := len(user) + 4 // with its tag and length
		if !has || len(records[f.record].users) == maxRecordUsers || f.size+bytes > maxRecordBytes {
			f = filling{record: len(records), size: base}
			records = append(records, keptRecord{entry: envelope.Entry{Partition: p}})
		}
		records[f.record].users = append(records[f.record].users, user)
		f.size += bytes
		open[p] = f
	}
	return records
}

// appendKept appends records in one group and gives them their ids.
func (h *pushHandler) appendKept(ctx context.Context, records []keptRecord) error {
	if len(records) == 0 {
		return nil
	}
	entries := make([]envelope.Entry, len(records))
	for i, r := range records {
		entries[i] = r.entry
	}
	if err := h.kept.log.AppendMany(ctx, entries); err != nil {
		return appended("append the push", err)
	}
	for i := range records {
		records[i].id = envelope.ID(h.kept.log.Generation(), entries[i].Offset)
	}
	return nil
}

// waitApplied waits until the owners have applied a push with an idempotency
// key, and puts the message that the key made for each user into its result.
//
// Two pushes with one key are both in the log when they ran side by side, or
// when the caller of the first was told of an error. The owner voids the later
// one, and only the owner can say which that is. When it does not say so in
// time the push is refused, although it is in the log: the message's id is not
// known, and repeating is safe.
func (h *pushHandler) waitApplied(ctx context.Context, key string, t targets, resultOf func(user string) *UserResult) error {
	pause := wait.Backoff{Min: minAppliedPause, Max: maxAppliedPause}
	for len(t.users) > 0 {
		if pause.Sleep(ctx) != nil {
			return envelope.Errorf(envelope.CodeUnavailable,
				"the push is in the log, but the owner of user %q did not say in time which message its idempotency key made: "+
					"repeat it with the same key", t.users[0])
		}
		found, err := h.owners.lookup(ctx, t, want{key: key})
		var left targets
		for i, user := range t.users {
			id := found[user].GetAppliedId()
			if id == 0 {
				left.add(user, t.partitions[i])
				continue
			}
			if r := resultOf(user); r.ID != id {
				r.ID, r.Duplicate = id, true
			}
		}
		if err != nil && len(left.users) > 0 {
			return attempted("see which push used an idempotency key first", err)
		}
		t = left
	}
	return nil
}
